"""Our side: what archcalc's calculators say about each kind of number, path by path. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from archcalc.calc.activations import saved_bytes
from archcalc.calc.kv_cache import cache_rows
from archcalc.calc.sharding import Shards
from archcalc.calc.weights import stored_rows
from archcalc.files.model import Spec
from archcalc.files.storage import Plain, release
from archcalc.proof.sides import Side, Sides, add, single, unfolded
from archcalc.tape import Tape, value
from archcalc.training.savers import savers
from archcalc.training.schedule import Pipeline, get_schedule, most_live
from archcalc.workload import Workload

SEQ = 4096
"""Text tokens of the training step that is compared, and keys of the decode step."""

IMAGE = (1024, 768)
"""The picture that a vision tower sees (height, width) [px]."""

CACHE = (2, SEQ)
"""Sequences and tokens of each in the compared cache."""

CACHE_DTYPES = ("bf16", "fp8")

BF16 = Plain(scheme="plain", dtype="bfloat16")
FP32 = Plain(scheme="plain", dtype="float32")

PIPELINE = Pipeline(pp=8, vpp=2, micro_batches=32)
SCHEDULES = ("interleaved-1f1b", "zb-v", "dualpipe-v")
"""The schedules that torch has too, all with two chunks a rank."""


class Setting(NamedTuple):
    """One way to keep activations that both sides work out."""

    kernels: str
    router_probs: str
    recompute: tuple[str, ...] = ()
    fp8: tuple[str, ...] = ()
    core: str = "flash"
    dropout: tuple[float, float] = (0.0, 0.0)
    deterministic: bool = False
    rope: str = "fused"

    @property
    def plain(self) -> bool:
        """Whether nothing is recomputed, compressed or unfused: no such option reaches a vision tower."""
        special = self.core != "flash" or self.rope != "fused" or self.recompute or self.fp8 or self.drops
        return self.router_probs == "out" and not special

    @property
    def drops(self) -> tuple[str, ...]:
        """The kinds of dropout that there are."""
        names = ("hidden_dropout", "attention_dropout")
        return tuple(name for name, chance in zip(names, self.dropout, strict=True) if chance)

    def __str__(self) -> str:
        pieces = [self.kernels, *([self.core] if self.core != "flash" else []), f"probs@{self.router_probs}"]
        more = ("deterministic",) if self.deterministic else ()
        pieces += ["rope-unfused"] if self.rope != "fused" else []
        return " ".join([*pieces, *(f"+{name}" for name in (*self.recompute, *self.fp8, *self.drops, *more))])


K2 = ("layernorm", "swiglu", "mla_up_proj", "moe_down_proj")
SETTINGS = (
    Setting("eager", "out"),
    Setting("fused", "out"),
    Setting("fused", "act"),
    *(Setting("fused", "act", (name,)) for name in ("layernorm", "swiglu", "mla_up_proj", "core_attn")),
    *(Setting("fused", "act", (name,)) for name in ("mlp", "moe", "shared_experts", "full")),
    Setting("fused", "out", ("moe_down_proj",)),
    Setting("fused", "out", K2),
    Setting("fused", "out", K2, ("moe_up_proj_input", "swiglu_input")),
    Setting("eager", "out", core="unfused"),
    Setting("fused", "act", ("core_attn",), core="unfused"),
    Setting("fused", "act", core="unfused"),
    *(Setting(kernels, "out", core="unfused", dropout=(0.1, 0.1)) for kernels in ("fused", "eager")),
    Setting("fused", "act", core="flash-attn", dropout=(0.1, 0.1), deterministic=True),
    Setting("fused", "act", ("core_attn",), core="unfused", dropout=(0.0, 0.1)),
    Setting("fused", "act", ("full",), core="unfused", dropout=(0.1, 0.1)),
    *(Setting("fused", "act", recompute, rope="unfused") for recompute in ((), ("mla_up_proj", "core_attn"))),
)
"""Eager and fused kernels, both places of the router's probabilities, every recompute option, K2's own mix, and
unfused attention, plain and recomputed, in both precisions; dropout on both cores, and recomputed;
rotation without a kernel."""


def images_of(spec: Spec) -> tuple[tuple[int, int], ...]:
    """The picture, for a model that can see it."""
    return () if spec.vision is None else (IMAGE,)


def weights_by_path(spec: Spec) -> Sides:
    """Elements of every weight: trained ones, buffers, and those of multi-token prediction."""
    sides: Sides = {"params": {}, "buffers": {}, "mtp": {}}
    seen: set[int] = set()
    for segment in spec.trace(Workload()).segments:
        for op in segment.ops:
            for w in op.weights:
                if id(w) not in seen:
                    seen.add(id(w))
                    kind = "buffers" if not w.trainable else "mtp" if w.part == "mtp" else "params"
                    for path in unfolded(f"{w.path}.{w.suffix}", segment):
                        sides[kind][path, ""] = (w.copies // segment.count, w.matrix)
    return sides


def flops(spec: Spec) -> Sides:
    """A training step with full scores, and one decode step with the latents absorbed [FLOPs]."""
    train = spec.trace(Workload(phase="train", seq=SEQ, attention="full", images=images_of(spec)))
    decode = spec.trace(Workload(phase="decode", context=SEQ - 1, attention="full"))
    side = forward_flops(train, "train forward")
    for segment in train.segments:
        for op in segment.ops if segment.part != "mtp" else ():
            if op.flops:
                for path in unfolded(op.path, segment):
                    add(side, path, "train backward", value(op.flops) * op.backward_factor)
    return {"flops": side | predictions(train) | forward_flops(decode, "decode forward")}


def predictions(train: Tape) -> Side:
    """FLOPs that multi-token-prediction modules add to a training step, by path; the shared head's are those of all
    modules, at the main model's head."""
    side: Side = {}
    head = next(op.path for op in train.ops("backbone") if op.site == "head")
    for segment in train.segments:
        for op in segment.ops if segment.part == "mtp" else ():
            if op.flops:
                for path in unfolded(head if op.site == "head" else op.path, segment):
                    add(side, path, "prediction forward", value(op.flops))
                    add(side, path, "prediction backward", value(op.flops) * op.backward_factor)
    return side


