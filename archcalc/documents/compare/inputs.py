"""What two reports of one command were computed from, and what of them can be compared.

Files that they name are compared by what is in them: a plan under another name is the same plan, and another file of
the same name is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from archcalc.documents.compare.fields import Tree, findings_tree
from archcalc.documents.compare.saved import Saved
from archcalc.documents.kept import texts
from archcalc.errors import InputError, show_value
from archcalc.files.loader import load_spec, only_kept
from archcalc.hardware import load_hardware
from archcalc.section import Section
from archcalc.serving.engine import load_engine
from archcalc.training.load import load_plan

UNSAID = (
    "A report of an earlier version does not say which plans and GPUs it is about: what only one side says is not"
    " compared."
)

_LOADERS: dict[str, Callable[[str], Section]] = {
    "plan": load_plan,
    "gpu": load_hardware,
    "engine": load_engine,
    "draft": load_spec,
}
"""What reads a file, by the input that names it."""

_CALLED = {"plan": {"kind", "name", "title", "sources"}, "gpu": {"kind", "sources"}}
"""Keys of a file that say something about it and change nothing of it. A GPU's name does: engines ask for it."""


class About(NamedTuple):
    """What the first file of a kind gives a report of everything: the beginning of its quantities, and words."""

    beginning: str
    noun: str
    word: str


_BOOK = {"plan": About("train.", "plans", "training"), "gpu": About("serve.", "GPUs", "serving")}
"""By the input that lists such files."""

_ANY_GPU = ("serve.context_limit",)
"""Of those, what no GPU changes."""

_FINDINGS = ("verdict", "cause", "quantity", "claimed", "computed", "ours", "theirs", "difference")
"""Keys of a finding that are a result; the rest is words."""


def shared(ours: Saved, theirs: Saved) -> tuple[Callable[[str], bool], list[str]]:
    """Which quantities of two reports of one command answer the same question, and notes on what was left out."""
    both = ours.quantities.keys() & theirs.quantities.keys()
    if ours.command == "claims":
        return both.__contains__, []
    if ours.command != "report":
        return lambda name: True, []
    if ("plan" in ours.inputs) != ("plan" in theirs.inputs):
        return both.__contains__, [UNSAID]
    apart, notes = [], []
    for name, about in _BOOK.items():
        one, other = (_listed(side, name) for side in (ours, theirs))
        if not _same(one[:1], other[:1]):
            apart.append(about.beginning)
            told = " and ".join(", ".join(show_value(word) for word, _ in side) or "none" for side in (one, other))
            notes.append(f"The reports are about other {about.noun}, {told}: {about.word} is not compared.")
    return lambda name: name in _ANY_GPU or not name.startswith(tuple(apart)), notes


def trees(ours: Saved, theirs: Saved) -> tuple[Tree, Tree]:
    """The inputs, files, layouts and findings of two reports, those of them that both say."""
    one, other = (_tree(side) for side in (ours, theirs))
    if ours.command == "report":
        for tree in (one, other):
            for name in _BOOK:
                tree.pop(name, None)
    if ours.sha256 and ours.sha256 == theirs.sha256:
        one.pop("spec", None)
    for name in _LOADERS:
        contents = [_content(side, name, side.inputs.get(name)) for side in (ours, theirs)]
        if name in one and name in other and None not in contents:
            one[name], other[name] = contents
    return {n: v for n, v in one.items() if n in other}, {n: v for n, v in other.items() if n in one}


def _tree(saved: Saved) -> dict[str, Any]:
    tree = {**saved.inputs, "findings": findings_tree([_result(finding) for finding in saved.findings])}
    if saved.layout:
        tree["layout"] = {name: value for name, value in saved.layout.items() if name not in _LOADERS}
    if saved.sha256:
        tree["spec_sha256"] = saved.sha256[:12]
    return tree


def _result(finding: Mapping[str, Any]) -> Mapping[str, Any]:
    named = {name: finding.get(name) for name in ("claim", "limit", "kind", "path")}
    return named | {name: finding.get(name) for name in _FINDINGS}


def _listed(saved: Saved, name: str) -> list[tuple[str, Any]]:
    """The files that a report of everything is about: name, and content where it is known."""
    words = saved.inputs.get(name)
    found = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
    return [(word, _content(saved, name, word)) for word in found]


def _same(one: list[tuple[str, Any]], other: list[tuple[str, Any]]) -> bool:
    """Whether files are the same: by what is in them; by name where that is not at hand."""
    if len(one) != len(other):
        return False
    files = zip(one, other, strict=True)
    return all(a == b if None not in (a, b) else name == named for (name, a), (named, b) in files)


def _content(saved: Saved, name: str, word: object) -> dict[str, Any] | None:
    """What is in a file that a report names, in full; None where it names none, or the file is not at hand."""
    if not isinstance(word, str):
        return None
    try:
        with only_kept(texts(saved.files)):
            read = _LOADERS[name](word).model_dump()
            if name == "plan":
                read["hardware"] = _plain(load_hardware(read["hardware"]).model_dump(), "gpu")
    except (InputError, TypeError, ValueError, AttributeError):
        return None
    return _plain(read, name)


def _plain(read: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in read.items() if key not in _CALLED.get(name, {"kind", "sources"})}
