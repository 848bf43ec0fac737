"""Our own account of what goes wrong between here and the Hugging Face hub.

huggingface_hub's errors and those of the HTTP library below it, which has changed more than once, are told apart by
the names of their classes and ancestors.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from archcalc.errors import InputError


class Asked(NamedTuple):
    """What was asked for: `argument` as the user wrote it, the file that must be there, the hub's address."""

    argument: str
    model: str
    revision: str | None
    host: str
    file: str


_SLOW = (
    "{host} does not answer in time",
    "try again; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, in seconds, allow more",
)
_ENDPOINT = "check HF_ENDPOINT, which names the hub's address"

_TOLD: tuple[tuple[str, str, str], ...] = (
    ("HFValidationError", "`{model}` can't be the name of a model", "write hf:ORG/NAME, or hf:ORG/NAME@REVISION"),
    (
        "GatedRepoError",
        "{model} is gated: its owner decides who may read it",
        "ask for access at {host}/{model}, then set HF_TOKEN",
    ),
    ("DisabledRepoError", "{model} is disabled at {host}", "another repository may hold the same model"),
    (
        "RevisionNotFoundError",
        "{model} has no revision {revision}",
        "give a branch, a tag or the whole hash of a commit",
    ),
    (
        "RepositoryNotFoundError",
        "{host} has no model {model}, or shows it to some only",
        "check the name; a private or gated model needs HF_TOKEN",
    ),
    (
        "RemoteEntryNotFoundError",
        "{model} has no {file}",
        "a repository of converted weights may lack it: name the one that they were made from",
    ),
    (
        "OfflineModeIsEnabled",
        "HF_HUB_OFFLINE is set, and {file} of {model} is not in the cache",
        "unset HF_HUB_OFFLINE to ask {host}",
    ),
    ("TimeoutError", *_SLOW),
    ("TimeoutException", *_SLOW),
    ("UnicodeEncodeError", "the access token has characters that none has", "check HF_TOKEN"),
    ("FileMetadataError", "{host} does not answer as the hub does: it names no commit or no ETag", _ENDPOINT),
    (
        "NetworkError",
        "{host} can't be reached: {reason}",
        "check the network, and HTTPS_PROXY if it has a proxy; a file or a folder needs none",
    ),
    ("ProxyError", "the proxy does not let through to {host}: {reason}", "check HTTPS_PROXY and NO_PROXY"),
)
"""Class of the error or of an ancestor, what we say, and the hint. The first that fits is used."""

_STATUS: dict[int, tuple[str, str]] = {
    401: ("{host} refuses the access token, or wants one", "check HF_TOKEN"),
    403: ("{host} forbids to read {model}", "check that HF_TOKEN may read it; for a gated model it must say so"),
    404: ("{host} has no {file} of {model}", "check the name and the revision"),
    429: ("{host} has had too many requests", "wait some minutes; with HF_TOKEN more are allowed"),
}
"""The same by HTTP status, where the hub does not say which error it is."""


def kinds(error: BaseException) -> set[str]:
    """Names of the classes of an error, and of those that it was made from."""
    names: set[str] = set()
    while True:
        names |= {each.__name__ for each in type(error).__mro__}
        if error.__cause__ is None:
            return names
        error = error.__cause__


def unreachable(error: BaseException) -> str | None:
    """Why the hub could not be asked, in a few words; None if it gave an answer."""
    status = _status(error)
    if status is not None:
        return f"the hub answers {status}" if status >= 500 or status in (408, 429) else None
    found = kinds(error) & {"OfflineModeIsEnabled", "NetworkError", "ProxyError", "TimeoutException", "TimeoutError"}
    return "the hub can't be reached" if found else None


def told(error: Exception, asked: Asked) -> InputError:
    """The error as one sentence and a hint."""
    if isinstance(error, InputError):
        return error
    message, hint = _words(error)
    values = asked._asdict() | {"reason": _reason(error), "revision": asked.revision or "main"}
    return InputError(message.format(**values), source=asked.argument, hint=hint.format(**values))


def _words(error: Exception) -> tuple[str, str]:
    """What to say of an error, with names of values in braces."""
    found = kinds(error)
    for name, message, hint in _TOLD:
        if name in found:
            return message, hint
    status = _status(error)
    if status in _STATUS:
        return _STATUS[status]
    if status is not None and status >= 500:
        return f"{{host}} has trouble of its own: it answers {status}", "try again later"
    if getattr(error, "errno", None) is not None:
        return "the cache can't be used: {reason}", "HF_HOME names the folder that it is in"
    if found & {"AttributeError", "NameError", "TypeError"}:
        return "huggingface_hub fails: {reason}", "another version of it may not: pip install -U huggingface_hub"
    return "{host} does not answer as the hub does: {reason}", _ENDPOINT


def _status(error: BaseException) -> int | None:
    """HTTP status of the answer that an error is about."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status is None and error.__cause__ is not None:
        return _status(error.__cause__)
    return status if isinstance(status, int) else None


def _reason(error: BaseException) -> str:
    """The library's own words: the first line, without numbers of the operating system, at most 100 characters."""
    while error.__cause__ is not None and not getattr(error, "errno", None):
        error = error.__cause__
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = re.sub(r"\[Errno -?\d+\] ", "", str(text)).strip().partition("\n")[0]
    return line if len(line) <= 100 else line[:97] + "..."
