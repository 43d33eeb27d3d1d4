"""The documentation: its commands work, its generated pages are those of the code, its pages are short."""

import contextlib
import io
import json
import re
import runpy
import shlex
import shutil
import types
from pathlib import Path

import pytest
import typer.testing
import yaml

from servingplan.cli import app
from servingplan.model.question import question_from_json
from servingplan.solve import solve
from tests.documents import OUTSIDE, REPOSITORY, SHELL, blocks, essential, is_generated, pages

MOST_LINES = 200
REASONS = {
    "long": "a whole suite or benchmark, of minutes",
    "suite": "the tests themselves, and what their runs begin with",
    "release": "what only a release has: signatures, and attestations of origin",
    "Docker": "a local cluster in Docker, and the tool that loads images into it",
    "krew": "krew itself; tests/unit/test_krew.py installs the archive as krew does",
    "wheel": "an installation from a package: RELEASING.md says when it is tried",
}
COSIGN = (
    "cosign verify IMAGE --certificate-identity-regexp 'OWNER/servingplan/.github/workflows/release.yml@refs/tags/v.*' "
    "--certificate-oidc-issuer ISSUER"
)
NOT_RUN = [
    ("README.md", "long", "make demo"),
    ("README.md", "long", "make test"),
    ("CONTRIBUTING.md", "suite", "make setup"),
    ("CONTRIBUTING.md", "suite", "make control-plane"),
    ("CONTRIBUTING.md", "suite", ".venv/bin/pre-commit install"),
    ("CONTRIBUTING.md", "suite", "make image"),
    ("CONTRIBUTING.md", "suite", "make unit"),
    ("CONTRIBUTING.md", "suite", "make histories"),
    ("CONTRIBUTING.md", "suite", "make check"),
    ("CONTRIBUTING.md", "suite", "make test"),
    ("CONTRIBUTING.md", "suite", ".venv/bin/pytest e2e/test_node_lost.py"),
    ("CONTRIBUTING.md", "suite", "make browser"),
    ("CONTRIBUTING.md", "suite", "make real-node"),
    ("CONTRIBUTING.md", "suite", "GRAFANA_HOME=... .venv/bin/pytest tests/contract/test_metrics.py"),
    ("CONTRIBUTING.md", "suite", "E2E_EXISTING=1 KUBECONFIG=... .venv/bin/pytest e2e"),
    ("CONTRIBUTING.md", "suite", "UPDATE_GOLDEN=1 .venv/bin/pytest tests/unit"),
    ("RELEASING.md", "release", COSIGN),
    ("RELEASING.md", "release", "gh attestation verify FILE --repo OWNER/servingplan"),
    ("docs/fleet.md", "long", "python -m benchmarks.fleet"),
    ("docs/fleet.md", "long", "python -m benchmarks.closed_loop FOLDER"),
    ("docs/fleet.md", "long", "python -m benchmarks.drawn_timings 200"),
    ("docs/install.md", "Docker", "make image && kind load image-archive dist/servingplan-0.1.0.tar"),
    ("docs/install.md", "wheel", "pip install servingplan-0.1.0-py3-none-any.whl"),
    ("docs/live.md", "krew", "make krew"),
    (
        "docs/live.md",
        "krew",
        "kubectl krew install --manifest dist/servingplan.yaml --archive dist/kubectl-servingplan-0.1.0.tar.gz",
    ),
    ("docs/uninstall.md", "Docker", "make image && kind load image-archive dist/servingplan-0.1.0.tar"),
]
"""Every command of the documentation that no test runs."""

BLOCKS = list(blocks())
SHELLS = [block for block in BLOCKS if block.language == SHELL]
OFFLINE = [block for block in SHELLS if block.mark is None]
STORIES = [block for block in SHELLS if block.mark is not None and block.mark[0] == "run"]


def test_every_command_is_run_or_listed_with_a_reason():
    marks = {block.mark[0] for block in SHELLS if block.mark is not None}
    assert marks == {"run", "not run"}
    listed = [(b.page, b.mark[1], line) for b in SHELLS if b.mark and b.mark[0] == "not run" for line in b.commands]
    assert listed == NOT_RUN
    assert {reason for _, reason, _ in listed} == set(REASONS)
    assert len(OFFLINE) > 8
    assert len(STORIES) > 20


