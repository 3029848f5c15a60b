"""Debian's Chromium without a window, driven as a person would: by its debugging protocol, over a pipe."""

import base64
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import time


class Browser:
    """One page of one width. `said` is what its console said."""

    def __init__(self, profile: pathlib.Path, *, width: int, height: int = 900, dark: bool = False):
        program = shutil.which("chromium")
        assert program, "this test looks at a page in a browser: apt-get install chromium"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
        options += ["--disable-component-update", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read, write)]  # out of the way of 3 and 4, where it looks
        shell = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]} {theirs[0]}<&- {theirs[1]}>&-'
        self._process = subprocess.Popen(["bash", "-c", shell, "browser", program, *options], pass_fds=theirs, stderr=subprocess.DEVNULL)
        for end in (read, write, *theirs):
            os.close(end)
        self._numbers, self._rest, self._session, self.said = itertools.count(1), b"", None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._in), os.close(self._out)

    def call(self, method: str, **parameters) -> dict:
        """The result of a command of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                read = os.read(self._in, 1 << 20)
                assert read, "the browser has ended"
                self._rest += read
            line, self._rest = self._rest.split(b"\0", 1)
            found = json.loads(line)
            self._listen(found)
            if found.get("id") == number:
                assert "error" not in found, found["error"]
                return found["result"]

    def _listen(self, event: dict) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                self.said.append(str([value.get("value") for value in parameters["args"]]))
            case "Runtime.exceptionThrown":
                self.said.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.said.append(parameters["entry"]["text"])

    def do(self, script: str):
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, address: str) -> None:
        """Go there."""
        self.call("Page.navigate", url=address)

    def until(self, condition: str, *, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.do(condition):
            assert time.monotonic() < end, f"{condition}; the console said {self.said}"
            time.sleep(0.05)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """Press a key and let it go."""
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def picture(self, path: pathlib.Path, *, whole: bool = False) -> None:
        """What it looks like, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))
