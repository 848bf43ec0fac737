"""Copies of the project to mutate: the files that are here are never touched."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def files() -> list[str]:
    """The files of the project, by path."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def digest(*folders: str) -> str:
    """A hash of all Python files and data below these folders."""
    found = hashlib.sha256()
    for name in files():
        if name.startswith(folders) and not name.startswith("tests/mutation/"):
            found.update(name.encode() + b"\0" + (ROOT / name).read_bytes() + b"\0")
    return found.hexdigest()[:16]


def copied(folder: Path) -> Path:
    """A copy of the project in a folder of its own."""
    for name in files():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return folder


@contextmanager
def changed(tree: Path, file: str, text: str) -> Iterator[None]:
    """One file of a copy with another text, until the block ends. Its bytecode goes: a stamp in seconds can't tell."""
    path = tree / file
    before = path.read_text()
    bytecode = Path(importlib.util.cache_from_source(str(path)))
    bytecode.unlink(missing_ok=True)
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)
        bytecode.unlink(missing_ok=True)
