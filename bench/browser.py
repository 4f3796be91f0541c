"""Chromium without a window, driven through chromedriver by plain HTTP (WebDriver): shared by a bench and by tests."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import urllib.request
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from urllib.error import HTTPError

from ..common.errors import ProlongError
from ..common.json_object import JsonObject

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
START_S = 60.0
BOX = """
const box = document.querySelector(arguments[0]).getBoundingClientRect();
return {x: box.x + scrollX - 12, y: box.y + scrollY - 12, width: box.width + 24, height: box.height + 24, scale: 1};
"""
STARTED = re.compile(rb"started successfully on port (\d+)")


class BrowserError(ProlongError):
    """The browser did not start, or refused a command."""


def missing_browser() -> str:
    """What is not installed of the two that are needed; empty if both are."""
    if shutil.which("chromedriver") is None:
        return "chromedriver"
    return "" if _browser() else BROWSERS[0]


def _browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name)) is not None), None)


class Browser:
    """One window. Use it as a context manager: the browser ends with the block."""

    def __init__(self, width: int = 1280, height: int = 900, *, timeout_s: float = 60.0) -> None:
        """Raises BrowserError when it does not start."""
        self._timeout_s = timeout_s
        self._scratch = TemporaryDirectory(prefix="prolong-browser-")
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0", f"--log-path={os.devnull}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self._address = f"http://127.0.0.1:{self._port()}"
            arguments = ["--headless=new", f"--user-data-dir={self._scratch.name}", "--disable-gpu", "--hide-scrollbars"]
            # as root, which a container is, Chromium's sandbox does not start
            arguments += ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
            wanted = {"goog:chromeOptions": {"args": arguments, "binary": _browser()}, "goog:loggingPrefs": {"browser": "ALL"}}
            session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = f"/session/{session['value']['sessionId']}"
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def _port(self) -> int:
        assert self._driver.stdout is not None
        said, output = b"", self._driver.stdout.fileno()
        while select.select([output], [], [], START_S)[0] and (part := os.read(output, 4096)):
            said += part
            if found := STARTED.search(said):
                return int(found[1])
        raise BrowserError(f"chromedriver did not say on which port it listens, within {START_S:g} s: {said[-500:]!r}")

    def _ask(self, method: str, path: str, content: JsonObject | None = None) -> JsonObject:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self._address}{path}", body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                return json.loads(answer.read())
        except HTTPError as error:
            raise BrowserError(f"{method} {path}: {error.read().decode(errors='replace')[:1000]}") from error

    def open(self, path: Path) -> None:
        """Load a file; returns when the page and its scripts are there."""
        self._ask("POST", f"{self._session}/url", {"url": path.resolve().as_uri()})

    def reload(self) -> None:
        """Load the page again; returns as `open` does. `location.reload()` would leave the old page there for a while."""
        self._ask("POST", f"{self._session}/refresh", {})

    def run(self, script: str, *arguments: object) -> object:
        """The value that the body of a function returns on the page."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})["value"]

    def wait(self, script: str) -> object:
        """The value of an expression once it is true. Raises BrowserError when that takes longer than the timeout."""
        body = "const done = arguments[0], ask = () => { const v = (%s); v ? done(v) : requestAnimationFrame(ask); }; ask();"
        self._ask("POST", f"{self._session}/timeouts", {"script": int(self._timeout_s * 1000)})
        return self._ask("POST", f"{self._session}/execute/async", {"script": body % script, "args": []})["value"]

    def press(self, keys: str) -> None:
        """Type keys into what has the focus, as a person would (WebDriver's codes for special keys)."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", f"{self._session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def resize(self, width: int, height: int) -> None:
        """The size of the page's view, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """What the page is told of the reader's taste: light or dark."""
        self._command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def picture(self, element: str = "", *, height: int = 0) -> bytes:
        """A PNG of the view; or of an element (a CSS selector) with a margin, cut at `height` unless that is 0."""
        wanted: JsonObject = {"format": "png"}
        if element:
            box = self.run(BOX, element)
            assert isinstance(box, dict)
            wanted |= {"captureBeyondViewport": True, "clip": box | {"height": min(box["height"], height or box["height"])}}
        return b64decode(self._command("Page.captureScreenshot", wanted)["data"])

    def messages(self) -> list[str]:
        """What the page wrote to its console since the last call: errors, refused connections, warnings."""
        entries = self._ask("POST", f"{self._session}/se/log", {"type": "browser"})["value"]
        return [f"{entry['level']}: {entry['message']}" for entry in entries]

    def _command(self, name: str, parameters: JsonObject) -> JsonObject:
        return self._ask("POST", f"{self._session}/goog/cdp/execute", {"cmd": name, "params": parameters})["value"]

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            if hasattr(self, "_session"):
                self._ask("DELETE", self._session)
        except (OSError, BrowserError):
            pass
        finally:
            self._driver.kill()
            self._driver.wait()
            if self._driver.stdout is not None:
                self._driver.stdout.close()
            self._scratch.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
