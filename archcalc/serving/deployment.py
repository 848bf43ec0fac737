"""What each device of a serving deployment holds of the weights.

A weight is divided through the logical axes of its dims; one without such an axis is whole on every device.
The rules are vLLM's: q_b_proj, kv_b_proj, o_proj, embedding, head, dense and shared feed-forwards over tp
devices; q_a_proj, kv_a_proj, router and norms whole (models/deepseek_v2.py); routed experts over all
devices, as whole experts where experts are parallel, by their width otherwise
(FusedMoEParallelConfig.make).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from archcalc.calc.kv_cache import Mesh
from archcalc.calc.sharding import Indivisible, Shards, local_weight, padded_weight
from archcalc.calc.weights import Scheme
from archcalc.errors import InputError
from archcalc.tape import Stored, Tape, Weight

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
    """How one model is spread over tp · dp devices.

    Attributes:
        tp: tensor parallel: heads, feed-forward width and vocabulary divided.
        dp: attention data parallel: dp groups of tp devices, each with its own sequences and its own copy of
            all that is no routed expert.
        ep: expert parallel over the tp · dp devices: each holds n_routed_experts / ep experts, whole where
            ep is tp · dp, else the (tp · dp / ep)-th part of each. vLLM has 1 and tp · dp only.
        dcp: decode context parallel, within tp.
        vision: the tower divided by tp, or whole on every device.
    """

    tp: int = 1
    dp: int = 1
    ep: int = 1
    dcp: int = 1
    vision: Vision = "sharded"

    def __post_init__(self) -> None:
        self.mesh(1)  # refuses what is below 1, and a dcp that does not divide tp
        if self.ep < 1:
            raise InputError(f"ep must be at least 1, not {self.ep}", value=self.ep)
        if self.devices % self.ep:
            raise InputError(
                f"ep {self.ep} does not divide the {self.devices} devices of tp {self.tp} x dp {self.dp}",
                value=self.ep,
                hint="--ep all spreads whole experts over all devices",
            )

    @property
    def devices(self) -> int:
        """All devices."""
        return self.tp * self.dp

    def mesh(self, block_size: int) -> Mesh:
        """The same spread as the KV cache sees it, with its page size [tokens]."""
        return Mesh(tp=self.tp, dcp=self.dcp, dp=self.dp, block_size=block_size)

    @property
    def shards(self) -> Shards:
        """The same spread as the map of logical axes sees it."""
        return Shards(
            tp=self.tp,
            ep=self.ep,
            etp=self.devices // self.ep,
            etp_name="tp x dp" if self.ep == 1 else "tp x dp / ep",
            tower=self.tp if self.vision == "sharded" else 1,
            vocab_multiple=VOCAB_PADDING,
        )


VOCAB_PADDING = 64
"""Engines pad the vocabulary to a multiple of this before they divide it (vLLM, model_executor/layers/
vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE; SGLang has the same); here only where tp does not divide it."""

MOST_TP = 64
"""The largest tensor-parallel size that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What was asked for: a deployment with some of its sizes left open.

    Attributes:
        gpus: devices, or None for the fewest that fit.
        tp: tensor parallel, or None for what `gpus` and `dp` leave.
        ep: expert parallel, or None for all devices.
        dp, dcp, vision: as in Deployment.
    """

    gpus: int | None = None
    tp: int | None = None
    dp: int = 1
    ep: int | None = 1
    dcp: int = 1
    vision: Vision = "sharded"

    def __post_init__(self) -> None:
        for name in ("gpus", "tp", "dp", "ep", "dcp"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise InputError(f"{name} must be at least 1, not {size}", value=size)

    def sizes(self) -> list[int]:
        """Tensor-parallel sizes to try, smallest first. Raises InputError where counts disagree."""
        if self.gpus is None:
            return [1 << n for n in range(MOST_TP.bit_length())] if self.tp is None else [self.tp]
        tp = self.gpus // self.dp if self.tp is None else self.tp
        if tp * self.dp != self.gpus:
            spread = f"dp {self.dp}" if self.tp is None else f"tp {self.tp} x dp {self.dp}"
            raise InputError(
                f"{spread} does not make {self.gpus} GPUs",
                value=self.gpus,
                hint="gpus is tp x dp: leave one out",
            )
        return [tp]

    def at(self, tp: int) -> Deployment:
        """The deployment at one tensor-parallel size. Raises InputError."""
        ep = tp * self.dp if self.ep is None else self.ep
        return Deployment(tp=tp, dp=self.dp, ep=ep, dcp=self.dcp, vision=self.vision)


class HeldWeight(NamedTuple):
    """One weight: all its bytes, and those on each device [bytes]."""

    weight: Weight
    whole: int
    held: int


def held_weights(tape: Tape, scheme: Scheme, where: Deployment, *, language_only: bool = False) -> list[HeldWeight]:
    """Every loaded weight and buffer, in forward order. Multi-token-prediction modules are not loaded.

    Raises:
        InputError: an axis or a quantized storage that can't be divided, or ep without experts.
    """
    unloaded = ("mtp", "vision", "projector") if language_only else ("mtp",)
    weights = scheme.split(w for w in tape.weights() if w.part not in unloaded)
    if where.ep > 1 and not any(d.axis == "experts" for w in weights for d in w.stack):
        raise InputError("ep needs routed experts, and this model has none", value=where.ep, hint="leave out --ep")
    return [_held(w, scheme, where.shards) for w in weights]


def _held(w: Weight, scheme: Scheme, shards: Shards) -> HeldWeight:
    try:
        part, filled = local_weight(w, shards), padded_weight(w, shards)
    except Indivisible as error:
        raise InputError(error.message, value=error.value, hint=HINTS.get(error.axis, error.hint)) from None
    parts, whole = filled.matrix // part.matrix, scheme(w)
    held = whole
    if parts > 1:
        held = _divided(part, scheme, whole if filled.matrix == w.matrix else scheme(filled), parts)
    return HeldWeight(w, w.copies * sum(t.nbytes for t in whole), part.copies * sum(t.nbytes for t in held))


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
        if t.shape != all_of_it.shape and prod(t.shape) * parts != prod(all_of_it.shape):
            raise error
    return stored
