"""The shape of the repository: what would break imports or leave generated files stale."""

import operator
import runpy
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_operator_folder_does_not_shadow_the_standard_library():
    assert not (REPOSITORY / "operator" / "__init__.py").exists()
    assert operator.itemgetter(0)([7]) == 7


def test_the_chart_carries_the_crd_of_the_repository():
    name = "llmservingplans.servingplan.dev.yaml"
    for folder in ("charts/servingplan/crds", "charts/servingplan-crds/files"):
        assert (REPOSITORY / folder / name).read_text() == (REPOSITORY / "crds" / name).read_text()


def test_the_readme_of_the_chart_is_that_of_its_values():
    code = runpy.run_path(str(REPOSITORY / "charts" / "readme.py"))
    assert (REPOSITORY / "charts/servingplan/README.md").read_text() == code["readme"]()


def test_the_readme_of_the_chart_has_every_value_once():
    code = runpy.run_path(str(REPOSITORY / "charts" / "readme.py"))
    text = "# Of a.\na: 1\nb:\n  # Of c:\n  #   x   first\n  #   y   second\n  # More.\n  c: {}\n  d: [1]\n"
    assert [(one.path, one.default, one.comment) for one in code["values"](text)] == [
        ("a", 1, "Of a."),
        ("b.c", {}, "Of c:<br>x first<br>y second<br>More."),
        ("b.d", [1], ""),
    ]


def test_every_make_target_has_a_line_of_help():
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    phony = {name for line in lines if line.startswith(".PHONY:") for name in line.split(":")[1].split()}
    described = {
        name for line in lines if "## " in line and not line.startswith("\t") for name in line.split(":")[0].split()
    }
    assert phony <= described
