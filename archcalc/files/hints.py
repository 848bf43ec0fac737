"""What somebody means who names a file that is none of the bundled ones: the same one called otherwise, one of another
kind, or nothing that is here.

Names of models and GPUs lie close together: Kimi K2 is no slip of Kimi K2.5, nor h20 of h200. A name is proposed only
where nothing that tells two of them apart is changed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from archcalc.errors import near_miss
from archcalc.files.gpu_names import FILE_HINT, same_gpu
from archcalc.files.identity import TAKES
from archcalc.files.loader import NOUNS, bundled_dir, bundled_names

__all__ = ["bundled_as", "hub_hint", "name_hint"]

_REPOSITORY = re.compile(r'^  backbone: "([\w-]+/[\w.-]+) ', re.MULTILINE)
"""The repository that a bundled spec's sizes are from, first of its sources."""

_SEVERAL = re.compile(r"(?P<before>[0-9]+) *[x*] *(?P<name>.+)|(?P<named>.+?) *[x*:] *(?P<behind>[0-9]+)")
"""A GPU with a number of it, as 8xh200 or h200:8."""


class Bundled(NamedTuple):
    """A bundled file by its name, with what else people call it: its title, and a spec's repository of the hub."""

    name: str
    title: str
    repository: str

    @property
    def others(self) -> tuple[str, ...]:
        """The same in other words, as far as it has any."""
        return tuple(filter(None, (self.title, self.repository, self.repository.rpartition("/")[2])))


def name_hint(argument: str, kind: str, path: str) -> str:
    """What an unknown name of a bundled file probably means, or else what there is and that `path` will do."""
    elsewhere = next((k for k in NOUNS if k != kind and argument.lower() in bundled_names(k)), None)
    if elsewhere is not None:
        name, noun = argument.lower(), NOUNS[elsewhere]
        return f"{name} is a bundled {noun}: {TAKES[elsewhere].format(name)}"
    if kind == "hardware" and (several := _several(argument)) is not None:
        return several
    known = _bundled(kind)
    names = [each.name for each in known]
    meant = same_gpu(argument, {each.name: each.title for each in known}) if kind == "hardware" else None
    meant = meant or _same(argument, known) or (None if kind == "hardware" else _slip(argument, names))
    if meant is not None:
        return f"did you mean {meant}?"
    begun = [each.name for each in known if argument and _begins(argument, each)]
    if begun and kind != "hardware":
        return f"bundled {NOUNS[kind]}s that begin so: {', '.join(begun)}; or give {path}"
    own = {"hardware": f" to a file: {FILE_HINT}", "": ", a config.json or hf:ORG/NAME"}.get(kind, "")
    return f"bundled: {', '.join(names)}; or give {path}{own}"


def hub_hint(model: str) -> str:
    """What ORG/NAME means without the prefix of the hub: a bundled spec of that release too, where there is one."""
    known = bundled_as(model)
    bundled = "" if known is None else f"{known.name} ({known.title}, bundled) or "
    return f"did you mean {bundled}hf:{model}?"


def bundled_as(model: str) -> Bundled | None:
    """The bundled spec of a release of the hub, by ORG/NAME; None where there is none."""
    return next((each for each in _bundled("") if _plain(each.repository) == _plain(model)), None)


def _several(argument: str) -> str | None:
    """What to write for a number of GPUs, or for several names, in one word."""
    names = bundled_names("hardware")
    found = _SEVERAL.fullmatch(argument)
    if found is not None:
        name, number = found["name"] or found["named"], found["before"] or found["behind"]
        if name.lower() in names:
            return f"a name is of one GPU; serve takes their number apart: --gpu {name.lower()} --gpus {number}"
    listed = [word.strip().lower() for word in argument.split(",")]
    if len(listed) > 1 and set(listed) <= set(names):
        return f"one at a time: {listed[0]}; serve --gpu all is a table of all, and plot memory takes several --gpu"
    return None


def _bundled(kind: str) -> list[Bundled]:
    """All bundled files of a kind. Titles and sources stand on lines of their own."""
    found = []
    for name in bundled_names(kind):
        text = (bundled_dir() / kind / f"{name}.yaml").read_text(encoding="utf-8")
        title, repository = re.search(r"^title: *(.*)$", text, re.MULTILINE), _REPOSITORY.search(text)
        found.append(Bundled(name, title[1] if title else "", repository[1] if repository else ""))
    return found


def _same(argument: str, known: list[Bundled]) -> str | None:
    """A bundled file whose name, title or repository is the argument, but for case and punctuation."""
    asked = _plain(argument)
    for each in known:
        if asked and asked == _plain(each.name):
            return each.name
    for each in known:
        if asked and asked in map(_plain, each.others):
            return f"{each.name} ({each.title})"
    return None


def _slip(argument: str, names: list[str]) -> str | None:
    """The name that the argument is a slip of, word by word."""
    asked = _words(argument)
    for name in names:
        words = _words(name)
        pairs = list(zip(asked, words, strict=False))
        if len(asked) == len(words) and all(one == other or near_miss(one, [other]) for one, other in pairs):
            return name
    return None


def _begins(argument: str, each: Bundled) -> bool:
    return any(_plain(text).startswith(_plain(argument)) for text in (each.name, *each.others) if _plain(argument))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _plain(text: str) -> str:
    """Letters and digits alone."""
    return "".join(_words(text))
