"""A headless Chromium, driven over its pipe: a page is opened, clicked on and asked."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest

CHROMIUM = (
    os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("google-chrome") or ""
)
NEEDS_CHROMIUM = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")

OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

_TIMEOUT = 60.0


class Browser:
    """A process of Chromium with a new profile. A context manager."""

    def __init__(self, profile: Path) -> None:
        # It reads commands from descriptor 3, and writes answers to descriptor 4.
        script = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null'
        options = [*OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["sh", "-c", script, CHROMIUM, *options],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout
        self._asked = 0
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self.ask("Browser.close")
        self._process.terminate()
        self._process.wait(10)
        self._commands.close()
        self._answers.close()

    def open(self, url: str, width: int = 1200, height: int = 900, *, dark: bool = False) -> Tab:
        """Show a page in a tab of its own."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        tab.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.ask("Emulation.setEmulatedMedia", features=[scheme])
        tab.ask("Page.navigate", url=url)
        tab.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")
        return tab

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._asked:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        """The next answer or event."""
        while b"\0" not in self._buffer:
            if not select.select([self._answers], [], [], _TIMEOUT)[0]:
                raise TimeoutError("Chromium does not answer")
            received = os.read(self._answers.fileno(), 1 << 16)
            if not received:
                raise RuntimeError("Chromium has ended")
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class Tab:
    """One page that is shown."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.ask(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """What is shown in each element that is selected."""
        all_of_them = f"[...document.querySelectorAll({json.dumps(selector)})]"
        found: list[str] = self.evaluate(f"{all_of_them}.map((node) => node.innerText)")
        return found

    def click(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def wait_for(self, expression: str, timeout: float = 30) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + timeout
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression} did not come true")
            time.sleep(0.02)

    def screenshot(self, path: Path) -> None:
        """Write all of the page as PNG."""
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))
