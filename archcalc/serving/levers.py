"""What would make a load fit, and what each change buys where it fits: one at a time, then the fewest together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations
from math import floor
from typing import NamedTuple

from archcalc.errors import InputError
from archcalc.hardware import Hardware
from archcalc.serving.memory import Serving
from archcalc.serving.overhead import step_of
from archcalc.serving.search import Question, contexts

FEW_SEQUENCES = 64
FEW_TOKENS = 2048
"""What `--max-num-seqs` and `--batched-tokens` are lowered to."""

HIGH_UTILIZATION = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """One change, or several together.

    Attributes:
        name: what is changed, in words.
        flags: what to type for it.
        serving: what it leads to; None where it is refused.
        refused: why.
        hardware: the device it needs.
    """

    name: str
    flags: str
    serving: Serving | None
    hardware: Hardware
    refused: str = ""


class _Change(NamedTuple):
    """A change of a question that has a layout."""

    name: str
    flags: str
    make: Callable[[Question], Question]


def levers(question: Question, hardware: Hardware, serving: Serving, others: Iterable[Hardware]) -> list[Lever]:
    """Every change alone with what it leads to, and where nothing alone fits without more devices, the first of the
    smallest combinations that does. `others` are devices that could be used instead."""
    asked = _pinned(question, serving)
    changes = list(_changes(asked, hardware, serving))
    found = [_tried([change], asked, hardware) for change in changes]
    if serving.fits:
        return found
    if not any(f.serving and f.serving.fits for f in found):
        found += _together(changes, asked, hardware)
    found += _shorter(asked, hardware, serving)
    known = {f.serving.where for f in found if f.serving is not None}
    found += [
        lever for lever in _more(question, hardware, serving) if not lever.serving or lever.serving.where not in known
    ]
    found += _instead(asked, hardware, others)
    found += _on_the_host(asked, serving, hardware)
    return found


def _pinned(question: Question, serving: Serving) -> Question:
    """The question with the layout that was found."""
    where = serving.where
    spread = replace(
        question.spread,
        gpus=where.devices,
        tp=where.tp,
        pp=where.pp,
        dp=where.dp,
        ep=where.ep,
        dcp=where.dcp,
        kv_dtypes=(serving.load.kv_dtype,),
    )
    return replace(question, spread=spread)


def _changes(asked: Question, hardware: Hardware, serving: Serving) -> Iterator[_Change]:
    """Changes that need no other device, cheapest to the user first."""
    where, load, tape = serving.where, serving.load, asked.served.tape
    for dcp in contexts(tape, asked.engine, where.tp):
        if dcp > where.dcp:
            yield _spread("context over the tp group", f"--dcp {dcp}", dcp=dcp)
    step = step_of(asked.engine, hardware, load)
    if step.sequences > FEW_SEQUENCES and load.overhead is None:
        yield _load("fewer sequences a step", f"--max-num-seqs {FEW_SEQUENCES}", max_num_seqs=FEW_SEQUENCES)
    if step.tokens > FEW_TOKENS and load.overhead is None:
        yield _load("fewer tokens a step", "--batched-tokens 2k", batched_tokens=FEW_TOKENS)
    if not load.language_only and any(w.part == "vision" for w in tape.weights()):
        yield _load("no vision tower", "--language-only", language_only=True)
    beyond = serving.worst.beyond("high")
    if beyond > 0 and load.overhead is None:
        share = floor(100 * (serving.worst.share - Fraction(beyond, serving.visible))) / 100
        yield _load("room beside the share", f"--utilization {share}", utilization=share)
    elif serving.worst.share < HIGH_UTILIZATION and asked.engine.share_of == "visible":
        yield _load("a larger share of the memory", f"--utilization {HIGH_UTILIZATION}", utilization=HIGH_UTILIZATION)
    if load.kv_dtype == "bf16":
        yield _spread("cache in 8 bits", "--kv-dtype fp8", kv_dtypes=("fp8",))
    experts = asked.served.has_experts
    if where.dp == 1 and where.tp > 1 and where.dcp == 1:
        more = " --ep all" if experts else ""
        yield _spread(
            "attention data parallel" + (", whole experts" if experts else ""),
            f"--tp 1 --dp {where.tp}{more}",
            tp=1,
            dp=where.tp,
            ep="all" if experts else 1,
        )
    if not load.eager and asked.engine.cuda_graphs.inside_utilization:
        yield _load("no CUDA graphs", "--eager", eager=True)


def _spread(name: str, flags: str, **sizes: object) -> _Change:
    return _Change(name, flags, lambda asked: replace(asked, spread=replace(asked.spread, **sizes)))  # type: ignore[arg-type]


def _load(name: str, flags: str, **sizes: object) -> _Change:
    return _Change(name, flags, lambda asked: replace(asked, load=replace(asked.load, **sizes)))  # type: ignore[arg-type]


def _tried(changes: list[_Change], asked: Question, hardware: Hardware) -> Lever:
    name, flags = " + ".join(c.name for c in changes), " ".join(c.flags for c in changes)
    try:
        for change in changes:
            asked = change.make(asked)
        return Lever(name=name, flags=flags, serving=asked.on(hardware).best, hardware=hardware)
    except InputError as error:
        return Lever(name=name, flags=flags, serving=None, hardware=hardware, refused=error.message)


def _together(changes: list[_Change], asked: Question, hardware: Hardware) -> list[Lever]:
    """The first of the smallest combinations that fits."""
    for size in (2, 3, 4):
        for some in combinations(changes, size):
            found = _tried(list(some), asked, hardware)
            if found.serving and found.serving.fits:
                return [found]
    return []


def _shorter(asked: Question, hardware: Hardware, serving: Serving) -> list[Lever]:
    """The longest context of as many sequences, and as many sequences of this context, as fit; none where the cache is
    not what lacks room."""
    found = []
    each = serving.worst.sequences
    longest = min((n for d in serving.devices if (n := d.cache.longest(d.pool(), each)) is not None), default=0)
    if 0 < longest < asked.load.context:
        found.append(_tried([_load("shorter sequences", f"--context {longest}", context=longest)], asked, hardware))
    if serving.max_batch and serving.max_batch < asked.load.batch:
        found.append(
            _tried([_load("fewer at once", f"--batch {serving.max_batch}", batch=serving.max_batch)], asked, hardware)
        )
    return found


def _more(question: Question, hardware: Hardware, serving: Serving) -> list[Lever]:
    """The fewest more of the same devices that fit; behind the flags that were given, its flags overrule them."""
    spread = replace(question.spread, gpus=None, tp=None, pp=None, dp=None, ep=None, dcp=None)
    try:
        best = replace(question, spread=spread).on(hardware).best
    except InputError as error:
        return [Lever(name="more devices", flags="--gpus auto", serving=None, hardware=hardware, refused=error.message)]
    where = best.where
    given = ["gpus"] if question.spread.gpus is not None else []
    sizes = {"gpus": where.devices, **{n: getattr(where, n) for n in ("tp", "pp", "dp", "ep", "dcp")}}
    given += [n for n in sizes if n != "gpus" and (sizes[n] > 1 or getattr(question.spread, n) is not None)]
    flags = " ".join(f"--{n} {sizes[n]}" for n in given)
    name = "more devices" if where.devices > serving.where.devices else "another layout"
    return [Lever(name=name, flags=flags or "--gpus 1", serving=best, hardware=hardware)]


def _on_the_host(asked: Question, serving: Serving, hardware: Hardware) -> list[Lever]:
    """Routed experts in the host's memory: slow, and so the last resort."""
    if not asked.served.has_experts or asked.load.offloaded != 0 or serving.where.ep > 1:
        return []
    change = _load("experts in the host's memory (slow)", "--offload-experts host", offloaded=None)
    return [_tried([change], asked, hardware)]


def _instead(asked: Question, hardware: Hardware, others: Iterable[Hardware]) -> list[Lever]:
    """The smallest other device that fits in as many."""
    larger = [h for h in others if h.memory_visible_bytes > hardware.memory_visible_bytes]
    for other in sorted(larger, key=lambda h: (h.memory_visible_bytes, h.name)):
        found = _tried([_Change(f"{other.title} instead", f"--gpu {other.name}", lambda asked: asked)], asked, other)
        if found.serving and found.serving.fits:
            return [found]
    return []
