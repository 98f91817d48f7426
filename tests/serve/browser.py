"""Debian's Chromium, driven by selenium, that reaches nothing but the loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--window-size=1100,900",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser of its own profile; the test is skipped where one is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    paths = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in paths:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(executable_path=paths[1])
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(90)  # some machines are slow
    driver.set_script_timeout(90)
    driver.command_executor.client_config.timeout = 120
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """What the tests do with a page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(
        self, url: str, *, language: str = "en", dark: bool = False, width: int = 1100
    ) -> None:
        """Load a page afresh, as one sees it who prefers this."""
        agent = self.js("return navigator.userAgent")
        self.cdp("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", **size)
        self.logs()
        self.driver.get(url)

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def wait(self, code: str, seconds: float = 60) -> Any:
        """The value of a JavaScript expression, once it is truthy."""
        from selenium.webdriver.support.wait import WebDriverWait

        waiting = WebDriverWait(self.driver, seconds, 0.05)
        return waiting.until(lambda _: self.js(f"return {code}"), f"never true: {code}")

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).innerText", selector)

    def texts(self, selector: str) -> list[str]:
        code = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        return self.js(code, selector)

    def drop(self, *paths: Path, at: tuple[int, int] = (300, 200)) -> None:
        """Drop files as from a file manager."""
        # what is not drawn yet takes nothing: a frame is, when the next but one begins
        frames = "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50)))"
        self.driver.execute_async_script(f"const done = arguments[0]; {frames}")
        data = {"items": [], "files": [*map(str, paths)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.cdp("Input.dispatchDragEvent", type=kind, x=at[0], y=at[1], data=data)

    def logs(self) -> tuple[list[str], list[str]]:
        """Since the last call: the addresses requested, and what the console reported."""
        events = [json.loads(one["message"])["message"] for one in self.log("performance")]
        sent = [one for one in events if one["method"] == "Network.requestWillBeSent"]
        urls = [one["params"]["request"]["url"] for one in sent]
        return urls, [one["message"] for one in self.log("browser")]

    def log(self, kind: str) -> list[Any]:
        return self.driver.get_log(kind)

    def screenshot(self, path: Path) -> None:
        """What is to be seen."""
        self.driver.save_screenshot(str(path))
