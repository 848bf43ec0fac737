"""How a model is spread over devices, and what each of them holds of the weights.

A weight is divided through the logical axes of its dims; one without such an axis is whole on every device.
The rules are vLLM's: q_b_proj, kv_b_proj, o_proj, embedding, head, dense and shared feed-forwards over tp
devices; q_a_proj, kv_a_proj, router and norms whole (models/deepseek_v2.py); routed experts over the tp · dp devices
of a stage, as whole experts where experts are parallel, by their width otherwise (FusedMoEParallelConfig.make);
layers over pipeline stages (distributed/utils.py, get_pp_indices).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Literal, NamedTuple, Protocol, TypeVar

from archcalc.calc.kv_cache import Mesh, among, stage_layers
from archcalc.calc.sharding import Indivisible, Shards, local_weight, padded_weight
from archcalc.calc.weights import Scheme
from archcalc.errors import InputError
from archcalc.tape import Stored, Tape, Weight, product

T = TypeVar("T")
Vision = Literal["sharded", "replicated"]

HINTS = {
    "heads": "choose a --tp that divides the heads, or spread attention with --dp",
    "kv_heads": "choose a --tp that divides the key-value heads, or is a multiple of them",
    "experts": "choose an --ep that divides the experts",
    "expert_ffn": "keep experts whole with --ep all",
    "vision_heads": "keep the tower whole on each device: --vision replicated",
    "vision_ffn": "keep the tower whole on each device: --vision replicated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """How one model is spread over tp · pp · dp devices.

    Attributes:
        tp: tensor parallel: heads, feed-forward width and vocabulary divided.
        pp: pipeline parallel: layers divided into stages.
        dp: attention data parallel: dp groups of tp devices in each stage, each with its own sequences and its own copy
            of all that is no routed expert.
        ep: expert parallel over the tp · dp devices of a stage: each holds n_routed_experts / ep experts, whole where
            ep is tp · dp, else the (tp · dp / ep)-th part of each. vLLM has 1 and tp · dp only.
        dcp: decode context parallel, within tp.
        vision: the tower divided by tp, or whole on every device.
        uneven_experts: whether some devices hold one expert more where ep does not divide them.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    dcp: int = 1
    vision: Vision = "sharded"
    uneven_experts: bool = False

    def __post_init__(self) -> None:
        self.mesh(1)  # refuses what is below 1, and a dcp that does not divide tp
        if self.ep < 1:
            raise InputError(f"ep must be at least 1, not {self.ep}", value=self.ep)
        if self.group % self.ep:
            raise InputError(
                f"ep {self.ep} does not divide the {self.group} devices of tp {self.tp} x dp {self.dp}",
                value=self.ep,
                hint="--ep all spreads whole experts over all devices",
            )

    @property
    def devices(self) -> int:
        """All devices."""
        return self.group * self.pp

    @property
    def group(self) -> int:
        """The devices of one pipeline stage, which divide its routed experts."""
        return self.tp * self.dp

    def mesh(self, block_size: int) -> Mesh:
        """The same spread as the KV cache sees it, with its page size [tokens]."""
        return Mesh(tp=self.tp, dcp=self.dcp, pp=self.pp, dp=self.dp, block_size=block_size)

    @property
    def shards(self) -> Shards:
        """The same spread as the map of logical axes sees it."""
        return Shards(
            tp=self.tp,
            ep=self.ep,
            etp=self.group // self.ep,
            etp_name="tp x dp" if self.ep == 1 else "tp x dp / ep",
            uneven_experts=self.uneven_experts,
            tower=self.tp if self.vision == "sharded" else 1,
            vocab_multiple=VOCAB_PADDING,
        )


VOCAB_PADDING = 64
"""Engines pad the vocabulary to a multiple of this before they divide it (vLLM, model_executor/layers/
vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE; SGLang has the same); here only where tp does not divide it."""


class Once(Protocol):
    """Remembers what was made for a key."""

    def __call__(self, key: Hashable, make: Callable[[], T], /) -> T:
        """What `make` made when the key was met first."""


def anew(key: Hashable, make: Callable[[], T], /) -> T:
    """Remembers nothing."""
    return make()


