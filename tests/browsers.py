"""A real browser that tests steer: pages from disk, real clicks and keys, what the console says, what is asked for."""

import base64
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tools import missing

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
)

STEERED = ("--remote-debugging-port=0", "--remote-allow-origins=*")


def chromium() -> str:
    """The browser's program; without one a test skips, and under CI fails unless `CASBAH_NO_BROWSER` says that none can
    be had there."""
    if BROWSER is not None:
        return BROWSER
    sentence = "no chromium on this machine (apt-get install chromium)"
    if os.environ.get("CASBAH_NO_BROWSER"):
        pytest.skip(sentence)
    return missing(sentence)


class Tab:
    """One page, over the DevTools protocol; `complaints` are errors of its console, `asked` addresses beside files."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.complaints: list[str] = []
        self.asked: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.send("Network.emulateNetworkConditions", **offline)

    def send(self, method: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": values}))
        while True:
            said = json.loads(self._socket.recv())
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        kind, values = said.get("method"), said.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.complaints.append(values["exceptionDetails"].get("exception", {}).get("description", str(values)))
        elif kind == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.complaints.append(values["entry"]["text"])
        elif kind == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.complaints.append(str(values["args"]))
        elif kind == "Network.requestWillBeSent":
            url = values["request"]["url"]
            self.asked += [] if url.startswith(("file:", "data:")) else [url]

    def open(self, page: Path, width: int = 1280, height: int = 800) -> None:
        mobile = width < 640
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.send("Page.navigate", url=page.as_uri())
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true, at the most 20 s."""
        end = time.monotonic() + 20
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def hover(self, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            values = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, **values)

    def picture(self, path: Path | None = None) -> np.ndarray:
        """What is seen, (rows, cols, 3)."""
        self.settle()
        content = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(content)
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A browser with one page, without a network; it ends with the block."""
    from websocket import create_connection

    command = [chromium(), *QUIET, *STEERED, f"--user-data-dir={profile}", "about:blank"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(profile / "DevToolsActivePort", running)
        from urllib.request import urlopen

        pages = json.load(urlopen(f"http://127.0.0.1:{port}/json"))
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        socket = create_connection(address, timeout=60)
        yield Tab(socket)
        socket.close()
    finally:
        running.terminate()
        running.wait(timeout=20)


def _port(file: Path, running: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + 60
    while not (file.is_file() and file.read_text().strip()):
        assert running.poll() is None, "the browser ended at once"
        assert time.monotonic() < end, "the browser did not start within a minute"
        time.sleep(0.1)
    return int(file.read_text().split()[0])
