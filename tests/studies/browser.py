"""Chromium without a window, told what to do over two pipes (the DevTools protocol)."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", "disable-breakpad", "remote-debugging-pipe")
TROUBLE = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")  # a good page causes none
HIGHEST = 10  # bash gives the pipes the numbers 3 and 4, which ours must not have


class Page:
    """A page that is open; `errors` has what its console says."""

    def __init__(self, reader: int, writer: int) -> None:
        self.answers, self.writer = reader, writer
        self.errors: list[Any] = []
        self.number, self.session, self.text = 0, {}, b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """What a method of the protocol returns."""
        self.number += 1
        text = json.dumps({"id": self.number, "method": method, "params": parameters, **self.session})
        os.write(self.writer, text.encode() + b"\0")
        while (message := self.read()).get("id") != self.number:
            pass
        assert "error" not in message, message
        return message["result"]

    def read(self) -> Any:
        while b"\0" not in self.text:
            more = os.read(self.answers, 2**16)
            assert more, "chromium has ended"
            self.text += more
        text, _, self.text = self.text.partition(b"\0")
        message = json.loads(text)
        if message.get("method") in TROUBLE:
            self.errors.append(message["params"])
        return message

    def open(self, file: Path, width: int = 1100) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=file.resolve().as_uri())
        while self.read().get("method") != "Page.loadEventFired":
            pass

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def shot(self, file: Path) -> None:
        """The whole page as PNG."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(picture["data"]))


@contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """A page of a new browser, whose files are in `folder`."""
    there, here = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, HIGHEST) for end in (there[0], here[1])]
    words = ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "", str(PATH), f"--user-data-dir={folder}"]
    words += [f"--{flag}" for flag in FLAGS]
    process = subprocess.Popen(words, pass_fds=ends, stderr=subprocess.DEVNULL)
    for end in (there[0], here[1], *ends):
        os.close(end)
    try:
        yield Page(here[0], there[1])
    finally:
        process.terminate()
        process.wait(20)
        for end in (there[1], here[0]):
            os.close(end)
