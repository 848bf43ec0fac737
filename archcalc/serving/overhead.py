"""What a device holds beside the checkpoint's tensors and the cache, each term with the range of what is assumed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from archcalc.calc.kv_cache import among
from archcalc.calc.sharding import Shards, local_features
from archcalc.calc.weights import Scheme
from archcalc.errors import InputError
from archcalc.hardware import Hardware
from archcalc.serving.deployment import Deployment, held_weights, loaded_weights
from archcalc.serving.engine import Bounds, Engine, Sampler
from archcalc.serving.step import Step, Traced, step_peak
from archcalc.tape import Op, Tape, Weight
from archcalc.tape.values import ITEM_BYTES
from archcalc.workload import Workload

T = TypeVar("T")
Kind = Literal["activation", "cuda_graphs", "non_torch", "absorbed", "rotary", "draft", "mtp", "lora", "given"]


class Term(NamedTuple):
    """One term [bytes of a device]; `outside` the engine's share are those that it does not count against it."""

    kind: Kind
    bounds: Bounds
    outside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model as it is served.

    Attributes:
        model: what can be run on paper.
        scheme: how its weights are stored.
        positions: rows of its rotary tables [tokens].
        name: what reports call it, where it is a draft.
    """

    model: Traced
    scheme: Scheme
    positions: int
    name: str = ""
    _known: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes, made once for a key: a search asks the same of many devices."""
        if key not in self._known:
            self._known[key] = make()
        found: T = self._known[key]
        return found

    @property
    def tape(self) -> Tape:
        """Its weights and caches."""
        return self.model.trace(Workload())

    @property
    def has_experts(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return self.once("experts", lambda: any(d.axis == "experts" for w in self.tape.weights() for d in w.stack))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be served, and what the engine is told.

    Attributes:
        context: tokens of each sequence, prompt and answer.
        batch: sequences at once.
        kv_dtype: cache layout.
        utilization: share of the memory to use; None for the profile's.
        overhead: replaces all overhead terms [bytes of each device].
        batched_tokens: tokens of one step; None for the profile's.
        max_num_seqs: most sequences of one step; None for the profile's.
        sampler: whose kernels sample; None for the profile's.
        eager: no CUDA graphs.
        block_size: tokens of a cache page; None for the profile's.
        language_only: vision tower and projector are not loaded.
        mtp: the model's own prediction modules draft.
        lora_rank: of one adapter that may be loaded; 0: none.
        offloaded: layers whose routed experts stay in the host's memory; None for all of them.

    Raises:
        InputError: a size that is not positive.
    """

    context: int
    batch: int = 1
    kv_dtype: str = "bf16"
    utilization: float | None = None
    overhead: int | None = None
    batched_tokens: int | None = None
    max_num_seqs: int | None = None
    sampler: Sampler | None = None
    eager: bool = False
    block_size: int | None = None
    language_only: bool = False
    mtp: bool = False
    lora_rank: int = 0
    offloaded: int | None = 0

    def __post_init__(self) -> None:
        for name in ("context", "batch", "batched_tokens", "max_num_seqs", "block_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise InputError(f"{name.replace('_', ' ')} must be at least 1, not {size}", value=size)
        if self.utilization is not None and not 0 < self.utilization <= 1:
            raise InputError(
                f"utilization must be above 0 and at most 1, not {self.utilization}",
                value=self.utilization,
                hint="it is a share of the memory, such as 0.9",
            )
        for name in ("overhead", "lora_rank", "offloaded"):
            size = getattr(self, name)
            if size is not None and size < 0:
                raise InputError(f"{name.replace('_', ' ')} can't be negative: {size}", value=size)


def step_of(engine: Engine, hardware: Hardware, load: Load) -> Step:
    """The largest step of an engine on a device, under a load. Where steps hold whole prompts the context is
    max_model_len: an engine whose pool holds no sequence of the longest it allows does not start."""
    chosen = engine.device(hardware)
    tokens = load.batched_tokens or chosen.max_num_batched_tokens
    whole = engine.whole_prompts and (engine.chunked_from is None or load.context <= engine.chunked_from)
    if whole and not load.batched_tokens:
        tokens = max(tokens, load.context)
    return Step(
        tokens=tokens,
        sequences=load.max_num_seqs or chosen.max_num_seqs,
        sampler=load.sampler or engine.activation.sampler.default,
        context=load.context,
        page=load.block_size or engine.block_size_mla,
        encoder=engine.activation.encoder and not load.language_only,
    )


def terms(
    served: Served, engine: Engine, hardware: Hardware, where: Deployment, load: Load, stage: range, depth: int
) -> tuple[Term, ...]:
    """Every term of one device of a stage, or the load's own sum of what is assumed of them. Raises InputError."""
    key = ("beside", engine.name, where.shards, stage, load.mtp, load.lora_rank)
    beside = served.once(key, lambda: list(_beside_weights(served, engine, where, load, stage, depth)))
    kept = [t for t in beside if t.bounds.high]
    if load.overhead is not None:
        return (Term("given", Bounds(load.overhead, load.overhead)), *(t for t in kept if t.kind in ("mtp", "lora")))
    step = step_of(engine, hardware, load)
    free = engine.share_of == "free"
    found = [Term("activation", _peak(served, engine, where, step, stage, depth), outside=free)]
    if not load.eager:
        graphs = engine.cuda_graphs.bounds(step.sequences, len(stage), dense=not served.has_experts)
        found.append(Term("cuda_graphs", graphs, outside=not engine.cuda_graphs.inside_utilization))
    found.append(Term("non_torch", _non_torch(engine, hardware, where, load), outside=free))
    return (*found, *kept)


def _peak(served: Served, engine: Engine, where: Deployment, step: Step, stage: range, depth: int) -> Bounds:
    """The peak of a step, worked out once for devices alike."""

    def once(key: Hashable, make: Callable[[], T]) -> T:
        return served.once(("layer", engine.name, step, key), make)

    make = partial(step_peak, served.model, served.scheme, where, step, engine.activation, stage, depth, once)
    return served.once(("step", engine.name, where, step, stage), make).bounds


def _non_torch(engine: Engine, hardware: Hardware, where: Deployment, load: Load) -> Bounds:
    """By how the devices of a stage are linked; stages alone exchange little."""
    by_link = engine.non_torch_bytes
    if where.group == 1:
        return Bounds(*by_link.one_device)
    if not hardware.nvlink:
        return Bounds(*by_link.pcie)
    fused, found = by_link.fused_all_reduce, Bounds(*by_link.nvlink)
    alone = where.devices == where.tp and not load.eager
    return found + Bounds(*fused.bytes) if fused and alone and not hardware.is_named(fused.never) else found


# -- beside the checkpoint -------------------------------------------------------------------------------------------


def _beside_weights(
    served: Served, engine: Engine, where: Deployment, load: Load, stage: range, depth: int
) -> Iterator[Term]:
    tape = served.tape
    backbone = ((s.ops, len(s.indices[among(s.indices, stage)])) for s in tape.segments if s.part == "backbone")
    ops = [(op, layers) for own, layers in backbone for op in own]
    yield Term("absorbed", _absorbed(ops, served.scheme, engine, where.shards))
    yield Term("rotary", _rotary(ops, served.positions))
    if load.mtp and stage.stop == depth:
        own = [w for w in loaded_weights(tape, served.scheme, mtp=True) if w.part == "mtp"]
        if not own:
            raise InputError("this model has no multi-token-prediction module to draft with", hint="leave out --mtp")
        held = sum(w.held for w in held_weights(own, served.scheme, where))
        yield Term("mtp", Bounds(held, held))
    if load.lora_rank:
        nbytes = load.lora_rank * _adapted(ops, where.shards)
        yield Term("lora", Bounds(nbytes, nbytes))


def _absorbed(ops: Iterable[tuple[Op, int]], scheme: Scheme, engine: Engine, shards: Shards) -> Bounds:
    """MLA's up-projection again in the layers' dtype, as the absorbed products of decode use it (vLLM,
    MLACommonImpl.process_weights_after_loading: a view unless the weight is quantized; SGLang, deepseek_weight_loader:
    copies w_kc and w_vc) [bytes]."""
    total = 0
    for op, layers in ops:
        for w in op.weights[:1] if op.site == "kv_up" else ():
            stored = scheme.split([w])[0]
            quantized = not scheme(stored)[0].dtype.startswith(("float16", "float32", "bfloat16"))
            if engine.absorbed_copies == "always" or (engine.absorbed_copies == "quantized" and quantized):
                total += layers * local_features((*w.out, *w.into), shards) * ITEM_BYTES[op.outputs[0].dtype]
    return Bounds(total, total)


def _rotary(ops: Iterable[tuple[Op, int]], positions: int) -> Bounds:
    """Cosines and sines of every position, once for each rotated width: in the model's dtype, or in fp32 (vLLM,
    layers/rotary_embedding, cos_sin_cache) [bytes]."""
    widths = {op.turned for op, layers in ops if layers}
    return Bounds(2 * positions * sum(widths), 4 * positions * sum(widths))


ADAPTED = frozenset({"attention", "dense_ffn", "shared_expert"})
"""Roles of the linears that an adapter changes here: experts' adapters are not counted."""


def _adapted(ops: Iterable[tuple[Op, int]], shards: Shards) -> int:
    """Bytes of buffers for an adapter of rank 1: A [in] and B [out] of every linear, in bf16, in the parts that the
    device holds (vLLM, lora/layers: A of a row-parallel and B of a column-parallel linear are divided)."""
    seen: dict[int, tuple[Weight, int]] = {id(w): (w, n) for op, n in ops for w in op.weights if w.into and w.flat}
    return sum(
        2 * layers * (local_features(w.out, shards) + local_features(w.into, shards))
        for w, layers in seen.values()
        if w.role in ADAPTED
    )
