"""Layouts of a number of devices, and the fewest devices on which a load fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import isqrt, prod
from typing import NamedTuple

from archcalc.calc.sharding import Indivisible, check_heads
from archcalc.errors import InputError
from archcalc.hardware import Hardware
from archcalc.serving.deployment import Deployment, Vision
from archcalc.serving.engine import Engine
from archcalc.serving.memory import Serving, serve
from archcalc.serving.overhead import Load, Served
from archcalc.tape import Tape

NODES = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of whole nodes that are tried, in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What was asked for: a deployment with some of its sizes left open (None).

    Attributes:
        gpus: devices, or None for the fewest that fit.
        tp, pp, dp, dcp: as in Deployment.
        ep: as in Deployment; `all`: every device of a stage.
        vision: as in Deployment.
        kv_dtypes: cache layouts to try, the first one first.
        auto: whether the fewest devices are looked for whatever sizes are given.
    """

    gpus: int | None = None
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    ep: int | str | None = None
    dcp: int | None = None
    vision: Vision = "sharded"
    kv_dtypes: tuple[str, ...] = ("bf16",)
    auto: bool = False

    def __post_init__(self) -> None:
        for name in ("gpus", "tp", "pp", "dp", "ep", "dcp"):
            size = getattr(self, name)
            if isinstance(size, int) and size < 1:
                raise InputError(f"{name} must be at least 1, not {size}", value=size)
        sizes = [size for size in (self.tp, self.pp, self.dp) if size is not None]
        asked = " x ".join(f"{n} {getattr(self, n)}" for n in ("tp", "pp", "dp") if getattr(self, n) is not None)
        made = prod(sizes)
        if self.gpus is not None and (self.gpus % made or (len(sizes) == 3 and made != self.gpus)):
            raise InputError(
                f"{asked} does not make {self.gpus} GPUs",
                value=self.gpus,
                hint="gpus is tp x pp x dp: leave one out",
            )

    @property
    def fixed(self) -> int | None:
        """Devices, where counts say how many."""
        if self.gpus is not None:
            return self.gpus
        if self.auto or self.tp is None:
            return None
        return self.tp * self.least

    @property
    def least(self) -> int:
        """What the number of devices is a multiple of, beside tensor parallel."""
        return (self.pp or 1) * (self.dp or 1)


