"""Serving memory of one device, as an engine divides it: weights, workspaces, and the rest for the KV cache.

    usable = utilization · visible memory
    KV cache = max(0, usable - weights - activation workspace - CUDA graphs - non-torch)

(vLLM, v1/worker/gpu_worker.py, determine_available_memory). The terms' constants come from an engine profile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from archcalc.calc.kv_cache import SequenceCache, cache_rows, sequence_cache
from archcalc.calc.sharding import Padding, check_heads, paddings
from archcalc.calc.weights import Scheme
from archcalc.errors import InputError
from archcalc.hardware import Hardware
from archcalc.serving.deployment import Deployment, HeldWeight, held_weights
from archcalc.serving.engine import Engine
from archcalc.tape import Tape


class Overhead(NamedTuple):
    """One term beside weights and cache [bytes of each device]."""

    kind: Literal["activation", "cuda_graphs", "non_torch", "given"]
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be served, and what the engine is told.

    Attributes:
        context: tokens of each sequence, prompt and answer.
        batch: sequences at once.
        kv_dtype: cache layout.
        utilization: share of the visible memory to use; None for the profile's.
        overhead: replaces all overhead terms [bytes of each device].
        batched_tokens: tokens of one step; None for the profile's.
        block_size: tokens of a cache page; None for the profile's.
        language_only: vision tower and projector are not loaded.

    Raises:
        InputError: a size that is not positive.
    """

    context: int
    batch: int = 1
    kv_dtype: str = "bf16"
    utilization: float | None = None
    overhead: int | None = None
    batched_tokens: int | None = None
    block_size: int | None = None
    language_only: bool = False

    def __post_init__(self) -> None:
        for name in ("context", "batch", "batched_tokens", "block_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise InputError(f"{name.replace('_', ' ')} must be at least 1, not {size}", value=size)
        if self.utilization is not None and not 0 < self.utilization <= 1:
            raise InputError(
                f"utilization must be above 0 and at most 1, not {self.utilization}", value=self.utilization
            )
        if self.overhead is not None and self.overhead < 0:
            raise InputError(f"overhead can't be negative: {self.overhead}", value=self.overhead)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One deployment's memory, per device [bytes], and what it can serve.

    Attributes:
        where: the deployment.
        weights: every loaded weight with its bytes.
        overhead: the terms beside weights and cache.
        visible: memory that programs see.
        usable: the engine's share of it.
        kv_bytes: cache of the load's sequences in whole pages.
        kv_budget: what weights and overhead leave for the cache.
        cache: of one sequence on one device, by its length.
        padded: sizes that the engine pads so that they divide.
        max_batch: sequences of the load's context, by memory; None where they cache nothing.
    """

    where: Deployment
    weights: tuple[HeldWeight, ...]
    overhead: tuple[Overhead, ...]
    visible: int
    usable: int
    kv_bytes: int
    kv_budget: int
    cache: SequenceCache
    padded: tuple[Padding, ...]
    max_batch: int | None

    @property
    def block_size(self) -> int:
        """Tokens of a page."""
        return self.cache.mesh.block_size

    @property
    def max_context(self) -> int | None:
        """Tokens of one sequence alone, by memory; None where a sequence of any length fits."""
        return self.cache.longest(self.kv_budget)

    @property
    def max_tokens(self) -> int | None:
        """Cached tokens of all devices together, a sequence on each; None as `max_context`."""
        longest = self.max_context
        return None if longest is None else longest * self.where.dp

    @property
    def weights_bytes(self) -> int:
        """Weights of one device [bytes]."""
        return sum(w.held for w in self.weights)

    @property
    def overhead_bytes(self) -> int:
        """Everything beside weights and cache [bytes]."""
        return sum(term.nbytes for term in self.overhead)

    @property
    def free(self) -> int:
        """What is left of the usable memory; negative where the load does not fit [bytes]."""
        return self.usable - self.weights_bytes - self.overhead_bytes - self.kv_bytes

    @property
    def fits(self) -> bool:
        """Whether weights, overhead and the load's cache fit."""
        return self.free >= 0


def serve(tape: Tape, scheme: Scheme, hardware: Hardware, engine: Engine, where: Deployment, load: Load) -> Serving:
    """The memory of one deployment.

    Raises:
        InputError: what can't be divided over the devices, or a cache dtype that does not fit.
    """
    check_heads(tape, where.tp)
    weights = tuple(held_weights(tape, scheme, where, language_only=load.language_only))
    terms = overhead_terms(engine, hardware, where.devices, load)
    usable = usable_bytes(engine, hardware, terms, load)
    budget = max(0, usable - sum(w.held for w in weights) - sum(term.nbytes for term in terms))
    cache = sequence_cache(tape, load.kv_dtype, where.mesh(load.block_size or page_size(tape, engine)))
    sequence = cache.at(load.context)
    return Serving(
        where=where,
        weights=weights,
        overhead=terms,
        visible=hardware.memory_visible_bytes,
        usable=usable,
        kv_bytes=-(-load.batch // where.dp) * sequence,
        kv_budget=budget,
        cache=cache,
        padded=tuple(paddings((w.weight for w in weights), where.shards)),
        max_batch=budget // sequence * where.dp if sequence else None,
    )


def overhead_terms(engine: Engine, hardware: Hardware, devices: int, load: Load) -> tuple[Overhead, ...]:
    """Activation workspace, CUDA graphs and non-torch memory of one device, or the load's own sum of them."""
    if load.overhead is not None:
        return (Overhead("given", load.overhead),)
    tokens = load.batched_tokens or engine.activation.batched_tokens(hardware)
    alone = devices == 1
    return (
        Overhead("activation", tokens * engine.activation.bytes_per_token),
        Overhead("cuda_graphs", engine.cuda_graph_bytes),
        Overhead("non_torch", engine.non_torch_bytes_one_device if alone else engine.non_torch_bytes),
    )


def usable_bytes(engine: Engine, hardware: Hardware, terms: tuple[Overhead, ...], load: Load) -> int:
    """The engine's share of a device's memory [bytes], and CUDA graphs where they come on top of it."""
    share = engine.utilization if load.utilization is None else load.utilization
    usable = int(Fraction(str(share)) * hardware.memory_visible_bytes)
    if engine.cuda_graphs_inside_utilization:
        return usable
    graphs = sum(term.nbytes for term in terms if term.kind == "cuda_graphs")
    return min(hardware.memory_visible_bytes, usable + graphs)


def page_size(tape: Tape, engine: Engine) -> int:
    """The profile's tokens a page for what the model caches [tokens]."""
    latent = any(row.kind == "latent" for row in cache_rows(tape, "bf16"))
    return engine.block_size_mla if latent else engine.block_size


class Tried(NamedTuple):
    """What was found for each tensor-parallel size in turn, and why others were passed over."""

    found: list[Serving]
    refused: dict[int, InputError]


def tried(attempt: Callable[[int], Serving], sizes: Iterable[int]) -> Tried:
    """Attempt each size in turn, up to the first that fits. Raises InputError where none can be divided."""
    result = Tried([], {})
    for tp in sizes:
        try:
            result.found.append(attempt(tp))
        except InputError as error:
            result.refused[tp] = error
            continue
        if result.found[-1].fits:
            break
    if not result.found:
        raise next(iter(result.refused.values()))
    return result
