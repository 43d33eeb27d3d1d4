"""The shape of the repository: what would break imports or leave generated files stale."""

import operator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_operator_folder_does_not_shadow_the_standard_library():
    assert not (REPOSITORY / "operator" / "__init__.py").exists()
    assert operator.itemgetter(0)([7]) == 7


def test_the_chart_carries_the_crd_of_the_repository():
    name = "llmservingplans.servingplan.dev.yaml"
    assert (REPOSITORY / "charts/servingplan/crds" / name).read_text() == (REPOSITORY / "crds" / name).read_text()


def test_every_make_target_has_a_line_of_help():
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    phony = {name for line in lines if line.startswith(".PHONY:") for name in line.split(":")[1].split()}
    described = {
        name for line in lines if "## " in line and not line.startswith("\t") for name in line.split(":")[0].split()
    }
    assert phony <= described
