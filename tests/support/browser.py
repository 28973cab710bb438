"""A headless Chromium, driven through chromedriver, that leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

#: No sandbox, for the pages are the project's own and tests may run as root; no traffic.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Seconds that the browser's processes get to end.
PATIENCE = 20.0


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def missing() -> str | None:
    """What has to be installed before a browser can be driven, or None."""
    if importlib.util.find_spec("selenium") is None:
        return "no selenium: pip install selenium"
    if _browser() is None or shutil.which("chromedriver") is None:
        return "no Chromium with chromedriver: apt-get install chromium chromium-driver"
    return None


@contextmanager
def chromium(scratch: Path) -> Iterator[Chrome]:
    """A browser with an empty profile in ``scratch``."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = _browser() or ""
    for flag in (*FLAGS, f"--user-data-dir={scratch / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    home = {**os.environ, "HOME": str(scratch)}
    browser = Chrome(options, ChromeService(shutil.which("chromedriver"), env=home))
    processes = psutil.Process(browser.service.process.pid).children(recursive=True)
    try:
        yield browser
    finally:
        browser.quit()
        _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive)


def resize(browser: Chrome, width: int, height: int) -> None:
    """Gives the page that much room, as on a phone if it is narrow."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def complaints(browser: Chrome) -> list[str]:
    """What the page has written to the console so far."""
    log = browser.execute("getLog", {"type": "browser"})["value"]
    return [str(entry["message"]) for entry in log]
