"""Serving memory of one device, as an engine divides it: weights, workspaces, and the rest for the KV cache.

    usable = share · memory (visible, or free before weights are loaded) + what the engine counts outside the share
    KV cache = max(0, usable - weights - overhead)

(vLLM, v1/worker/gpu_worker.py, determine_available_memory; SGLang, model_executor/model_runner.py,
profile_max_num_token). The terms of the overhead are in overhead.py, each with a range: the verdict is decided at the
middle of all ranges, and says what it would be at their ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal

from archcalc.calc.kv_cache import SequenceCache, among, cache_rows, sequence_cache
from archcalc.calc.sharding import Padding, check_heads, paddings
from archcalc.errors import InputError
from archcalc.hardware import Hardware
from archcalc.serving.deployment import (
    Deployment,
    HeldWeight,
    held_weights,
    loaded_weights,
    stage_weights,
    stages,
)
from archcalc.serving.engine import Bounds, End, Engine
from archcalc.serving.offload import Host, offloaded
from archcalc.serving.overhead import Load, Served, Term, step_of, terms
from archcalc.serving.pools import Pool, pooled
from archcalc.serving.step import Step
from archcalc.tape import Span, Tape, Weight, product

Word = Literal["fits", "tight", "does not fit"]
"""`tight`: zero lies between the margins at the two ends of what is assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of a pipeline stage [bytes].

    Attributes:
        stage: its layers.
        weights: every loaded weight with its bytes.
        terms: what is taken beside weights and cache.
        visible: memory that programs see.
        share: the part of it that the engine uses.
        share_of_free: whether that is of what non-torch memory leaves.
        sequences: of the load, on one device.
        cache: of one sequence, by its length.
        sequence_bytes: the cache of one sequence of the load.
    """

    stage: range
    weights: tuple[HeldWeight, ...]
    terms: tuple[Term, ...]
    visible: int
    share: Fraction
    share_of_free: bool
    sequences: int
    cache: SequenceCache
    sequence_bytes: int

    @property
    def weights_bytes(self) -> int:
        """Weights [bytes]."""
        return sum(w.held for w in self.weights)

    @property
    def kv_bytes(self) -> int:
        """The cache of the load's sequences in whole pages [bytes]."""
        return self.sequences * self.sequence_bytes

    def usable(self, end: End = "middle") -> int:
        """What weights, overhead and cache may take, at one end of what is assumed [bytes]."""
        outside = sum(term.bounds.at(end) for term in self.terms if term.outside)
        taken = sum(term.bounds.at(end) for term in self.terms if term.kind == "non_torch")
        return int(self.share * (self.visible - taken * self.share_of_free)) + outside

    def room(self, end: End = "middle") -> int:
        """What is left for the cache where overhead is at that end; negative where weights don't fit [bytes]."""
        return self.usable(end) - self.weights_bytes - sum(term.bounds.at(end) for term in self.terms)

    def pool(self, end: End = "middle") -> int:
        """The same for whoever wants to cache something: nothing where the engine can't start [bytes]."""
        return 0 if self.lacking(end) else max(0, self.room(end))

    @property
    def free(self) -> int:
        """What is left of the pool when the load is cached [bytes]."""
        return self.room() - self.kv_bytes

    def beyond(self, end: End) -> int:
        """By how much the engine's share and what it does not count against it pass what is there [bytes]."""
        return self.usable(end) - self.visible

    def lacking(self, end: End) -> int:
        """By how much what is outside the share has no room, as a verdict at that end sees it [bytes].

        Engines size the pool before they know whether it has: that is a matter of its least in the verdict, of its
        most at the high end.
        """
        return max(0, self.beyond("high" if end == "high" else "low"))

    def margin(self, end: End = "middle") -> int:
        """What is left where overhead is at that end; negative where the load does not fit [bytes]."""
        lacking, left = self.lacking(end), self.room(end) - self.kv_bytes
        return min(left, -lacking) if lacking else left


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One deployment's memory, per device, and what it can serve.

    Attributes:
        where: the deployment.
        devices: one of each pipeline stage.
        load: what is served.
        pool: how pages are shared between layers.
        padded: sizes that the engine pads so that they divide.
        host: what stays in the host's memory.
    """

    where: Deployment
    devices: tuple[Device, ...]
    load: Load
    pool: Pool
    padded: tuple[Padding, ...]
    host: Host | None = None

    @property
    def worst(self) -> Device:
        """The device with the least left."""
        return min(self.devices, key=lambda device: device.margin())

    @property
    def block_size(self) -> int:
        """Tokens of a page."""
        return self.worst.cache.mesh.block_size

    @property
    def weights_bytes(self) -> int:
        """Weights of the worst device [bytes]."""
        return self.worst.weights_bytes

    @property
    def whole_bytes(self) -> int:
        """All loaded weights of the model, once; one that stands on two stages is one weight [bytes]."""
        return sum({id(w.weight): w.whole for d in self.devices for w in d.weights}.values())

    @property
    def overhead_bytes(self) -> int:
        """Everything beside weights and cache on the worst device, at the middle [bytes]."""
        return sum(term.bounds.middle for term in self.worst.terms)

    @property
    def usable(self) -> int:
        """What the worst device may use [bytes]."""
        return self.worst.usable()

    @property
    def visible(self) -> int:
        """Memory that programs see on each device [bytes]."""
        return self.worst.visible

    @property
    def kv_bytes(self) -> int:
        """The load's cache on the worst device [bytes]."""
        return self.worst.kv_bytes

    @property
    def kv_budget(self) -> int:
        """What weights and overhead leave for the cache on the worst device [bytes]."""
        return self.worst.pool()

    @property
    def kv_bounds(self) -> Bounds:
        """The same at the two ends of what is assumed [bytes]."""
        return Bounds(self.worst.pool("high"), self.worst.pool("low"))

    @property
    def free(self) -> int:
        """What is left on the worst device; negative where the load does not fit [bytes]."""
        return self.worst.free

    @property
    def margin(self) -> int:
        """What is left on the worst device, or what is missing, in the verdict [bytes]."""
        return self.worst.margin()

    @property
    def margins(self) -> Bounds:
        """The same where all that is assumed is at its most, and at its least [bytes]."""
        return Bounds(min(d.margin("high") for d in self.devices), min(d.margin("low") for d in self.devices))

    @property
    def fits(self) -> bool:
        """Whether weights, overhead and the load's cache fit, at the middle of what is assumed."""
        return self.margin >= 0

    @property
    def word(self) -> Word:
        """The verdict with what the assumptions can change about it."""
        low, high = self.margins
        return "tight" if low < 0 <= high else "fits" if self.fits else "does not fit"

    @property
    def max_context(self) -> int | None:
        """Tokens of one sequence alone, by memory; None where a sequence of any length fits."""
        found = [device.cache.longest(device.pool()) for device in self.devices]
        return min((n for n in found if n is not None), default=None)

    @property
    def max_tokens(self) -> int | None:
        """Cached tokens of all devices together; None where there is no limit.

        Where layers cache by different spans these are tokens of sequences of the load's length, as engines print
        them (vLLM, v1/core/kv_cache_utils.py, max_concurrency x max_model_len); else of one sequence a group.
        """
        longest = self.max_context
        if longest is None or not self.pool.hybrid:
            return None if longest is None else longest * self.where.dp
        context = self.load.context
        return min(d.pool() * context // d.sequence_bytes for d in self.devices) * self.where.dp

    @property
    def max_batch(self) -> int | None:
        """Sequences of the load's context, by memory; None where they cache nothing."""
        found = [d.pool() // d.sequence_bytes for d in self.devices if d.sequence_bytes]
        return min(found) * self.where.dp if found else None


def serve(
    served: Served, hardware: Hardware, engine: Engine, where: Deployment, load: Load, draft: Served | None = None
) -> Serving:
    """The memory of one deployment. `draft` is a smaller model that proposes tokens.

    Raises:
        InputError: what can't be divided over the devices, or a cache dtype that does not fit.
    """
    tape = served.tape
    where = replace(where, uneven_experts=engine.uneven_experts)
    if where.dcp > 1 and not engine.context_parallel:
        raise InputError(f"{engine.name} does not divide context", value=where.dcp, hint="leave out --dcp")
    if where.ep > 1 and not served.has_experts:
        raise InputError("ep needs routed experts, and this model has none", value=where.ep, hint="leave out --ep")
    if load.mtp and draft is not None:
        raise InputError("--mtp and --draft are two ways to draft", hint="leave one out")
    served.once(("heads", where.tp), partial(check_heads, tape, where.tp))
    some = ("loaded", load.language_only, load.offloaded, load.batch if load.offloaded != 0 else 0)
    loaded, host = served.once(some, partial(_loaded, served, load))
    depth = sum(segment.count for segment in tape.segments if segment.part == "backbone" and segment.indices)
    mesh = where.mesh(load.block_size or served.once(("page", engine.name), partial(page_size, tape, engine)))
    cache = sequence_cache(tape, load.kv_dtype, mesh, mtp=load.mtp)
    largest = step_of(engine, hardware, load)
    share = share_of(tape, engine, hardware, where, load, largest, shared=where.dp > 1 and served.has_experts)
    devices, pool = [], Pool()
    for stage, kept in zip(stages(depth, where), cache.stages, strict=True):
        here = served.once(("stage", stage, some), partial(stage_weights, loaded, tape, stage, depth))
        weights = served.once(
            ("held", where.shards, stage, some), partial(held_weights, here, served.scheme, where, served.once)
        )
        found = [*terms(served, engine, hardware, where, load, stage, depth)]
        mine = replace(cache, stages=(kept,))
        bare = mine.at(load.context)
        spans = served.once(("spans", stage), partial(layers_by_span, tape, stage))
        mine, pool = pooled(mine, spans, engine, largest.tokens)
        pool = replace(pool, more=mine.at(load.context) - bare)
        if draft is not None and stage.stop == depth:
            mine, nbytes = _drafted(mine, draft, where, load)
            found.append(Term("draft", Bounds(nbytes, nbytes)))
        devices.append(
            Device(
                stage=stage,
                weights=tuple(weights),
                terms=tuple(found),
                visible=hardware.memory_visible_bytes,
                share=share,
                share_of_free=engine.share_of == "free" and load.overhead is None,
                sequences=-(-load.batch // where.dp),
                cache=mine,
                sequence_bytes=mine.at(load.context),
            )
        )
    padded = paddings((w.weight for d in devices for w in d.weights), where.shards)
    return Serving(where=where, devices=tuple(devices), load=load, pool=pool, padded=tuple(padded), host=host)


def _loaded(served: Served, load: Load) -> tuple[list[Weight], Host | None]:
    """The weights that devices load, and what stays in the host's memory instead."""
    loaded = loaded_weights(served.tape, served.scheme, language_only=load.language_only)
    if load.offloaded == 0:
        return loaded, None
    host = offloaded(loaded, served.scheme, load)
    return [w for w in map(host.left, loaded) if w is not None], host


def _drafted(cache: SequenceCache, draft: Served, where: Deployment, load: Load) -> tuple[SequenceCache, int]:
    """A cache with a draft model's layers beside it, and the draft's weights on one device [bytes]."""
    check_heads(draft.tape, where.tp)
    own = held_weights(loaded_weights(draft.tape, draft.scheme, language_only=True), draft.scheme, replace(where, ep=1))
    mesh = replace(cache.mesh, pp=1)
    (more,) = sequence_cache(draft.tape, load.kv_dtype, mesh).stages
    return replace(cache, stages=((*cache.stages[0], *more),)), sum(w.held for w in own)


def layers_by_span(tape: Tape, stage: range) -> dict[Span, int]:
    """How many layers of a stage cache each span; nothing where all layers are alike and cache several each."""
    found: dict[Span, int] = {}
    sorts = set()
    for segment in tape.segments:
        layers = len(segment.indices[among(segment.indices, stage)]) if segment.part == "backbone" else 0
        spans = tuple(dict.fromkeys(cache.span for op in segment.ops for cache in op.caches))
        if layers and spans:
            sorts.add(spans)
            for span in spans:
                found[span] = found.get(span, 0) + layers
    return {} if len(sorts) == 1 and len(found) > 1 else found


def share_of(
    tape: Tape, engine: Engine, hardware: Hardware, where: Deployment, load: Load, step: Step, *, shared: bool = False
) -> Fraction:
    """The share of the memory that the engine uses: as it is told, or its default. `shared`: data-parallel groups of
    attention share experts, and are no copies that know nothing of each other."""
    if load.utilization is not None:
        return Fraction(str(load.utilization))
    if engine.reserve is None:
        return Fraction(str(engine.utilization))
    reserve, memory = engine.reserve, hardware.memory_visible_bytes
    left = reserve.fixed + reserve.per_batched_token * step.tokens + reserve.per_sequence * step.sequences
    left += reserve.per_device * (where.devices if shared else where.tp * where.pp)
    if shared:
        more = reserve.per_shared_sequence_of_many if step.sequences > reserve.many_sequences else 0
        left += (reserve.per_shared_sequence + more) * step.sequences * where.dp
    if memory >= reserve.least_from:
        left = max(left, reserve.least)
    share = max(Fraction(1, 1000), Fraction(round(1000 * (memory - left) / memory), 1000))
    return share * _with_tower(tape) if reserve.shrinks_with_tower and not load.language_only else share


def _with_tower(tape: Tape) -> Fraction:
    """By what SGLang multiplies its share where a tower is loaded (server_args.py, adjust_mem_fraction_for_vlm): by its
    layers times the square of its width, over those of a ViT-L, 24 x 1024²."""
    towers = [s for s in tape.segments if s.part == "vision" and s.indices and s.entry is not None]
    if not towers:
        return Fraction(1)
    size = sum(s.count * product(s.entry.features) ** 2 for s in towers if s.entry is not None)
    factor = 1 - Fraction(size - VIT_L, 10 * VIT_L)
    return Fraction(95, 100) * min(max(factor, Fraction(8, 10)), Fraction(105, 100))


VIT_L = 24 * 1024**2
"""Layers of a ViT-L times the square of its width."""


def page_size(tape: Tape, engine: Engine) -> int:
    """The profile's tokens a page for what the model caches [tokens]."""
    latent = any(row.kind == "latent" for row in cache_rows(tape, "bf16"))
    return engine.block_size_mla if latent else engine.block_size
