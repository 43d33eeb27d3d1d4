"""What the tests ask of a tab."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from axe_selenium_python import Axe
from selenium.webdriver.support.ui import WebDriverWait

DESK, PHONE = (1200, 900), (360, 740)


class Tab:
    """A tab that was just opened: 1200 pixels wide, light, on a screen."""

    def __init__(self, driver):
        self._driver = driver
        self.size(DESK)
        self.media()

    def size(self, size):
        """The size of the window in CSS pixels."""
        width, height = size
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, scheme="light", kind="screen"):
        """What the reader's system wants, and what the page is shown on."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", media=kind, features=features)

    def open(self, path):
        """Show a file; logs are those since then."""
        self._driver.get("about:blank")
        for kind in ("browser", "performance"):
            self._driver.get_log(kind)
        self._driver.get(Path(path).as_uri())

    def console(self):
        """What the browser has to say of the page."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def requests(self):
        """The addresses that the page asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def run(self, body, *arguments):
        """What a function with this body returns."""
        return self._driver.execute_script(body, *arguments)

    def wait(self, condition):
        """Until a function with this body returns something true; the limit only ends a hang."""
        WebDriverWait(self._driver, 120).until(lambda driver: driver.execute_script(condition))

    def faults(self):
        """What axe-core holds against the page, each with the elements that are concerned."""
        axe = Axe(self._driver)
        axe.inject()
        broken = axe.run()["violations"]
        return [(rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]]) for rule in broken]

    def press(self, key, code):
        """Press and release a key."""
        self._ask(
            "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text="\r" * (code == 13)
        )
        self._ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def pdf(self):
        """The pages that a printer gets, as a PDF."""
        return base64.b64decode(self._ask("Page.printToPDF", printBackground=True)["data"])

    def picture(self, top, bottom, scale=1):
        """The page between two heights, as WebP."""
        width = self.run("return innerWidth")
        clip = {"x": 0, "y": top, "width": width, "height": bottom - top, "scale": scale}
        asked = {"format": "webp", "quality": 85, "clip": clip, "captureBeyondViewport": True}
        return base64.b64decode(self._ask("Page.captureScreenshot", **asked)["data"])

    def _ask(self, command, **arguments):
        return self._driver.execute_cdp_cmd(command, arguments)
