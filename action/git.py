"""What git has of two revisions: which files differ, which of them a pattern takes, and what is in them.

Plumbing alone: no setting of the repository, no attribute and no link of the checkout changes what is read.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

SECONDS = 120
"""For one command of git; a listing of a large repository takes some."""

CHUNK = 64
"""Files that are in memory at a time."""

PLAIN = ("100644", "100755", "100664")
"""Modes of a file that is neither a link (120000) nor a submodule (160000); the last is of old repositories."""

_QUIET = {
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}

_TREES = ("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", "--ignore-submodules=none")


class Failure(Exception):
    """Something that keeps the whole action from answering; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Entry(NamedTuple):
    """A path of a tree: its mode and the id of its object."""

    mode: str
    oid: str

    @property
    def plain(self) -> bool:
        """Whether it is a file whose content is what it says."""
        return self.mode in PLAIN


class Differing(NamedTuple):
    """A path that differs; a side is None where nothing is at that path."""

    path: str
    old: Entry | None
    new: Entry | None


def git(*arguments: str, failed: str, hint: str = "", given: bytes = b"") -> bytes:
    """What a git command prints. Raises Failure."""
    try:
        done = subprocess.run(
            ["git", "--no-pager", *arguments],
            capture_output=True,
            input=given,
            env=os.environ | _QUIET,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure(failed, f"git did not answer within {SECONDS} s") from None
    except (OSError, ValueError) as error:
        raise Failure(failed, str(error)) from None
    if done.returncode:
        reason = os.fsdecode(done.stderr).strip().partition("\n")[0]
        raise Failure(f"{failed} ({reason})" if reason else failed, hint)
    return done.stdout


def word(*arguments: str, failed: str, hint: str = "") -> str:
    """The one line that a git command prints. Raises Failure."""
    return os.fsdecode(git(*arguments, failed=failed, hint=hint)).strip()


@cache
def empty_tree() -> str:
    """The object id of a tree without files."""
    return word("hash-object", "-t", "tree", "--stdin", failed="git has no empty tree")


def between(old: str, new: str, patterns: Sequence[str] = ()) -> list[Differing]:
    """The paths that differ between two trees, by path; with patterns those that one of them takes. Raises Failure."""
    specs = [pattern if pattern.startswith(":") else f":(top,glob){pattern}" for pattern in patterns]
    text = os.fsdecode(git(*_TREES, old, new, "--", *specs, failed="git can't list what differs"))
    words = iter(text.split("\0"))
    return sorted(Differing(next(words), *_sides(status)) for status in words if status)


def _sides(status: str) -> tuple[Entry | None, Entry | None]:
    """Both sides of `:OLDMODE NEWMODE OLDID NEWID STATUS`."""
    old, new, was, now, _ = status.removeprefix(":").split(" ")
    return (
        None if old == "000000" else Entry(old, was),
        None if new == "000000" else Entry(new, now),
    )


def files(revision: str, patterns: Sequence[str] = ()) -> dict[str, Entry]:
    """All files of a tree, or those that a pattern takes, links and submodules among them. Raises Failure."""
    return {found.path: found.new for found in between(empty_tree(), revision, patterns) if found.new is not None}


def contents(oids: Sequence[str], most: int) -> Iterator[bytes | None]:
    """The bytes of each object, in turn; None for what is no file or has more than `most` bytes. Raises Failure."""
    unread = "git can't read the files"
    for start in range(0, len(oids), CHUNK):
        asked = oids[start : start + CHUNK]
        told = git("cat-file", "--batch-check", failed=unread, given=_list(asked)).splitlines()
        small = [_size(line) <= most for line in told]
        wanted = [oid for oid, fits in zip(asked, small, strict=True) if fits]
        texts = _batch(git("cat-file", "--batch", failed=unread, given=_list(wanted)))
        for fits in small:
            yield next(texts) if fits else None


def _list(oids: Sequence[str]) -> bytes:
    return "".join(f"{oid}\n" for oid in oids).encode()


def _size(header: bytes) -> float:
    """The bytes of a file, from `ID blob SIZE`; of anything else more than may be read."""
    _, kind, *size = header.split(b" ")
    return int(size[0]) if kind == b"blob" else float("inf")


def _batch(text: bytes) -> Iterator[bytes]:
    """The contents out of what `cat-file --batch` prints: a header, as many bytes as it says, a line break."""
    at = 0
    while at < len(text):
        start = text.index(b"\n", at) + 1
        end = start + int(text[at : start - 1].rpartition(b" ")[2])
        yield text[start:end]
        at = end + 1