@pytest.mark.parametrize("block", STORIES, ids=str)
def test_the_test_that_a_block_names_does_what_the_block_says(block):
    stories = [REPOSITORY / name for name in block.mark[1].split(", ")]
    assert [story for story in stories if not story.is_file()] == [], block
    text = "".join(story.read_text() for story in stories)
    if "tests.documents" in text:  # it runs the blocks that name it
        return
    if all(story.name in block.text for story in stories):  # the block runs the test itself
        return
    words = [word for command in block.commands for word in essential(command)]
    assert words, f"{block}: nothing tells the commands"
    assert block.page in text or [word for word in words if word not in text] == [], (
        f"{block}: {block.mark[1]} lacks them"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the pages assume it: the examples, and the files that the pages show."""
    there = tmp_path_factory.mktemp("docs")
    shutil.copytree(REPOSITORY / "examples", there / "examples")
    for name in ("chat.yaml", "plan.yaml"):
        shutil.copy(REPOSITORY / "examples" / "chat.yaml", there / name)
    shutil.copy(REPOSITORY / "tests/unit/profile_command/results/vllm.json", there / "results.json")
    for block in BLOCKS:
        if block.mark is not None and block.mark[0] == "file":
            (there / block.mark[1]).write_text(block.text + "\n")
    return there


@pytest.mark.parametrize("block", OFFLINE, ids=str)
def test_a_command_without_a_mark_works_without_a_cluster(block, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KUBECONFIG", str(folder / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for command in block.commands:
        words = shlex.split(command)
        if words == ["make", "setup"]:  # which made the environment that runs this test
            continue
        assert Path(words[0]).name == "servingplan", f"{block}: `{command}` needs a mark"
        done = typer.testing.CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{block}: {command}: {done.output}{done.exception}"
        assert done.stdout.strip()


def test_shell_commands_stand_in_fences_of_their_own():
    for block in BLOCKS:
        assert block.language, f"{block}: say the language of the block"
        first = block.text.split("\n", 1)[0].split(" ", 1)[0]
        if block.language != SHELL:
            assert first not in ("servingplan", "kubectl", "helm", "make", "curl", "$"), f"{block}: write ```sh"


def test_a_block_in_a_list_is_one_on_the_site_too():
    """Python-Markdown ends the list at a block that is not indented by four columns for each level."""
    fences = [
        (page.name, line) for page in pages() for line in page.read_text().splitlines() if line.lstrip()[:3] == "```"
    ]
    assert [one for one in fences if (len(one[1]) - len(one[1].lstrip())) % 4] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_no_block_is_made_by_indentation(page):
    """Such a block has no language, and its commands would not be found."""
    outside = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    in_list = False
    for part in re.split(r"\n\s*\n", outside):
        assert in_list or not part.startswith("    "), part
        in_list = bool(re.search(r"^(?:\* |- |\d+\. |    )", part, re.MULTILINE))


@pytest.mark.parametrize("page", [page for page in pages() if not is_generated(page)], ids=lambda page: page.name)
def test_a_page_that_people_write_is_short(page):
    assert len(page.read_text().splitlines()) <= MOST_LINES


def test_the_pages_that_a_program_writes_are_those_of_the_code():
    written = runpy.run_path(str(REPOSITORY / "docs" / "reference.py"))["pages"]()
    assert {"reference-plan.md", "reference-cli.md", "reference-metrics.md", "conditions.md"} < written.keys()
    assert len(written) > 90
    for name, text in written.items():
        assert (REPOSITORY / "docs" / name).read_text() == text, f"{name}: run `make reference`"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_pages_and_tests_that_a_page_names_are_there(page):
    text = page.read_text()
    named = re.findall(r"`((?:docs|tests|e2e|examples|charts|operator|localcluster|papers)/[\w./-]+\.\w+)`", text)
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
    linked = re.findall(r"\]\(([\w./-]+\.(?:md|webp))(?:#[\w-]+)?\)", text)
    assert [name for name in linked if not (page.parent / name).is_file()] == []


def test_the_paths_in_a_page_are_links_on_the_site():
    site = runpy.run_path(str(REPOSITORY / "docs" / "site.py"))
    linked = site["on_page_markdown"](
        "`docs/live.md`, [a](docs/live.md#steps), [b](../SECURITY.md), ![c](docs/pictures/c.webp)\n\n"
        "```sh\n`docs/live.md`\n```\n"
    )
    shown = "[`docs/live.md`](live.md), [a](live.md#steps), [b](security.md), ![c](pictures/c.webp)"
    assert linked == f"{shown}\n\n```sh\n`docs/live.md`\n```\n"
    below = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="reasons/Ready.md"))
    assert site["on_page_markdown"]("`docs/live.md`", page=below) == "[`docs/live.md`](../live.md)"
    docs = REPOSITORY / "docs"
    names = {str(page.relative_to(docs)) for page in pages() if docs in page.parents} | set(site["ELSEWHERE"].values())
    assert set(OUTSIDE) <= set(site["ELSEWHERE"])
    for page in pages():
        for name in re.findall(r"\]\(([\w./-]+\.md)", site["on_page_markdown"](page.read_text())):
            assert name in names, f"{page.name}: {name}"


def test_every_page_is_in_the_list_of_the_site():
    class Loader(yaml.SafeLoader):
        """Passes over the names of Python functions."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)
    settings = yaml.load((REPOSITORY / "mkdocs.yml").read_text(), Loader)
    elsewhere = {"index.md", "changelog.md", "contributing.md", "releasing.md", "security.md", "chart.md"}
    listed = re.findall(r"[\w-]+\.md", json.dumps(settings["nav"]))
    assert len(listed) == len(set(listed))
    assert elsewhere < set(listed)
    docs = REPOSITORY / "docs"
    written = {page.name for page in pages() if page.parent == docs}
    assert set(listed) - elsewhere == written, "name the page in the `nav` of mkdocs.yml"
    site = runpy.run_path(str(docs / "site.py"))
    (section,) = (entry[site["TROUBLE"]] for entry in site["on_config"](settings)["nav"] if site["TROUBLE"] in entry)
    of_reasons = {path for entry in section[-1]["Reasons"] for path in entry.values()}
    assert of_reasons == {f"reasons/{page.name}" for page in pages() if page.parent == docs / "reasons"}
    assert len(of_reasons) > 90


def test_plans_that_pages_show_are_plans(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shown = [block for block in BLOCKS if block.language == "yaml" and "kind: LLMServingPlan" in block.text]
    assert shown
    for block in shown:
        done = typer.testing.CliRunner().invoke(app, ["plan", "-"], input=block.text)
        assert done.exit_code == 0, f"{block}: {done.output}"


def test_the_worked_example_is_what_the_planner_answers():
    page = " ".join((REPOSITORY / "docs/worked-example.md").read_text().split())
    question = question_from_json((REPOSITORY / "examples/questions/by-hand.json").read_text())
    answer = solve(question)
    assert (answer.nodes, answer.dollars_per_hour, answer.status) == ({"big": 2, "small": 3}, 18, "Optimal")
    assert "2 big and 3 small nodes serve everything for **18 $/h**" in page

    prices = {pool.name: pool.dollars_per_node_hour for pool in question.pools}
    rates = {next(iter(shape.gpus)): shape.requests_per_second for shape in question.shapes}
    asked = {item.name: item.requests_per_second for item in question.classes}
    for pool, price in prices.items():
        work = sum(asked[name] / rates[pool][name] for name in asked)
        nodes = -int(-work // 1)
        assert f"{work:.2f} replicas of work, so {nodes} nodes: **{nodes * price:g} $/h**" in page
        each = [f"{price / rates[pool][name]:.2f}" for name in asked]
        cells = [f"{price:g}", *(f"{rates[pool][name]:g}" for name in asked), *each]
        assert f"| {pool} | {' | '.join(cells)} |" in page
    least = sum(rate * min(price / rates[pool][name] for pool, price in prices.items()) for name, rate in asked.items())
    assert f"= {least:.2f} $/h" in page
    best = solve(question, method="homogeneous").dollars_per_hour
    assert f"{1 - answer.dollars_per_hour / best:.0%}".replace("%", " %") + " less than the best fleet" in page


def test_every_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z -]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    known = {name for line in targets for name in line.split()}
    named = {
        word for page in pages() for word in re.findall(r"(?:`|^)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE)
    }
    assert named - known == set()


def test_the_mark_of_a_block_and_its_commands_are_read_as_written(tmp_path):
    from tests import documents

    page = tmp_path / "page.md"
    page.write_text(
        "a\n\n1. b\n\n    <!-- run: x.py -->\n    ```sh\n    one \\\n      two   # three\n    echo 'a\n    b'\n    ```\n"
    )
    with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "REPOSITORY", tmp_path)
        (block,) = documents.blocks_of(page)
    assert (block.page, block.line, block.language, block.mark) == ("page.md", 6, "sh", ("run", "x.py"))
    assert block.commands == ["one two", "echo 'a\nb'"]
