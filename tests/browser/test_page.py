"""The pages in a real browser: quiet, complete, with the right numbers, readable by everyone on anything."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from servingplan.report.page import page_html
from tests.browser.conftest import EXAMPLE, servingplan
from tests.browser.tab import DESK, PHONE
from tests.unit.test_report_command import HOSTILE

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
FIGURES = ["f1", "f2", "f3", "f4", "f5"]
MOST_BYTES = 150_000
TAB, ENTER, RIGHT = ("Tab", 9), ("Enter", 13), ("ArrowRight", 39)
NAMES = ["report", "tried", "list"]


@pytest.fixture
def page(tab, path):
    tab.open(path)
    return tab


@pytest.fixture(scope="module")
def plan():
    return json.loads(servingplan("plan", EXAMPLE, "-o", "json"))["fleet"]


@pytest.mark.parametrize("name", NAMES)
def test_the_browser_has_nothing_to_say_and_asks_for_nothing(tab, pages, name):
    tab.open(pages[name])
    assert tab.console() == []
    assert tab.requests() == [pages[name].as_uri()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(tab, pages, name, size, scheme):
    tab.size(size)
    tab.media(scheme)
    tab.open(pages[name])
    tab.run("document.querySelectorAll('details').forEach(item => { item.open = true; })")
    assert tab.faults() == []


def test_axe_would_find_one(tab, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<html><body style='color: #aaa; background: #fff'>pale<img src=''></body></html>"
    )
    tab.open(tmp_path / "bad.html")
    assert {"color-contrast", "html-has-lang", "image-alt"} <= {rule for rule, _, _ in tab.faults()}


def sizes(tab, selector):
    """Width and height of each element that matches, in units of its figure."""
    return tab.run(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.getBBox()).map(b => [b.width, b.height])",
        selector,
    )


def test_every_figure_is_drawn(page):
    assert page.run("return [...document.querySelectorAll('figcaption')].map(e => e.id)") == FIGURES
    for width, height in page.run(
        "return [...document.querySelectorAll('figure svg')].map(e => e.getBoundingClientRect()).map(b => [b.width, b.height])"
    ):
        assert width > 900
        assert height > 90


def test_bars_of_dollars_are_as_long_as_the_plan_says(page, plan):
    titles = page.run("return [...document.querySelectorAll('#f3 ~ .drawing rect')].map(e => e.textContent)")
    bars = dict(zip((title.partition(":")[0] for title in titles), sizes(page, "#f3 ~ .drawing rect"), strict=True))
    whole = bars.pop("together")[0]
    table = dict(
        page.run(
            "return [...document.querySelectorAll('#pools tbody tr')].map(r => [r.cells[0].innerText, r.cells[6].innerText])"
        )
    )
    assert set(bars) == set(plan["nodes"]) == set(table)
    for pool, dollars in table.items():
        assert bars[pool][0] / whole == pytest.approx(float(dollars) / plan["dollars_per_hour"], abs=1e-3)


def test_as_many_gpus_are_drawn_as_busy_as_the_plan_says(page, plan):
    told = page.run("return [...document.querySelectorAll('#f1 ~ .drawing rect.gpu')].map(e => e.textContent)")
    wanted = sum(item["replicas"] * item["tensor_parallel"] for item in plan["replica_sets"])
    assert sum(text != "free" for text in told) == wanted
    free = [height / 26 for _, height in sizes(page, "#f1 ~ .drawing rect.spare")]
    busy = [int(text.rpartition(", ")[2].removesuffix("% busy")) / 100 for text in told if text != "free"]
    assert [1 - part for part in free] == pytest.approx(busy, abs=0.01)


def test_the_flows_are_as_thick_as_the_plan_says(page, plan):
    rates = sorted(rate for item in plan["replica_sets"] for rate in item["planned"].values() if rate > 0)
    thick = page.run(
        """return [...document.querySelectorAll('#f2 ~ .drawing path.flow')].map(path => {
             const numbers = path.getAttribute('d').match(/-?[0-9.]+/g).map(Number);
             return [path.textContent, numbers[9] - numbers[7]]; })"""
    )
    first = [height for text, height in thick if " on " not in text]
    scale = 300 / sum(rates)
    assert sorted(first) == pytest.approx([scale * rate for rate in rates], abs=0.11)


def test_the_curve_passes_through_the_points_of_the_frontier(page, content):
    points = content["curve"]["points"]
    sweep = f"{points[0]['x']}:{points[-1]['x']}:{len(points)}"
    told = json.loads(servingplan("frontier", EXAMPLE, "--budget", sweep, "-o", "json"))
    most = told["points"][-1]["x"]
    lines = page.run(
        """return [...document.querySelectorAll('#f4 ~ .drawing path.curve')].filter(e => e.textContent).map(path =>
             [path.textContent, path.getAttribute('d').match(/-?[0-9.]+/g).map(Number)])"""
    )
    wanted = {"the plan": told["points"], **{f"{pool} alone": of for pool, of in told["homogeneous"].items()}}
    assert {name for name, _ in lines} == set(wanted)
    for name, numbers in lines:
        corners = set(zip(numbers[::2], numbers[1::2], strict=True))
        for point in wanted[name]:
            at = 60 + 720 * point["x"] / most, 12 + 260 * (1 - point["served_share"])
            assert any(abs(x - at[0]) < 0.11 and abs(y - at[1]) < 0.11 for x, y in corners), (name, point)


def test_what_was_simulated_is_drawn_from_p5_to_p99(page, replayed):
    limits = {}
    for name, what, limit, *_ in page.run(
        "return [...document.querySelectorAll('#latency tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    ):
        limits[name, what] = float(limit)
    bars = sizes(page, "#f5 ~ .drawing rect.simulated")
    wanted = []
    classes = {f"{item['model']}/{item['name']}": item for item in replayed["fleets"][0]["classes"]}
    for (name, what), limit in limits.items():
        seconds = classes[name][f"{what.lower()}_seconds"]
        low, high = (min(seconds[of] / limit, 1.25) for of in ("p5", "p99"))
        wanted.append(max(2.0, 640 * (high - low) / 1.25))
    assert [width for width, _ in bars] == pytest.approx(wanted, abs=0.11)


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_texts_are_large_enough_whole_and_apart(page, size):
    page.size(size)
    for figure in page.run(
        """return [...document.querySelectorAll('figure svg')].map(svg => {
             const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
             return [box(svg), [...svg.querySelectorAll('text')].map(e => [e.textContent, box(e)])]; })"""
    ):
        (left, top, right, bottom), texts = figure
        for place, (text, one) in enumerate(texts):
            assert one[3] - one[1] >= 11, text
            assert left - 0.5 <= one[0] < one[2] <= right + 0.5, text
            assert top - 0.5 <= one[1] < one[3] <= bottom + 0.5, text
            for other, two in texts[place + 1 :]:
                wide = min(one[2], two[2]) - max(one[0], two[0])
                high = min(one[3], two[3]) - max(one[1], two[1])
                assert wide <= 1 or high <= 3, (text, other)  # boxes are higher than letters


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_no_page_is_wider_than_the_screen(tab, pages, name, size):
    tab.size(size)
    tab.open(pages[name])
    assert tab.run("return document.documentElement.scrollWidth") <= size[0]


def focused(tab):
    return tab.run(
        """const e = document.activeElement, s = getComputedStyle(e);
           return [e.tagName, e.getAttribute('aria-label') || e.innerText, s.outlineStyle, parseFloat(s.outlineWidth)];"""
    )


def test_every_part_is_reached_and_moved_by_the_keyboard(page):
    page.size(PHONE)
    count = page.run("return document.querySelectorAll('[tabindex=\"0\"], summary').length")
    seen = []
    for _ in range(count):
        page.press(*TAB)
        tag, label, style, width = focused(page)
        if tag == "BODY":
            break
        assert style == "solid", label
        assert width >= 2, label
        seen.append(label)
        if tag == "SUMMARY":
            page.press(*ENTER)
            assert page.run("return document.activeElement.parentElement.open")
            page.press(*ENTER)
            assert not page.run("return document.activeElement.parentElement.open")
    hidden = page.run("return document.querySelectorAll('details:not([open]) [tabindex=\"0\"]').length")
    assert len(seen) == count - hidden
    page.run("document.querySelector('#f2 ~ .drawing').focus()")
    page.press(*RIGHT)
    page.wait("return document.querySelector('#f2 ~ .drawing').scrollLeft > 0")


def test_print_is_dark_on_white_whatever_the_screen_was_and_holds_every_table(page):
    page.media("dark", "print")
    ground, ink = page.run("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
    assert (ground, ink) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    heights = page.run(
        "return [...document.querySelectorAll('details table')].map(e => e.getBoundingClientRect().height)"
    )
    assert len(heights) == 2
    assert min(heights) > 50
    page.size((720, 1000))  # what is left of A4 at 96 points an inch
    cut = page.run(
        """return [...document.querySelectorAll('.drawing, .wide')]
             .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)"""
    )
    assert cut == []
    page.media()
    sheets = len(re.findall(rb"/Type\s*/Page\b", page.pdf()))
    assert 3 <= sheets <= 10


def test_markup_in_names_is_shown_and_does_nothing(tab, content, tmp_path):
    def spoiled(value):
        if isinstance(value, dict):
            return {key: spoiled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoiled(item) for item in value]
        return value + HOSTILE if isinstance(value, str) else value

    (tmp_path / "hostile.html").write_text(page_html(spoiled(content)), encoding="utf-8")
    tab.open(tmp_path / "hostile.html")
    assert tab.console() == []
    assert tab.run("return document.querySelectorAll('img').length") == 0
    assert HOSTILE in tab.run("return document.querySelector('#replicas tbody th').textContent")


PARTS = {
    "page-light": ("light", DESK, "h1", "#f3"),
    "page-dark": ("dark", DESK, "h1", "#f3"),
    "curve": ("light", DESK, "#f4", "#curve"),
    "latency": ("light", DESK, "#f5", "#latency"),
    "phone": ("light", PHONE, "h1", "#f2"),
}
"""Pictures of the documentation: colours, size, and the elements at whose upper edges they begin and end."""


@pytest.mark.parametrize("name", PARTS)
def test_the_pictures_of_the_documentation(tab, path, name):
    scheme, size, first, last = PARTS[name]
    tab.media(scheme)
    tab.size(size)
    tab.open(path)
    tab.run("document.querySelectorAll('details').forEach(item => { item.open = true; })")
    top, bottom = (
        tab.run("return document.querySelector(arguments[0]).getBoundingClientRect().top + scrollY", edge)
        for edge in (first, last)
    )
    picture = tab.picture(max(0, top - 16), bottom - 16)
    assert 5_000 < len(picture) < MOST_BYTES
    file = PICTURES / f"{name}.webp"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(picture)
    assert file.is_file(), "UPDATE_GOLDEN=1 make browser"
    assert f"pictures/{file.name}" in (PICTURES.parent / "seeing.md").read_text()