class HeldWeight(NamedTuple):
    """One weight: all its bytes, and those on each device [bytes]."""

    weight: Weight
    whole: int
    held: int


def loaded_weights(tape: Tape, scheme: Scheme, *, language_only: bool = False, mtp: bool = False) -> list[Weight]:
    """Every weight and buffer that an engine loads, those divided whose layers are stored differently, in forward
    order. Multi-token-prediction modules are loaded on request."""
    unloaded = {*(() if mtp else ("mtp",)), *(("vision", "projector") if language_only else ())}
    return scheme.split(w for w in tape.weights() if w.part not in unloaded)


def stage_weights(weights: Iterable[Weight], tape: Tape, stage: range, depth: int) -> list[Weight]:
    """Those of a pipeline stage that holds the layers of `stage` out of `depth`.

    What comes before the layers, tower and projector among it, is on the first stage; what comes after them on the
    last; a tied embedding on both.
    """
    used: dict[int, list[bool]] = {}
    behind = False
    for segment in tape.segments:
        inside = segment.part == "backbone" and bool(segment.indices)
        behind = behind or inside
        for op in segment.ops:
            for w in op.weights:
                if not inside:
                    used.setdefault(id(w), []).append(behind)
    held = []
    for w in weights:
        layers = w.indices[among(w.indices, stage)]
        if w.part == "backbone" and w.indices:
            held += [w.replace(indices=layers, whole=w)] if layers else []
        else:
            ends = used.get(id(w), [w.part == "mtp"])
            if (stage.start == 0 and not all(ends)) or (stage.stop == depth and any(ends)):
                held.append(w)
    return held


def held_weights(weights: Iterable[Weight], scheme: Scheme, where: Deployment, once: Once = anew) -> list[HeldWeight]:
    """The weights with what each device holds of them, in their order. `once` remembers what follows from how a weight
    is divided alone, whatever layers of it a stage holds: of weights that live as long as what it remembers.

    Raises:
        InputError: an axis or a quantized storage that can't be divided.
    """
    shards, found = where.shards, []
    for w in weights:
        ways = tuple(shards.way(d.axis)[1] for d in (*w.out, *w.into, *w.stack))
        one = once(("matrix", id(w.whole or w), ways), partial(_matrix, w, scheme, shards))
        found.append(HeldWeight(w, w.copies * one.whole, max(1, len(w.indices)) * one.stack * one.held))
    return found


def stages(depth: int, where: Deployment) -> list[range]:
    """The layers of each pipeline stage. Raises InputError for more stages than layers."""
    return [range(first, end) for first, end in stage_layers(depth, where.pp)]


class _Matrix(NamedTuple):
    """One matrix of a weight: all its bytes, those on each device [bytes], and how many of a layer are there."""

    whole: int
    held: int
    stack: int


def _matrix(w: Weight, scheme: Scheme, shards: Shards) -> _Matrix:
    try:
        part, filled = local_weight(w, shards), padded_weight(w, shards)
    except Indivisible as error:
        raise InputError(error.message, value=error.value, hint=HINTS.get(error.axis, error.hint)) from None
    parts, whole = filled.matrix // part.matrix, scheme(w)
    held = whole
    if parts > 1:
        held = _divided(part, scheme, whole if filled.matrix == w.matrix else scheme(filled), parts)
    return _Matrix(sum(t.nbytes for t in whole), sum(t.nbytes for t in held), product(part.stack))


def _divided(part: Weight, scheme: Scheme, whole: tuple[Stored, ...], parts: int) -> tuple[Stored, ...]:
    """The stored tensors of one part of a `whole`: scales divide with the matrix, what describes it (its shape) stays.

    An engine loads no part whose edge cuts a quantization group or block; that is an error here too.
    """
    path = part.path.format(i=part.indices[0] if part.indices else 0, e=0)
    error = InputError(
        f"{path} can't be divided into {parts} parts: its quantization blocks would be cut",
        value=parts,
        hint=HINTS["expert_ffn"] if part.stack else "choose a smaller --tp",
    )
    try:
        stored = scheme(part)
    except InputError:
        raise error from None
    for t, all_of_it in zip(stored, whole, strict=True):
        if not t.about and t.shape != all_of_it.shape and prod(t.shape) * parts != prod(all_of_it.shape):
            raise error
    return stored