def forward_flops(tape: Tape, setting: str) -> Side:
    """Forward FLOPs of each operation that has any, multi-token prediction left out."""
    side: Side = {}
    for segment in tape.segments:
        for op in segment.ops if segment.part != "mtp" else ():
            if value(op.flops):
                for path in unfolded(op.path, segment):
                    add(side, path, setting, value(op.flops))
    return side


def kv(spec: Spec) -> Sides:
    """The whole cache of each layer, its latents or keys and values together [bytes]."""
    batch, context = CACHE
    side: Side = {}
    for dtype in CACHE_DTYPES:
        for row in cache_rows(spec.trace(Workload()), dtype):
            for i in row.indices:
                one = row.nbytes * row.span.entries(context)
                add(side, row.path.replace("{i}", str(i)), dtype, batch * one)
    return {"kv": side}


def weights(spec: Spec) -> Sides:
    """A checkpoint in bf16 but for the router's bias, which every public one has in fp32 [bytes]."""
    stored = release({"default": BF16, "router_bias": FP32})
    rows = stored_rows(spec.trace(Workload()), stored)
    return {"weights": single([("state_dict", sum(row.nbytes for row in rows))], "bf16")}


def activations(spec: Spec) -> Sides:
    """What each kind of segment keeps for backward, under the first of its layers, in every setting [bytes].

    The backbone sees text alone; the tower and the projector see the picture, in the plain settings.
    """
    text = spec.trace(Workload(phase="train", seq=SEQ))
    picture = spec.trace(Workload(phase="train", seq=SEQ, images=images_of(spec)))
    backbone = [s for s in text.segments if s.part == "backbone"]
    tower = [s for s in picture.segments if s.part in ("vision", "projector")]
    side: Side = {}
    for setting in SETTINGS:
        how = savers(
            kernels=setting.kernels,
            core=setting.core,
            router_probs=setting.router_probs,
            recompute=setting.recompute,
            fp8=setting.fp8,
            cross_entropy=setting.kernels,
            hidden_dropout=setting.dropout[0],
            attention_dropout=setting.dropout[1],
            deterministic=setting.deterministic,
            rope=setting.rope,
        )
        for segment in (*backbone, *(tower if setting.plain else ())):
            kept = saved_bytes(segment, Shards(), how)
            first = segment.path.replace("{i}", str(segment.indices[0] if segment.indices else 0))
            side |= single([(first, kept)], str(setting))
    return {"activations": side}


def schedule(spec: Spec) -> Sides:
    """The most chunks alive on every rank. It does not depend on the spec."""
    side: Side = {}
    for kind in SCHEDULES:
        alive = [most_live(get_schedule(kind), PIPELINE, rank) for rank in range(PIPELINE.pp)]
        side |= single([(f"{kind}.rank.{rank}", n) for rank, n in enumerate(alive)], schedule_setting())
    return {"schedule": side}


def schedule_setting() -> str:
    """The sizes of the compared schedules."""
    return f"pp {PIPELINE.pp} vpp {PIPELINE.vpp} micro-batches {PIPELINE.micro_batches}"


OURS: dict[str, Callable[[Spec], Sides]] = {
    "params": weights_by_path,
    "flops": flops,
    "kv": kv,
    "weights": weights,
    "activations": activations,
    "schedule": schedule,
}
"""Our side by what `--only` may name. The twin has the same keys; transformers answers the first three."""
