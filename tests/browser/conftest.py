"""A Chromium without a window, and the pages that it shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver

from servingplan.report.page import list_html, page_html
from tests.browser.tab import Tab

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "chat.yaml"
TOOLS = {"chromium": ("google-chrome", "chromium", "chromium-browser"), "driver": ("chromedriver",)}

OLDEST_CHROMIUM = 131
"""The first version with ``::details-content``."""


def found(tool):
    """The program on the path, or None."""
    return next(filter(None, map(shutil.which, TOOLS[tool])), None)


def not_to_be_had(reason):
    """Skip the tests; fail them under `make browser`, which exists to run them."""
    (pytest.fail if os.environ.get("BROWSER") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def driver():
    if not (found("chromium") and found("driver")):
        not_to_be_had("no Chromium and chromedriver on the path: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found("chromium")
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has no sandbox for root; it shows our own files alone
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # selenium is given both programs, since it would look for them on the network.
    up = webdriver.Chrome(options=options, service=webdriver.ChromeService(found("driver")))
    if (version := int(up.capabilities["browserVersion"].split(".")[0])) < OLDEST_CHROMIUM:
        up.quit()
        not_to_be_had(f"Chromium {version} prints no closed tables; {OLDEST_CHROMIUM} is the first one that does")
    up.set_script_timeout(300)
    up.set_page_load_timeout(300)
    yield up
    up.quit()


@pytest.fixture
def tab(driver):
    """One tab, as a new one is."""
    return Tab(driver)


def servingplan(*arguments):
    """What a command prints."""
    command = [sys.executable, "-m", "servingplan", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def replayed():
    """What ``servingplan replay -o json`` prints for the example."""
    return json.loads(servingplan("replay", EXAMPLE, "--generate", 60, "--against", "homogeneous", "-o", "json"))


@pytest.fixture(scope="session")
def path(tmp_path_factory, replayed):
    """The page of the example, with its replay and its curve."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "r.json").write_text(json.dumps(replayed))
    servingplan("report", EXAMPLE, "--replay", folder / "r.json", "-o", folder / "plan.html")
    return folder / "plan.html"


@pytest.fixture(scope="session")
def content(path):
    """All numbers of the page."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text.partition('id="content">')[2].partition("</script>")[0])


@pytest.fixture(scope="session")
def pages(tmp_path_factory, path, content):
    """Every page that there is, by name: the report, a plan as `servingplan ui` shows it, and its list."""
    folder = tmp_path_factory.mktemp("pages")
    links = {"now": "2026-01-01T00:00:00Z", "what_if": True, "budget": "70", "demand": None}
    row = {"namespace": "llm", "name": "chat", "served": "100%", "dollars": "77.40", "ready": "True", "why": "served"}
    (folder / "tried.html").write_text(page_html(content, links=links), encoding="utf-8")
    (folder / "list.html").write_text(list_html([row]), encoding="utf-8")
    return {"report": path, "tried": folder / "tried.html", "list": folder / "list.html"}
