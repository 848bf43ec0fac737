"""A small Hugging Face hub on the loopback: files of repositories, by revision, with the hub's headers and errors."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from archcalc.hf.hub import THREAD
from tests.support import ROOT

COMMIT, OLD = "a" * 40, "b" * 40


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    token: str | None


@dataclass
class Hub:
    """What the server holds and what it was asked. `trouble`: called first, returns whether it has answered."""

    files: dict[str, bytes] = field(default_factory=dict)
    """`ORG/NAME/FILE` at the newest commit; `ORG/NAME@OLD/FILE` at the one before."""
    asked: list[Asked] = field(default_factory=list)
    trouble: Callable[[Handler], bool] = lambda handler: False
    url: str = ""
    closed: bool = False

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]


class Handler(BaseHTTPRequestHandler):
    """Answers `/ORG/NAME/resolve/REVISION/FILE`, as https://huggingface.co does."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked.append(Asked(self.command, self.path, self.headers.get("Authorization")))
        try:
            if not self.hub.trouble(self):
                self.file()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def file(self) -> None:
        parts = self.path.lstrip("/").split("/")
        if len(parts) != 5 or parts[2] != "resolve":
            return self.answer(404, {"X-Error-Code": "RepoNotFound"})
        org, name, _, revision, file = parts
        if not any(known.startswith(f"{org}/{name}/") for known in self.hub.files):
            return self.answer(
                401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."}
            )
        commit = {"main": COMMIT, COMMIT: COMMIT, "v1": OLD, OLD: OLD}.get(revision)
        if commit is None:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        content = self.hub.files.get(f"{org}/{name}{'@OLD' if commit == OLD else ''}/{file}")
        if content is None:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        etag = hashlib.sha1(content).hexdigest()
        warning = {"X-HF-Warning": "old; the hub warns of something"}  # huggingface_hub logs it
        self.answer(200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit} | warning, content)

    def answer(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub, answering at `hub.url` until the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closed = True
        server.shutdown()
        server.server_close()
        thread.join()
        for each in threading.enumerate():  # one that was given up on ends when its server does
            if each.name == THREAD:
                each.join(timeout=10)


def drip(handler: Handler) -> bool:
    """A server that sends a byte of its headers now and then, and never all."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not handler.hub.closed:
        handler.wfile.write(b".")
        time.sleep(0.1)
    handler.close_connection = True
    return True


def in_a_process(argument: str, env: dict[str, str], before: str = "") -> subprocess.CompletedProcess[str]:
    """The config that an argument names, printed by a process of its own, or the error as archcalc prints it."""
    code = (
        f"{before}\n"
        "import json, sys\n"
        "from archcalc.errors import ArchcalcError\n"
        "from archcalc.hf.source import source_of\n"
        "try: print(json.dumps(source_of(sys.argv[1]).config.data))\n"
        "except ArchcalcError as error: sys.exit(error.render())\n"
    )
    clean = {
        key: value for key, value in os.environ.items() if not key.lower().startswith(("hf_", "http", "all_proxy"))
    }
    return subprocess.run(
        [sys.executable, "-c", code, argument],
        env=clean | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
