"""Chromium without a window, driven through the DevTools protocol over two pipes: no package."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
LONGEST = 60  # seconds for one answer; a slow machine, not a slow page


def chromium():
    """The browser's path: $CHROMIUM, or the first of NAMES that is installed; None without one."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. `events` holds everything that it told, in order."""

    def __init__(self, write, read):
        self._write, self._read = write, read
        self._buffer, self._last = b"", 0
        self.session, self.events = None, []

    def call(self, method, **params):
        """The result of a command. Raises RuntimeError when the browser refuses it."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def wait(self, event):
        """Until the page has told this event."""
        while not any(each.get("method") == event for each in self.events):
            self.events.append(self._next())

    def told(self, *methods):
        return [each["params"] for each in self.events if each.get("method") in methods]

    def run(self, script):
        """The value of a JavaScript expression, awaited."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(json.dumps(done["exceptionDetails"])[:600])
        return done["result"].get("value")

    def attach(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def size(self, width, height=900):
        """The window, in CSS pixels; a phone's below 600."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def scheme(self, name, media=""):
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def open(self, url):
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def press(self, key, code, number, text=""):
        """One key, down and up."""
        both = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        down = {**both, "text": text} if text else both
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **both)

    def _next(self):
        end = time.monotonic() + LONGEST
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            if not chunk:
                raise RuntimeError("the browser fell silent")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


def _pipe():
    """Both ends of a pipe, numbered clear of the two descriptors that the browser is given."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved


@contextmanager
def page(path):
    """A page of the browser at `path`, which is ended with it."""
    to_read, to_write = _pipe()
    from_read, from_write = _pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        words = [
            path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-extensions", "--disable-background-networking",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank",
        ]  # fmt: skip
        # the browser reads commands on descriptor 3 and answers on 4
        shell = f'exec "$@" 3<&{to_read} 4>&{from_write}'
        browser = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            tab = Page(to_write, from_read)
            tab.attach()
            yield tab
        finally:
            browser.terminate()
            browser.wait(timeout=LONGEST)
            os.close(to_write)
            os.close(from_read)
