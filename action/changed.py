"""The specs that differ between two trees: edited, new, removed, or moved, and what is wrong with how they changed."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from action.git import Differing, Entry, Failure, between, contents, files
from action.known import ENDINGS, Known, read
from action.pairs import Matches, match
from archcalc.hf.source import CONFIG, INDEX, QUANT

MOST_SPECS = 200
"""Specs that differ, of one run."""

MOST_FILES = 5_000
"""Files that are looked through for a spec that is gone or for the name of another."""

MOST_LINK = 4096
"""Bytes of the path that a link holds."""

LINK = "it is a link or a submodule, and none is followed"
REPORT = "it is a saved report, whose numbers are what somebody wrote, and no spec"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A spec that differs.

    Attributes:
        old: its path before; None if it is new.
        new: its path now; None if it is gone.
        fault: why it does not pass, whatever the numbers are; empty where they decide.
        hint: what to do about the fault.
        code: the least exit code that it comes to.
        readable: whether there is anything to compare.
    """

    old: str | None
    new: str | None
    fault: str = ""
    hint: str = ""
    code: int = 0
    readable: bool = True

    @property
    def path(self) -> str:
        """The path to speak of."""
        return self.new or self.old or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What passes without numbers.

    Attributes:
        gated: whether anything is held against limits: then nothing may go unseen.
        allow_new: whether a spec may come.
        allow_removed: whether a spec may go, or leave the patterns.
    """

    gated: bool = False
    allow_new: bool = False
    allow_removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trees:
    """Two trees: the paths that the patterns take in each, all that differs, and what is known of the specs."""

    before: Mapping[str, Entry]
    after: Mapping[str, Entry]
    every: Sequence[Differing]
    differing: Sequence[Differing]
    was: Mapping[str, Known]
    now: Mapping[str, Known]


def changes(base: str, head: str, patterns: Sequence[str], rules: Rules) -> list[Change]:
    """The specs that differ, by path; one that went elsewhere is one change. Under limits also what must not be: links,
    saved reports, a name that another spec had. Raises Failure."""
    trees = _trees(base, head, patterns, rules)
    gone = [trees.was[d.path] for d in trees.differing if _plain(d.old) and d.new is None]
    came = [trees.now[d.path] for d in trees.differing if _plain(d.new) and not _plain(d.old)]
    renamed = [
        trees.now[d.path]
        for d in trees.differing
        if _plain(d.old) and _plain(d.new) and trees.now[d.path].name != trees.was[d.path].name
    ]
    matches = _matches(head, trees, gone, [*came, *renamed], rules)
    found = [*_in_place(trees, rules), *_moved(trees, gone, matches, rules)]
    taken = set(matches.pairs.values())
    found += [_new(spec, rules) for spec in came if spec.path not in taken]
    if rules.gated:
        found += _same_names(trees, [*came, *renamed])
        found = [_no_report(change, trees) for change in found]
    return sorted(found, key=lambda change: (change.path, change.old or ""))


def idle(base: str, head: str, patterns: Sequence[str]) -> list[str]:
    """The patterns of several that take no file in either tree; those that leave files out are not asked. Raises
    Failure."""
    asked = [pattern for pattern in patterns if not pattern.startswith(":")] if len(patterns) > 1 else []
    return [pattern for pattern in asked if not files(base, [pattern]) and not files(head, [pattern])]


def _plain(entry: Entry | None) -> bool:
    return entry is not None and entry.plain


def _trees(base: str, head: str, patterns: Sequence[str], rules: Rules) -> _Trees:
    before, after = files(base, patterns), files(head, patterns)
    if rules.gated and not before and not after:
        shown = ", ".join(patterns)
        raise Failure(f"no file is at {shown}, before or after", "correct the input `specs`; limits hold nothing so")
    every = between(base, head)
    differing = [d for d in _with_beside(every, before, after) if d.path in before or d.path in after]
    if len(differing) > MOST_SPECS:
        raise Failure(f"{len(differing):,} specs differ; one run compares {MOST_SPECS}", "narrow `specs`")
    old = [(d.path, d.old) for d in differing if d.old is not None and d.old.plain]
    new = [(d.path, d.new) for d in differing if d.new is not None and d.new.plain]
    was, now = ({spec.path: spec for spec in read(side)} for side in (old, new))
    return _Trees(before=before, after=after, every=every, differing=differing, was=was, now=now)


def _with_beside(
    every: Sequence[Differing], before: Mapping[str, Entry], after: Mapping[str, Entry]
) -> Iterator[Differing]:
    """What differs; also a config whose quantization, read from a file beside it, does."""
    yield from every
    seen = {d.path for d in every}
    for d in every:
        folder, name = posixpath.split(d.path)
        config = posixpath.join(folder, CONFIG)
        if name in (QUANT, INDEX) and config not in seen and config in before and config in after:
            seen.add(config)
            yield Differing(config, before[config], after[config])


def _matches(head: str, trees: _Trees, gone: Sequence[Known], near: Sequence[Known], rules: Rules) -> Matches:
    """What the specs that are gone became."""
    if not gone:
        return Matches({}, {})
    added = [(d.path, d.new) for d in trees.every if d.old is None and d.new is not None]
    far = list(read(_maybe([(path, entry) for path, entry in added if path not in trees.after]), sure=False))

    def elsewhere() -> list[Known]:
        if not (rules.gated and rules.allow_removed):  # what is found nowhere fails anyway
            return []
        known = {spec.path for spec in (*near, *far)}
        return list(read(_maybe([(p, e) for p, e in files(head).items() if p not in known]), sure=False))

    return match(gone, near, far, elsewhere)


def _maybe(entries: Sequence[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
    """The files that may be specs. Raises Failure for too many."""
    found = [(path, entry) for path, entry in entries if entry.plain and path.lower().endswith(ENDINGS)]
    if len(found) > MOST_FILES:
        message = f"{len(found):,} files may hold a spec; one run looks through {MOST_FILES:,}"
        raise Failure(message, "remove or move specs in a change of their own")
    return found


def _in_place(trees: _Trees, rules: Rules) -> Iterator[Change]:
    """Edits; and links, which under limits must not even stand there unchanged: what they lead to may have changed."""
    for d in trees.differing:
        if d.new is not None and not d.new.plain:
            yield Change(old=d.path, new=d.path, fault=LINK, hint=_NAME_IT, code=2, readable=False)
        elif d.new is None and d.old is not None and not d.old.plain:
            yield Change(old=d.path, new=None, readable=False)
        elif _plain(d.old) and _plain(d.new):
            yield Change(old=d.path, new=d.path)
    if rules.gated:
        for path in _leading_away(trees):
            yield Change(old=path, new=path, fault=LINK, hint=_NAME_IT, code=2, readable=False)


def _leading_away(trees: _Trees) -> Iterator[str]:
    """Links that are as they were and lead to what is no spec of the patterns; others are held where they lead to."""
    differing = {d.path for d in trees.differing}
    links = [(path, entry) for path, entry in trees.after.items() if not entry.plain and path not in differing]
    for (path, _), text in zip(links, contents([entry.oid for _, entry in links], MOST_LINK), strict=True):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), os.fsdecode(text or b"")))
        if not _plain(trees.after.get(target)):
            yield path


_NAME_IT = "name the file that it leads to in `specs`"


def _moved(trees: _Trees, gone: Sequence[Known], matches: Matches, rules: Rules) -> Iterator[Change]:
    """What became of the specs that are gone."""
    for spec in gone:
        new, unclear = matches.pairs.get(spec.path), matches.unclear.get(spec.path)
        if not rules.gated:
            yield Change(old=spec.path, new=new)
        elif unclear is not None:
            hint = "change names and content in two changes, one after the other"
            yield Change(old=spec.path, new=None, fault=f"it is gone: {unclear}", hint=hint, code=2)
        elif new is None:
            fault = "" if rules.allow_removed else "it is gone, and no other spec is its successor"
            yield _faulty(Change(old=spec.path, new=None), fault, "the input allow-removed lets specs go")
        else:
            left = new not in trees.after and not rules.allow_removed
            fault = f"it went to {new}, where no pattern of `specs` looks" if left else ""
            yield _faulty(Change(old=spec.path, new=new), fault, "add a pattern; or allow-removed lets specs go")


def _faulty(change: Change, fault: str, hint: str) -> Change:
    return replace(change, fault=fault, hint=hint, code=1) if fault else change


def _new(spec: Known, rules: Rules) -> Change:
    fault = "it is new: there is nothing to hold it against" if rules.gated and not rules.allow_new else ""
    return _faulty(Change(old=None, new=spec.path), fault, "the input allow-new lets specs come")


def _same_names(trees: _Trees, bearers: Sequence[Known]) -> Iterator[Change]:
    """A spec that took the name of one that is still there is compared with that one too: names that are swapped, and a
    copy before its original goes."""
    bearers = [spec for spec in bearers if spec.name]
    if not bearers:
        return
    kept = [(path, entry) for path, entry in trees.before.items() if path in trees.after and entry.plain]
    if len(kept) > MOST_FILES:
        raise Failure(f"{len(kept):,} specs; one run looks through {MOST_FILES:,}", "narrow `specs`")
    names: dict[str, list[str]] = {}
    for spec in read(kept):
        names.setdefault(spec.name, []).append(spec.path)
    for bearer in bearers:
        for path in names.get(bearer.name, ()):
            if path != bearer.path:
                yield Change(old=path, new=bearer.path)


def _no_report(change: Change, trees: _Trees) -> Change:
    """A change with a saved report on a side can't be held against limits."""
    sides = (trees.was.get(change.old or ""), trees.now.get(change.new or ""))
    if any(side is not None and side.report for side in sides):
        return replace(change, fault=REPORT, hint="commit the spec", code=2, readable=False)
    return change
