"""The planner's house does not grow unseen: `docs/planner.md` tells what `benchmarks.concepts` counts."""

import re
from pathlib import Path

from benchmarks.concepts import exported, lines

DOCUMENT = (Path(__file__).parents[3] / "docs" / "planner.md").read_text()


def told(what):
    return int(re.search(rf"^\| {what} \|.* ([\d,]+) \|$", DOCUMENT, re.MULTILINE)[1].replace(",", ""))


def test_the_names_that_packages_export_to_each_other_are_those_of_the_document():
    assert {package: len(names) for package, names in exported().items()} == {
        package: told(f"`{package}/`") for package in exported()
    }


def test_the_lines_are_no_more_than_the_document_says():
    assert lines() <= told("lines, at most")
