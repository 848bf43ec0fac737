"""A few small files of a repository of the Hugging Face hub: the only place of this package that uses the network.

huggingface_hub does the work, and its settings hold: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME and the rest. Here
stand the bounds that it does not have: files are small, nothing is printed, nothing but the named files is asked
for, and an answer comes within a time, whatever the server does.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Self, TypeVar

from archcalc.errors import InputError
from archcalc.files.text_file import refuse_larger
from archcalc.hf.hub_errors import Asked, kinds, told, unreachable
from archcalc.hf.json_file import TOO_MUCH
from archcalc.limits import Limit

T = TypeVar("T")

PATIENCE = 12
"""The whole may take this many times the longest wait for one answer (10 s, or HF_HUB_DOWNLOAD_TIMEOUT)."""

THREAD = "archcalc-hub"
"""Name of the thread that asks."""

_LOUDEST = 50
"""Log level of what is still shown: CRITICAL."""


class Fetched(NamedTuple):
    """paths: file name to where it lies on this machine, None where the repository has none. commit: its hash."""

    paths: dict[str, str | None]
    commit: str


def fetch(argument: str, model: str, revision: str | None, files: Mapping[str, Limit]) -> Fetched:
    """Files of a repository at a revision, all of the same commit, from the cache where it holds them.

    Warns where the hub can't be reached and what the cache holds is used in its place.

    Args:
        argument: what the user wrote, for messages.
        model: ORG/NAME.
        revision: a branch, tag or commit; None for the default branch.
        files: name to how large it may be; the first must be there, the others may be.

    Raises:
        InputError: the one sentence that says why there is no answer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hub = _imported(argument)
        host = re.sub(r"//[^/@]*@", "//", hub.constants.ENDPOINT)
        release = _Release(hub, Asked(argument, model, revision, host, next(iter(files))), files)
        try:
            fetched, note = _within(_patience(hub), lambda: _quietly(hub, release.fetch))
        except Exception as error:
            raise told(error, release.asked) from None
    if note:
        warnings.warn(f"{argument}: {note}", stacklevel=2)
    return fetched


def _imported(argument: str) -> Any:
    """huggingface_hub. Raises InputError where it is missing, or can't be imported."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils.logging
    except ImportError:
        message, hint = "reading from the hub needs huggingface_hub", "pip install 'archcalc[hub]'"
        raise InputError(message, source=argument, hint=hint) from None
    except Exception as error:  # it reads its environment variables now
        hint = "an environment variable HF_... has a value that it can't read"
        raise InputError(f"huggingface_hub can't be imported: {error}", source=argument, hint=hint) from None
    return huggingface_hub


def _patience(hub: Any) -> float:
    """How long the whole may take [s]."""
    waits = hub.constants.HF_HUB_DOWNLOAD_TIMEOUT, hub.constants.HF_HUB_ETAG_TIMEOUT
    return float(PATIENCE * max(1, *waits))


def _within(seconds: float, task: Callable[[], T]) -> T:
    """What a task returns or raises; TimeoutError if it takes longer. It is left alone then: a socket can't be told."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(task())
        except Exception as error:
            errors.append(error)

    thread = Thread(target=run, name=THREAD, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def _quietly(hub: Any, task: Callable[[], T]) -> T:
    """What a task returns, while huggingface_hub logs nothing, reports nothing and uses plain HTTP."""
    with _setting(hub.constants, HF_HUB_DISABLE_TELEMETRY=True, HF_HUB_DISABLE_XET=True):
        log = hub.utils.logging
        before = log.get_verbosity()
        log.set_verbosity(_LOUDEST)
        try:
            return task()
        finally:
            log.set_verbosity(before)


@contextmanager
def _setting(module: Any, **values: object) -> Iterator[None]:
    """Attributes of a module, for a while."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


class _Release:
    """A repository at a revision."""

    def __init__(self, hub: Any, asked: Asked, files: Mapping[str, Limit]) -> None:
        self.hub = hub
        self.asked = asked
        self.files = files

    def fetch(self) -> tuple[Fetched, str | None]:
        """The files, and what to warn of."""
        revision = self.asked.revision
        if revision and re.fullmatch("[0-9a-f]{40}", revision):
            known = {name: self.cached(name, revision) for name in self.files}
            if None not in known.values():  # a commit does not change
                return _fetched(known, revision), None
        try:
            path = self.get(self.asked.file, revision)
        except Exception as error:
            if (reason := unreachable(error)) is None:
                raise
            return self.from_cache(error, reason)
        commit = Path(path or "").parent.name
        paths: dict[str, str | None] = {self.asked.file: path}
        for name in self.files:
            if name not in paths:
                known_path = self.cached(name, commit)
                paths[name] = self.get(name, commit) if known_path is None else known_path or None
        return Fetched(paths, commit), None

    def get(self, name: str, revision: str | None) -> str | None:
        """A file, fetched if it is not in the cache; None if there is none and none is needed.

        The cheap question comes first: huggingface_hub asks it once, and a download for minutes.
        """
        model, limit, source = self.asked.model, self.files[name], f"{self.asked.argument}/{name}"
        with suppress(self.hub.errors.RemoteEntryNotFoundError):
            url = self.hub.hf_hub_url(model, name, revision=revision)
            wait = self.hub.constants.HF_HUB_ETAG_TIMEOUT
            size = self.hub.get_hf_file_metadata(url, timeout=wait, library_name="archcalc").size
            refuse_larger(size or 0, limit, source, TOO_MUCH)
        try:
            meter = _meter(limit, source)
            found = self.hub.hf_hub_download(model, name, revision=revision, tqdm_class=meter, library_name="archcalc")
        except self.hub.errors.RemoteEntryNotFoundError:
            if name == self.asked.file:
                raise
            return None  # the cache knows it from now on
        return str(found)

    def cached(self, name: str, revision: str | None) -> str | None:
        """Where the cache holds a file; "" if it knows that there is none, None if it does not know."""
        found = self.hub.try_to_load_from_cache(self.asked.model, name, revision=revision)
        return found if found is None or isinstance(found, str) else ""

    def from_cache(self, error: Exception, reason: str) -> tuple[Fetched, str | None]:
        """What the cache holds, and what to warn of. Raises the error if it does not hold enough."""
        found = self.cached(self.asked.file, self.asked.revision)
        if not found:
            raise error
        commit = Path(found).parent.name
        known = {name: self.cached(name, commit) for name in self.files}
        notes = [] if "OfflineModeIsEnabled" in kinds(error) else [f"{reason}; the cache has commit {commit[:12]}"]
        if unknown := [name for name, path in known.items() if path is None]:
            notes.append(f"the cache does not say whether there is {' or '.join(unknown)}")
        return _fetched(known, commit), "; ".join(notes) or None


def _fetched(known: Mapping[str, str | None], commit: str) -> Fetched:
    return Fetched({name: path or None for name, path in known.items()}, commit)


def _meter(limit: Limit, source: str) -> type:
    """A progress bar that shows nothing and stops a download beyond its limit."""

    class Meter:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.n = 0

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            refuse_larger(self.n, limit, source, TOO_MUCH)

        def close(self) -> None:
            pass

    return Meter