class Found(NamedTuple):
    """What a search found.

    Attributes:
        best: the layout to use.
        tries: the best layout of each number of devices, in turn.
        refused: why others were passed over, by what they are called.
        searched: in words, what was searched and where it stopped.
    """

    best: Serving
    tries: list[Serving]
    refused: dict[str, InputError]
    searched: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a kind of device.

    Attributes:
        served: the model.
        engine: the serving engine's profile.
        spread: sizes, some of them open.
        load: what is to be served.
        draft: a smaller model that proposes tokens.
    """

    served: Served
    engine: Engine
    spread: Spread
    load: Load
    draft: Served | None = None

    def at(self, where: Deployment, hardware: Hardware, kv_dtype: str | None = None) -> Serving:
        """One deployment. Raises InputError where the model can't be divided so."""
        load = replace(self.load, kv_dtype=kv_dtype or self.spread.kv_dtypes[0])
        return serve(self.served, hardware, self.engine, where, load, self.draft)

    def on(self, hardware: Hardware) -> Found:
        """The fewest devices that fit, or the layout that comes closest. Raises InputError where none is possible."""
        fixed = self.spread.fixed
        counts = [fixed] if fixed is not None else list(_counts(hardware, self.spread.least))
        tries: list[Serving] = []
        refused: dict[str, InputError] = {}
        layouts = 0
        for count in counts:
            found: list[Serving] = []
            for where, dtype in self._candidates(hardware, count, refused):
                layouts += 1
                try:
                    found.append(self.at(where, hardware, dtype))
                except InputError as error:
                    refused.setdefault(called(where), error)
                    continue
                if found[-1].fits or found[0].whole_bytes > count * hardware.memory_visible_bytes:
                    break
            if found:
                tries.append(found[-1] if found[-1].fits else max(found, key=lambda s: s.margin))
                if tries[-1].fits:
                    break
        if not tries and not refused:
            tried = ", ".join(map(str, counts))
            raise InputError(f"no number of GPUs that is tried ({tried}) is made of these sizes", hint="give --gpus")
        if not tries:
            raise next(iter(refused.values()))
        return Found(tries[-1], tries, refused, _searched(counts, count, layouts, fixed))

    def _candidates(
        self, hardware: Hardware, count: int, refused: dict[str, InputError]
    ) -> Iterator[tuple[Deployment, str]]:
        """Deployments of `count` devices with what is open filled in, and cache layouts.

        In the order that engines' guides give: tensor parallel within a node; over several nodes copies of a node
        where the model fits on one, else pipeline stages. Where counts are open, context is divided too, then less of
        tensor parallel is tried. The engine's default is experts divided by width; whole ones come after it. Sizes
        that make no deployment are `refused`.
        """
        spread, tape = self.spread, self.served.tape
        experts = self.served.has_experts
        for dtype in spread.kv_dtypes:
            for tp, pp, dp in self._sizes(hardware, count):
                whole: list[int | str] = [spread.ep] if spread.ep else [1, "all"] if experts and dp > 1 else [1]
                parts = [spread.dcp or 1] if spread.dcp or spread.fixed else [1, *contexts(tape, self.engine, tp)]
                for ep, dcp in product(whole, parts):
                    size = tp * dp if ep == "all" else int(ep)
                    try:
                        where = Deployment(tp=tp, pp=pp, dp=dp, ep=size, dcp=dcp, vision=spread.vision)
                    except InputError as error:
                        refused.setdefault(f"tp {tp} x pp {pp} x dp {dp}, ep {size}, dcp {dcp}", error)
                        continue
                    yield where, dtype

    def _sizes(self, hardware: Hardware, count: int) -> Iterator[tuple[int, int, int]]:
        """tp, pp and dp of `count` devices, in the order of preference."""
        spread, tape, node = self.spread, self.served.tape, hardware.devices_per_node
        inside = min(count, node)
        copies = count // inside if count % inside == 0 else 1
        across = [(inside, 1, copies), (inside, copies, 1)]
        if copies > 1 and not self._fits_on_a_node(hardware, inside, copies):
            across.reverse()
        plain = [sizes for sizes in (*across, (count, 1, 1)) if prod(sizes) == count]
        if spread.fixed is None or not any(_divides(tape, tp) for tp, _, _ in plain):
            fewer = _divisors(count, inside)
            plain += [(tp, 1, count // tp) for tp in fewer]
            plain += [(tp, count // tp, 1) for tp in fewer]
        seen = set()
        for sizes in [*_given(spread, count), *plain]:
            asked = zip(sizes, (spread.tp, spread.pp, spread.dp), strict=True)
            fits = prod(sizes) == count and all(want is None or size == want for size, want in asked)
            if fits and sizes not in seen:
                seen.add(sizes)
                yield sizes

    def _fits_on_a_node(self, hardware: Hardware, tp: int, copies: int) -> bool:
        """Whether one node serves its share of the load."""
        alone = replace(self, load=replace(self.load, batch=-(-self.load.batch // copies)))
        try:
            return alone.at(Deployment(tp=tp, vision=self.spread.vision), hardware).fits
        except InputError:
            return False


def called(where: Deployment) -> str:
    """A deployment in the words of its flags: `tp 8 x dp 3, ep 24`."""
    sizes = [
        f"{name} {getattr(where, name)}" for name in ("tp", "pp", "dp") if name == "tp" or getattr(where, name) > 1
    ]
    more = [f"{name} {getattr(where, name)}" for name in ("ep", "dcp") if getattr(where, name) > 1]
    return ", ".join([" x ".join(sizes), *more])


def _searched(counts: list[int], last: int, layouts: int, fixed: int | None) -> str:
    if layouts == 1:
        return ""
    if fixed is not None:
        return f"{layouts} layouts of {fixed} GPUs"
    ended = "the first number that fits" if last != counts[-1] else "the largest number that is tried"
    return f"{layouts} layouts (tp within a node, then dp, dcp, pp) of {counts[0]} to {last} GPUs, {ended}"


def _counts(hardware: Hardware, least: int) -> Iterator[int]:
    """Numbers of devices to try: powers of two within a node, then whole nodes; where stages or groups are given, those
    of as many devices each, up to a node."""
    node = hardware.devices_per_node
    inside = [1 << n for n in range(node.bit_length()) if 1 << n < node]
    yield from (least * n for n in (*inside, *((node,) if least > 1 else (node * n for n in NODES))))


def contexts(tape: Tape, engine: Engine, tp: int) -> list[int]:
    """How far context may be divided beside not at all: as far as tensor parallel replicates it; no window is."""
    if not engine.context_parallel or any(c.span.kind == "window" for op in tape.ops("backbone") for c in op.caches):
        return []
    heads = [d.size for op in tape.ops("backbone") for c in op.caches for d in c.features if d.axis == "kv_heads"]
    most = tp // max(heads, default=1) if heads else tp
    return [most] if most > 1 else []


def _given(spread: Spread, count: int) -> Iterator[tuple[int, int, int]]:
    """The sizes that were asked for, with the open ones filled in: tp first."""
    tp, pp, dp = spread.tp, spread.pp or 1, spread.dp or 1
    if tp is not None:
        left = count // tp
        yield (tp, pp, left // pp) if spread.dp is None and left % pp == 0 else (tp, left // dp, dp)
    elif spread.pp is not None or spread.dp is not None:
        yield (count // (pp * dp), pp, dp)


def _divisors(n: int, below: int) -> list[int]:
    """Those below a bound, from the largest down."""
    small = [d for d in range(1, min(isqrt(n) + 1, below)) if n % d == 0]
    return sorted((d for d in {*small, *(n // d for d in small)} if d < below), reverse=True)


def _divides(tape: Tape, tp: int) -> bool:
    try:
        check_heads(tape, tp)
    except Indivisible:
        return False
    return True
