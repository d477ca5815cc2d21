"""A page in headless Chromium, driven by the DevTools protocol over two pipes."""

import contextlib
import json
import os
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = "--headless=new --no-sandbox --remote-debugging-pipe"
OPTIONS += " --use-angle=swiftshader --enable-unsafe-swiftshader"  # WebGL without a GPU.


class Page:
    """A tab. `events` are those of the browser so far."""

    def __init__(self, commands, answers):
        self.commands, self.answers, self.events, self.session = commands, answers, [], {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        message = {"id": 1, "method": method, "params": params} | self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while "id" not in (
            answer := json.loads(b"".join(iter(lambda: self.answers.read(1), b"\0")))
        ):
            self.events.append(answer)
        return answer["result"]

    def value(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def until(self, expression, seconds=300):
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.2)


@contextlib.contextmanager
def opened(profile):
    """A `Page` of a browser that keeps its files in the folder `profile`."""
    (read, commands), (answers, write) = os.pipe(), os.pipe()
    command = f"exec {PATH} {OPTIONS} --user-data-dir={profile} 3<&{read} 4>&{write}"
    process = subprocess.Popen(
        ["bash", "-c", command], pass_fds=(read, write), stderr=subprocess.DEVNULL
    )
    os.close(read), os.close(write)
    with open(commands, "wb") as commands, open(answers, "rb") as answers:
        try:
            yield Page(commands, answers)
        finally:
            process.kill()
            process.wait()
