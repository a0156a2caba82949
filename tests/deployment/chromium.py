"""A headless Chromium at the end of a pipe, driven through the DevTools protocol, and servers that count requests."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
TABLETS = {"landscape": (1180, 820), "portrait": (820, 1180)}
"""Sizes in CSS pixels of a common 11-inch tablet, which has two pixels to each."""

_TOUCH = "Input.dispatchTouchEvent"


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Server(http.server.ThreadingHTTPServer):
    """A static server on the loopback that notes every request, as any hospital's would serve the app."""

    daemon_threads = True

    def __init__(self, folder: Path):
        self.requests: list[str] = []
        handler = functools.partial(_Handler, directory=str(folder))
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def parse_request(self) -> bool:
        """Note what came before anything is answered, whatever its method."""
        whole = super().parse_request()
        self.server.requests.append(self.requestline)
        return whole

    def log_message(self, *_: Any) -> None:
        pass


class Chromium:
    """One browser. All that it sends to addresses other than the loopback goes to `outside`, which counts it.

    Args:
        profile: folder of its own.
        outside: stands in for the rest of the world: every request for another host arrives there.
    """

    def __init__(self, profile: Path, outside: Server):
        program = find_chromium()
        assert program is not None
        self.outside = outside
        down, self._write = os.pipe()
        self._read, up = os.pipe()
        proxy = f"--proxy-server=http://127.0.0.1:{outside.server_port}"
        command = [program, *SWITCHES, proxy, f"--user-data-dir={profile}", "about:blank"]
        shell = ["bash", "-c", f'exec 3<&{down} 4>&{up}; exec "$@"', "chromium", *command]
        self.process = subprocess.Popen(
            shell, pass_fds=(down, up), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(down)
        os.close(up)
        self._buffer, self._number, self.events = b"", 0, []

    def call(self, method: str, session: str | None = None, timeout: float = 60, **params: Any) -> dict[str, Any]:
        """One command and its answer; events that come meanwhile are kept in `events`."""
        return self.answer(self.send(method, session, **params), method, timeout)

    def send(self, method: str, session: str | None = None, **params: Any) -> int:
        """One command; the number to ask for its answer with."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._number

    def answer(self, number: int, method: str, timeout: float = 60) -> dict[str, Any]:
        """The answer to a command; ask in the order of sending."""
        end = time.monotonic() + timeout
        while True:
            answer = self._receive(end)
            if answer.get("id") != number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def open(self, url: str, size: tuple[int, int] = TABLETS["landscape"]) -> Page:
        """A new tab as on a tablet: its size, two pixels to each, touch."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.resize(size)
        page.call("Emulation.setTouchEmulationEnabled", enabled=True)
        page.go(url)
        return page

    def close(self) -> None:
        try:
            self.call("Browser.close")
        except (OSError, RuntimeError):
            self.process.kill()
        self.process.wait(30)
        os.close(self._write)
        os.close(self._read)

    def _receive(self, end: float) -> dict[str, Any]:
        import select

        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise RuntimeError("the browser does not answer")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


class Page:
    """A tab."""

    def __init__(self, browser: Chromium, session: str, target: str):
        self.browser, self.session, self.target = browser, session, target

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def resize(self, size: tuple[int, int]) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=2, mobile=True)

    def run(self, script: str) -> Any:
        """Value of an expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, condition: str, timeout: float = 60) -> None:
        """Until an expression is true."""
        end = time.monotonic() + timeout
        while True:
            try:
                if self.run(f"Boolean({condition})"):
                    return
            except RuntimeError as error:  # the page is just being replaced
                if time.monotonic() > end:
                    raise RuntimeError(f"not true in time: {condition}") from error
            if time.monotonic() > end:
                raise RuntimeError(
                    f"not true in time: {condition}; the page says: {self.run('document.body.innerText')}"
                )
            time.sleep(0.05)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def tap(self, selector: str) -> None:
        """Touch the middle of an element, which must be the topmost thing there."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'nearest'}});"
            "const r = e.getBoundingClientRect(); const [x, y] = [r.x + r.width / 2, r.y + r.height / 2];"
            "const top = document.elementFromPoint(x, y);"
            "return e.contains(top) || (top && top.contains(e)) ? [x, y] : null; })()"
        )
        assert place, f"{selector} cannot be touched"
        self.run(
            f"window.clicked = false; document.querySelector({selector!r})"
            ".addEventListener('click', () => (window.clicked = true), { once: true, capture: true }); 0"
        )
        x, y = place
        for _ in range(5):  # on a busy machine a tap may last so long that it counts as a long press, which is no click
            down = self.browser.send(_TOUCH, self.session, type="touchStart", touchPoints=[{"x": x, "y": y}])
            up = self.browser.send(_TOUCH, self.session, type="touchEnd", touchPoints=[])
            self.browser.answer(down, _TOUCH)
            self.browser.answer(up, _TOUCH)
            try:
                self.wait("window.clicked", 3)
            except RuntimeError:
                continue
            return
        raise RuntimeError(f"{selector} was not clicked")

    def drag(self, places: list[tuple[float, float]]) -> None:
        """A finger down at the first place, over the others, and up."""
        touch = functools.partial(self.call, _TOUCH)
        touch(type="touchStart", touchPoints=[{"x": places[0][0], "y": places[0][1]}])
        for x, y in places[1:]:
            touch(type="touchMove", touchPoints=[{"x": x, "y": y}])
        touch(type="touchEnd", touchPoints=[])

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key: a character or the name of a key."""
        text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
        codes = {"Enter": 13, " ": 32, "Tab": 9, "Escape": 27}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        code = codes.get(key, ord(key.upper()[0]))
        common: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path: Path) -> Path:
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)


@contextmanager
def chromium() -> Iterator[Chromium]:
    """A browser with a fresh profile, which is removed afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        profile = Path(folder)
        (profile / "empty").mkdir()
        outside = Server(profile / "empty")
        browser = Chromium(profile / "profile", outside)
        try:
            yield browser
        finally:
            browser.close()
            outside.stop()


_ANALYSE = """
(async () => {
  const file = new File([Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0))], %s);
  const { image, answer } = await busmt.analyse(file);
  const pack = (bytes) => {
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return btoa(text);
  };
  const { label, probabilities, refer } = answer;
  const { height, width, spacing } = image;
  return { label, probabilities, refer, height, width, spacing, grey: pack(image.grey), mask: pack(answer.mask) };
})()
"""


def analyse(page: Page, name: str, content: bytes) -> dict[str, Any]:
    """What the app makes of a file: its answer, with `grey` (H, W), uint8, and `mask` (H, W), bool."""
    found = page.run(_ANALYSE % (base64.b64encode(content).decode(), json.dumps(name)))
    for part in ("grey", "mask"):
        levels = np.frombuffer(base64.b64decode(found[part]), np.uint8)
        found[part] = levels.reshape(found["height"], found["width"])
    return found | {"mask": found["mask"] > 0}


@contextmanager
def opened(site: Path) -> Iterator[tuple[Page, Server]]:
    """The app in a browser, loaded and kept for offline use."""
    with chromium() as browser:
        server = Server(site)
        try:
            page = browser.open(server.url)
            page.wait("document.body.dataset.ready && document.body.dataset.offline")
            yield page, server
        finally:
            server.stop()
