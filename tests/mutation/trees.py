"""Copies of the project to mutate: the files that are here are never touched."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def files() -> list[str]:
    """The files of the project, by path."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def digests(*folders: str) -> dict[str, str]:
    """A hash of every file below these folders, by path; these tools themselves left out."""
    names = [name for name in files() if name.startswith(folders) and not name.startswith("tests/mutation/")]
    return {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest()[:16] for name in names}


def digest(found: Mapping[str, str]) -> str:
    """One hash of several files."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


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
