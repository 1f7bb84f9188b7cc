"""The gateway under test: its build, its temporary folder, and what an operator does to it while it serves."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
POLICY = "routing"


def build():
    """The gateway's program: the one that `POINTSMAN` names, or a release build."""
    if named := os.environ.get("POINTSMAN"):
        return Path(named).resolve()
    subprocess.run(["cargo", "build", "--release", "--bin", "pointsman"], cwd=ROOT, check=True)
    metadata = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
    found = subprocess.run(metadata, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return Path(json.loads(found)["target_directory"]) / "release" / "pointsman"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Gateway:
    """A running gateway. What it was given is gone when it ends."""

    def __init__(self, program):
        self.folder = Path(tempfile.mkdtemp(prefix="pointsman-outage-"))
        self.port, self.admin = free_port(), free_port()
        text = (HERE / "pointsman.toml").read_text()
        text = re.sub(r"(?m)^listen = .*", f'listen = "127.0.0.1:{self.port}"', text)
        self.text = re.sub(r"(?m)^admin = .*", f'admin = "127.0.0.1:{self.admin}"', text)
        self.fail("")
        (self.folder / "plugins").mkdir()
        self.drop("plan-b")
        self.log = open(self.folder / "log", "w+")
        command = [program, "serve", "--config", self.folder / "pointsman.toml"]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=self.log, stderr=self.log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_until_ready(self):
        give_up = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < give_up:
            try:
                return self.operator("GET", "/readyz")
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise SystemExit(f"the gateway does not come up:\n{self.last_words()}")

    def last_words(self):
        self.log.seek(0)
        return "".join(self.log.readlines()[-20:])

    def operator(self, method, path):
        """Asks the listener for operators."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def fail(self, errors):
        """Gives the largest vendor these errors, such as `"503" = 0.5`: the gateway reads its file again."""
        text = re.sub(r"(?m)^(sim = .*) \} # `run`.*", rf"\1, errors = {{ {errors} }} }}", self.text)
        replace(self.folder / "pointsman.toml", text.encode())

    def drop(self, ready_made):
        """Puts a ready-made policy into the plugin folder, under the name that the route asks for."""
        policy = (ROOT / "plugins" / f"{ready_made}.wasm").read_bytes()
        replace(self.folder / "plugins" / f"{POLICY}.wasm", policy)

    def rollback(self):
        self.operator("POST", f"/api/policies/{POLICY}/rollback")


def replace(path, content):
    """Whole at once: written beside its name, and renamed."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    beside.rename(path)
