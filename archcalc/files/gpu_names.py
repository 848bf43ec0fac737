"""Which bundled GPU a name means that is none of them: the same one spelt otherwise, never its neighbour.

Names of GPUs lie close together: to a spell checker h20 is a slip of h200, and it is a GPU with a third less memory. A
name is proposed only where nothing that tells GPUs apart is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["FILE_HINT", "same_gpu"]

FILE_HINT = "kind: hardware, name: mycard, memory_visible_bytes: 94.97GiB"
"""The keys of the smallest file that answers how much memory is needed."""

_VENDORS = frozenset({"nvidia", "amd", "geforce", "tesla", "instinct", "rtx", "gpu", "graphics"})
"""Words that stand before the names of many GPUs, and tell none from another of its maker."""

_STACKS = re.compile(r"hbm[0-9]*e?")
"""The kind of memory: a driver prints it, as in `NVIDIA H100 80GB HBM3`, and the size tells the GPUs apart."""


def same_gpu(asked: str, titles: Mapping[str, str]) -> str | None:
    """The bundled name that `asked` spells otherwise, or None. `titles` are the bundled titles by name.

    Case, punctuation, vendors, and words of form and size that the title has too make no difference: `nvidia-h100` and
    `H100 SXM5 80GB` are `h100`. Nor do swapped or doubled letters: `hh100` is `h100`. A digit or any other letter does.
    """
    for spelt in (_joined, _runs):
        for name, title in titles.items():
            if spelt(_essential(asked, name, title)) == spelt(_words(name)) != spelt(()):
                return name
    return None


def _essential(asked: str, name: str, title: str) -> list[str]:
    """The words of what was asked, without those of the title that the name itself leaves out."""
    implied = {word for word in _words(title) if word not in _joined(_words(name))}
    implied |= {word.rstrip("0123456789") for word in implied if word.startswith("sxm")}
    return [word for word in _words(asked) if word not in implied and not _STACKS.fullmatch(word)]


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _VENDORS]


def _joined(words: Iterable[str]) -> str:
    """One word, without vendors that stand before it without a blank."""
    return re.sub("^(?:nvidia|amd|geforce|rtx)+", "", "".join(words))


def _runs(words: Iterable[str]) -> list[str]:
    """Digits as they are, letters between them without order and number."""
    runs: list[str] = re.findall(r"[a-z]+|[0-9]+", "".join(words))
    return [run if run.isdigit() else "".join(sorted(set(run))) for run in runs]
