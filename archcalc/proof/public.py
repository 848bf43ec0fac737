"""transformers' side: the public class of an architecture, and a second opinion that nobody here wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from archcalc.calc.kv_cache import CacheRow, cache_rows
from archcalc.files.model import Spec
from archcalc.hf.backward import config_of
from archcalc.proof.ours import SEQ, forward_flops, weights_by_path
from archcalc.proof.sides import Side, Sides, add, single, unfolded
from archcalc.proof.twin import Progress, by_kind
from archcalc.reference import hf, hf_cache, hf_flops
from archcalc.reference.hf_names import joined_path, text_alone
from archcalc.reference.threads import one_thread
from archcalc.tape import Op
from archcalc.workload import Workload

SETTING = "prefill forward"

SHORT = 64
"""Tokens for a model with a recurrence: its eager code takes so many at once, and goes on one by one."""

Config = Mapping[str, Any]


class Opinions(NamedTuple):
    """Both sides, and what was left out of the comparison."""

    ours: Sides
    theirs: Sides
    notes: list[str]


def opinions(spec: Spec, config: Config | None, kinds: Iterable[str], progress: Progress) -> Opinions:
    """Parameters by path, the backbone's forward FLOPs, and its cache.

    Args:
        config: the release's own config.json, where the spec was read from one; by default one that is made of the
            spec.

    Raises:
        InputError: no public class has this architecture, or the installed transformers is too old for it.
    """
    with one_thread():
        return _opinions(spec, config, kinds, progress)


def _opinions(spec: Spec, config: Config | None, kinds: Iterable[str], progress: Progress) -> Opinions:
    found = Opinions({}, {}, [])
    source = "a config made of the spec" if config is None else "the release's own config"
    given = config_of(spec) if config is None else config
    progress("building the public class on the meta device")
    built = hf.build(given)
    found.notes.append(f"{type(built.model).__name__} of transformers, built from {source}.")
    if "params" in kinds:
        _weights(spec, built, found)
    if "flops" in kinds:
        progress("counting FLOPs of the public class")
        _flops(spec, built, found)
    if "kv" in kinds:
        progress("filling a cache of the public class")
        _kv(spec, built, found)
    return found


# -- weights ----------------------------------------------------------------------------------------------------------


def _weights(spec: Spec, built: hf.Public, found: Opinions) -> None:
    ours, theirs = weights_by_path(spec), by_kind(hf.parameters(built))
    found.ours.update({kind: _joined(side, built.model_type) for kind, side in ours.items()})
    if spec.vision is None:
        theirs = {kind: _text_alone(kind, side, built.model_type, found) for kind, side in theirs.items()}
    found.theirs.update(theirs)
    if found.ours["mtp"] and not hf.predicts(built):
        _drop_predictions(spec, found)
    ignored = ", ".join(hf.ignored(built)) or "nothing"
    found.notes.append(f"Not compared, computed from the config and in no checkpoint: {ignored}.")


def _drop_predictions(spec: Spec, found: Opinions) -> None:
    """Ours, where the class builds none."""
    paths = {
        path
        for segment in spec.trace(Workload()).segments
        for op in segment.ops
        for w in op.weights
        for path in (unfolded(f"{w.path}.{w.suffix}", segment) if segment.part == "mtp" else ())
    }
    for kind, what in (("mtp", "parameters"), ("buffers", "buffers")):
        gone = {key: value for key, value in found.ours[kind].items() if key[0] in paths}
        left = sum(count * each for count, each in gone.values())
        found.ours[kind] = {key: value for key, value in found.ours[kind].items() if key not in gone}
        if left:
            found.notes.append(f"Not compared: {left:,} {what} of prediction modules, which this class has not.")


def _joined(side: Side, model_type: str) -> Side:
    """Our weights, those added up that the class keeps in one tensor."""
    joined: Side = {}
    for (path, setting), (count, each) in side.items():
        name = joined_path(path, model_type)
        if name == path:
            joined[path, setting] = (count, each)
        else:
            add(joined, name, setting, each)
    return joined


def _text_alone(kind: str, side: Side, model_type: str, found: Opinions) -> Side:
    """Their side for a spec without a tower. A class of text and pictures builds its default one where the config has
    none, and keeps the text model elsewhere for its sake."""
    tower = {key: value for key, value in side.items() if key[0].startswith(hf_flops.TOWERS)}
    if tower:
        elements = sum(count * each for count, each in tower.values())
        found.notes.append(f"Not compared: {elements:,} {kind} of a tower that the config does not describe.")
    text = ((key, value) for key, value in side.items() if key not in tower)
    return {(text_alone(path, model_type), setting): value for (path, setting), value in text}


# -- FLOPs ------------------------------------------------------------------------------------------------------------


def _flops(spec: Spec, built: hf.Public, found: Opinions) -> None:
    seq, scans = _length(spec), _scans(spec)
    try:
        theirs: dict[str, int] = hf_flops.flops(built, seq=seq)
    except hf_flops.Unrunnable as error:
        found.notes.append(f"FLOPs are not compared: the class does not run on meta with these sizes: {error}")
        return
    ours = _run_alike(spec, seq, built.model_type)
    found.ours["flops"] = {key: value for key, value in ours.items() if key[0] not in scans}
    side = single(theirs.items(), SETTING)
    if spec.vision is None:
        side = _text_alone("flops", side, built.model_type, found)
    found.theirs["flops"] = {key: value for key, value in side.items() if key[0] not in scans}
    if scans:
        found.notes.append(
            f"FLOPs of {len(scans)} recurrences are not compared: torch counts no products in what transformers does"
            " element by element, and its eager code works on chunks."
        )
    if seq < SEQ and not scans:
        found.notes.append(f"FLOPs at {seq} tokens: transformers masks what a window hides, it does not skip it.")
    elif seq < SEQ:
        found.notes.append(f"FLOPs at {seq} tokens.")


# -- cache ------------------------------------------------------------------------------------------------------------


def _kv(spec: Spec, built: hf.Public, found: Opinions) -> None:
    """The cache of a sequence that no window cuts, and, where there are windows, of one that is longer than each."""
    rows = cache_rows(spec.trace(Workload()), "bf16")
    windows = [row.span.size for row in rows if row.span.kind == "window"]
    lengths = [min([SHORT, *(size - 1 for size in windows)]) or 1, *([max(windows) + 1] if windows else [])]
    ours: Side = {}
    theirs: Side = {}
    try:
        for tokens in dict.fromkeys(lengths):
            held: dict[str, int] = hf_cache.cached(built, tokens=tokens)
            theirs |= single(held.items(), f"{tokens} tokens")
            _cached(rows, tokens, ours)
    except hf_flops.Unrunnable as error:
        found.notes.append(f"Caches are not compared: the class does not run on meta with these sizes: {error}")
        return
    if spec.vision is None:
        theirs = _text_alone("kv", theirs, built.model_type, found)
    found.ours["kv"], found.theirs["kv"] = ours, theirs
    if windows:
        found.notes.append("Cache: transformers keeps one row less than a window holds, the next query's own; so here.")


def _cached(rows: Iterable[CacheRow], tokens: int, side: Side) -> None:
    for row in rows:
        entries = row.span.entries(tokens)
        if row.span.kind == "window" and entries == row.span.size:
            entries -= 1
        for i in row.indices:
            add(side, row.path.replace("{i}", str(i)), f"{tokens} tokens", row.nbytes * entries)


def _length(spec: Spec) -> int:
    """As many tokens as every mixer sees all of, up to SEQ: eager code scores what a limit hides."""
    ops = [op for segment in spec.trace(Workload()).segments for op in segment.ops]
    most = SHORT if any(map(_recurs, ops)) else SEQ
    return min([most, *(op.span.size for op in ops if op.span is not None and op.span.size)])


def _recurs(op: Op) -> bool:
    """Whether it keeps a state in place of rows."""
    return any(cache.kind == "state" for cache in op.caches)


def _scans(spec: Spec) -> frozenset[str]:
    """Paths of recurrences."""
    segments = spec.trace(Workload()).segments
    return frozenset(op.path.replace("{i}", str(i)) for s in segments for op in s.ops for i in s.indices if _recurs(op))


def _run_alike(spec: Spec, seq: int, model_type: str) -> Side:
    """Our FLOPs as transformers runs them: a layer's expert projections under one path, and what it has fused."""
    side: Side = {}
    tape = spec.trace(Workload(seq=seq, attention="full"))
    for (path, setting), (_, n) in forward_flops(tape, SETTING).items():
        head, star, _ = path.partition(".experts.*")
        add(side, joined_path(head + star, model_type), setting, n)
    return side
