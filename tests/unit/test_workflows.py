"""The workflows for GitHub, as far as their files tell: what they call exists, and they name no registry."""

import json
import os
import re
import subprocess
import tomllib

import pytest
import yaml

from tests.documents import REPOSITORY

FOLDER = REPOSITORY / ".github"
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.yml"))
PYTHONS = ["3.12", "3.13", "3.14"]


def read(path):
    """A workflow. YAML takes its key ``on`` for the truth value."""
    found = yaml.safe_load(path.read_text())
    return {("on" if key is True else key): value for key, value in found.items()}


def matrix_of(job):
    matrix = job.get("strategy", {}).get("matrix", {})
    return [*matrix.get("include", []), *({name: one} for name in matrix for one in matrix[name] if name != "include")]


def commands(job):
    """What the steps of a job run, once for each value of its matrix that they use."""
    for step in job.get("steps", []):
        text = step.get("run", "")
        used = set(re.findall(r"\$\{\{ matrix\.(\w+) \}\}", text))
        choices = [one for one in matrix_of(job) if used & set(one)] or [{}]
        for choice in choices:
            filled = text
            for name, value in choice.items():
                filled = filled.replace(f"${{{{ matrix.{name} }}}}", str(value))
            yield filled


@pytest.fixture(scope="module")
def targets():
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    return {name for line in lines if line.startswith(".PHONY:") for name in line.split(":")[1].split()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_what_every_workflow_needs(path):
    found = read(path)
    assert found["on"]
    assert found["permissions"] == {"contents": "read"}
    for name, job in found["jobs"].items():
        if "uses" in job:
            called = read(REPOSITORY / job["uses"])
            assert "workflow_call" in called["on"], name
            continue
        assert job["timeout-minutes"] <= 360, name
        assert [step for step in job["steps"] if ("run" in step) == ("uses" in step)] == []
        for needed in [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", []):
            assert needed in found["jobs"]
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_targets_that_a_workflow_makes_exist(path, targets):
    called = set()
    for job in read(path)["jobs"].values():
        for text in commands(job):
            for words in re.findall(r"(?:^|\s)make ([^<\n|;]+)", text):
                called |= {word for word in words.split() if re.fullmatch(r"[a-z-]+", word)}
    assert called
    assert called - targets == set()


def test_what_the_pages_promise_of_the_workflows_is_in_them():
    every = {path.stem: path.read_text() for path in WORKFLOWS}
    assert set(every) == {"check", "stories", "nightly", "release"}
    check, nightly, release = (read(FOLDER / "workflows" / f"{name}.yml") for name in ("check", "nightly", "release"))
    assert check["jobs"]["unit"]["strategy"]["matrix"]["python"] == PYTHONS
    assert release["jobs"]["wheel"]["strategy"]["matrix"]["python"] == PYTHONS
    assert "schedule" in nightly["on"]
    asked = {one["python"] for one in matrix_of(nightly["jobs"]["dependencies"]) if one["target"] == "newest"}
    assert asked == set(PYTHONS)
    assert "FIRST_HISTORY=$((10000 * ${{ github.run_number }}))" in every["nightly"]
    for word in (
        "make try-wheel",
        "make wheel sbom",
        "make krew",
        "make image",
        "helm push",
        "cosign sign",
        "make site",
        "attest",
    ):
        assert word in every["release"], word
    assert set(release["jobs"]["publish"]["needs"]) == {"test", "wheel"}


def test_the_version_of_the_project_could_be_tagged():
    """By the words of the workflow: package, charts and changelog name it, the last with a date."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    (step,) = [one for one in read(FOLDER / "workflows" / "release.yml")["jobs"]["version"]["steps"] if "run" in one]

    def checked(tag):
        environment = os.environ | {"GITHUB_REF_NAME": tag}
        return subprocess.run(["bash", "-e", "-c", step["run"]], cwd=REPOSITORY, env=environment).returncode

    assert checked(f"v{version}") == 0
    assert checked("v99.0.0") != 0


def test_no_host_of_a_registry_is_written_anywhere():
    files = [path for folder in (FOLDER, REPOSITORY / ".devcontainer") for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    hosts = re.compile(r"\b(?:[\w-]+\.)+(?:io|com|dev|org)/[\w-]+/")
    assert [(path.name, hosts.findall(path.read_text())) for path in files if hosts.search(path.read_text())] == []


def test_the_devcontainer_is_built_from_its_own_file():
    settings = json.loads((REPOSITORY / ".devcontainer/devcontainer.json").read_text())
    assert (REPOSITORY / ".devcontainer" / settings["build"]["dockerfile"]).is_file()
    assert settings["postCreateCommand"] == "make setup"


def test_every_folder_with_dependencies_is_kept_current():
    updates = yaml.safe_load((FOLDER / "dependabot.yml").read_text())["updates"]
    assert {one["package-ecosystem"] for one in updates} == {"uv", "github-actions", "docker", "gomod"}
    (go,) = [one for one in updates if one["package-ecosystem"] == "gomod"]
    modules = {path.parent for path in (REPOSITORY / "localcluster").rglob("go.mod")}
    assert modules == {folder for pattern in go["directories"] for folder in REPOSITORY.glob(pattern.lstrip("/"))}


def test_the_forms_ask_in_valid_fields():
    for path in (FOLDER / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name == "config.yml":
            continue
        assert form["name"]
        assert form["description"]
        fields = [item for item in form["body"] if item["type"] != "markdown"]
        assert all(item["attributes"]["label"] for item in fields)
        assert len({item["id"] for item in fields}) == len(fields)


def test_the_changelog_names_versions_with_their_dates():
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert [one for one in headings[1:] if not re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", one)] == []
