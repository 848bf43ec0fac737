"""A file of a git revision, read without a checkout: neither the working tree nor a link in it is followed."""

from __future__ import annotations

import os
import posixpath
import subprocess

from archcalc.errors import InputError
from archcalc.files.text_file import refuse_larger
from archcalc.limits import JSON_BYTES, Limit

PREFIX = "git:"

_QUIET = {
    "GIT_NO_LAZY_FETCH": "1",  # a partial clone may lack the object: an error, not a download
    "GIT_NO_REPLACE_OBJECTS": "1",  # as committed, whatever `git replace` puts in its place
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}

_PLAIN = ("does not exist", "exists on disk", "bad file", "Needed a single revision", "unknown revision")
"""Reasons of git that say no more than the message beside them."""


def split(argument: str) -> tuple[str, str]:
    """Revision and path of `git:REV:path`. Raises InputError where one is missing."""
    revision, colon, path = argument.removeprefix(PREFIX).partition(":")
    if not colon or not revision or not path:
        raise InputError(
            "a file of a revision is written git:REV:path",
            value=argument,
            hint="for example git:HEAD:specs/k25.yaml",
        )
    return revision, path


def from_top(argument: str) -> str:
    """`git:REV:path` with a path from the top of the repository, where it counts from here (./ or ../). Raises
    InputError outside a repository."""
    revision, path = split(argument)
    if not path.startswith(("./", "../")):
        return argument
    here = _asked("--show-prefix", argument)
    return f"{PREFIX}{revision}:{posixpath.normpath(posixpath.join(here, path))}"


def committed(file: str, revision: str) -> str | None:
    """A file of the working tree as `git:REV:path`, links on the way to it followed; None for one outside the
    repository. Raises InputError outside a repository."""
    path = os.path.relpath(os.path.realpath(file), os.path.realpath(_asked("--show-toplevel", file)))
    return None if path.startswith("..") else f"{PREFIX}{revision}:{path}"


def blob(argument: str, *, limit: Limit = JSON_BYTES) -> bytes:
    """The bytes of `git:REV:path`, as committed; REV is anything that names a commit or tree.

    Raises:
        InputError: git is missing, no repository, no such revision, no such file in it, or a file beyond
            `limit`.
    """
    revision, path = split(argument)
    name = _name(argument)
    size = _git(
        "cat-file", "-s", name,
        failed=f"revision {revision} has no file {path}",
        argument=argument,
        hint="paths count from the top of the repository; ./ before one makes it count from here",
    )  # fmt: skip
    refuse_larger(int(size), limit, argument)
    hint = "name a file inside it, such as a config.json"
    failed = f"{path} is no file in revision {revision}"
    return _git("cat-file", "blob", name, failed=failed, argument=argument, hint=hint)


def exists(argument: str) -> bool:
    """Whether a revision has the file of `git:REV:path`. Raises InputError where there is no such revision."""
    name = _name(argument)
    try:
        _git("cat-file", "-e", name, failed="no such file", argument=argument)
    except InputError:
        return False
    return True


def beside(argument: str, name: str, limit: Limit) -> bytes | None:
    """The bytes of the file of another name beside `git:REV:path`, None where there is none. Raises as `blob`."""
    revision, path = split(argument)
    other = f"{PREFIX}{revision}:{posixpath.join(posixpath.dirname(path), name)}"
    return blob(other, limit=limit) if exists(other) else None


def _name(argument: str) -> str:
    """What git calls `git:REV:path`: the tree's object id and the path. Raises InputError."""
    revision, path = split(argument)
    _git("rev-parse", "--git-dir", failed="this is not inside a git repository", argument=argument)
    tree = _git(
        "rev-parse", "--verify", "--end-of-options", revision + "^{tree}",
        failed=f"git knows no revision {revision}",
        argument=argument,
        hint="a shallow clone has only its newest commits: fetch the others (in GitHub Actions, fetch-depth: 0)",
    )  # fmt: skip
    return f"{tree.decode().strip()}:{path}"


def _asked(flag: str, argument: str) -> str:
    """What `git rev-parse` says about where this is."""
    answer = _git("rev-parse", flag, failed="this is not inside a git repository", argument=argument)
    return os.fsdecode(answer).removesuffix("\n")


def _git(*arguments: str, failed: str, argument: str, hint: str | None = None) -> bytes:
    """What a git command prints. Raises InputError with git's own first line as the reason."""
    try:
        done = subprocess.run(
            ["git", "--no-pager", "--literal-pathspecs", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=os.environ | _QUIET,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        raise InputError("git is not installed", source=argument, hint="git:REV:path needs the git command") from None
    except subprocess.TimeoutExpired:
        raise InputError("git did not answer within a minute", source=argument) from None
    except (OSError, ValueError):  # a NUL, or an argument longer than the system takes
        raise InputError("not a usable revision or path", source=argument) from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().split("\n")[0]
        told = not reason or any(words in reason for words in _PLAIN)
        shown = failed if told else f"{failed} ({reason})"
        raise InputError(shown, source=argument, value=argument, hint=hint)
    return done.stdout
