"""Plans that break one rule each, beside legal ones.

The base is `k2-pretrain` with nothing offloaded and no down projection made again: 256 GPUs, pp 16 x vpp 2, ep 16,
tp 1, and 16 data-parallel devices of 1,024 micro-batches of 4,096 tokens.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from archcalc.tape import Dim
from archcalc.training.activations import Spread
from archcalc.training.legal import Facts
from archcalc.training.load import load_plan
from archcalc.training.pictures import ImageBatch
from archcalc.training.plan import Plan
from archcalc.training.precision import Fsdp
from archcalc.training.stack import Stack, load_stack

HIDDEN, HEADS, WIDTH = Dim("hidden_size", 7168), Dim("num_attention_heads", 64, "heads"), Dim("width", 2048, "ffn")
K2 = Facts(
    layers=61,
    mtp=0,
    dims=(HEADS, WIDTH, Dim("n_routed_experts", 384, "experts"), Dim("moe_width", 2048, "expert_ffn")),
    exchanged=(HEADS,),
    experts=(384, 8),
    expert_bias=False,
    linears=(((WIDTH,), (HIDDEN,)),),
    sites=frozenset({"kv_up", "core_attn"}),
    windowed=False,
    tied=False,
)
"""Sizes of Kimi K2 (arXiv:2507.20534, table 2)."""

GROUPED = K2._replace(dims=(*K2.dims, Dim("num_key_value_heads", 8, "kv_heads")))
WINDOWED = K2._replace(windowed=True)
DENSE = K2._replace(experts=None, dims=(HEADS, WIDTH))

Changes = dict[str, Any]
NOTHING: Changes = {}
ONE: Changes = {"parallel.pp": 1, "parallel.vpp": 1, "schedule.kind": "1f1b", "schedule.extra_warmup": 0}
"""One stage: 256 data-parallel devices, 64 micro-batches."""
SINGLE: Changes = {"parallel.vpp": 1, "schedule.kind": "1f1b"}
"""16 stages of one chunk."""
SHARDED: Changes = {
    **ONE,
    "parallel.zero": 3,
    "precision.grads": "bf16",
    "precision.optimizer": "adamw",
    "fsdp": Fsdp(),
}
UNFUSED: Changes = {**SHARDED, "parallel.ep": 1, "memory.gradient_accumulation_fusion": False}
"""As Megatron-LM's --use-torch-fsdp2 takes it."""
TENSOR: Changes = {"parallel.tp": 2, "parallel.sp": True}
"""8 data-parallel devices."""


class Case(NamedTuple):
    """A rule and the stack whose it is; changes of the base that break it and no other, changes that both plans have,
    and what the model is."""

    rule: str
    breaks: Changes
    base: Changes = NOTHING
    stack: str | None = None
    model: Facts = K2


MEGATRON, TITAN, DEEPSPEED = "megatron", "torchtitan", "deepspeed"

CASES = (
    Case("dense groups", {"parallel.world": 272, "parallel.ep": 17, "parallel.tp": 4}),  # 272 is no multiple of 64
    Case("expert groups", {"parallel.ep": 7}),  # 256 is no multiple of 112
    Case("micro-batches", {"batch.micro_batch": 3}),  # 67,108,864 is no multiple of 3
    Case("sp without tp", {"parallel.sp": True}),
    # 2 x cp = 4 pieces; 8 data-parallel devices of 64 micro-batches
    Case("sequence pieces", {"batch.seq": 4098, "batch.global_tokens": 4098 * 8 * 64}, {"parallel.cp": 2}),
    # all-to-all attention: no pieces, but under Megatron-LM
    Case(
        "sequence pieces, a2a",
        {"batch.seq": 4098, "batch.global_tokens": 4098 * 8 * 64},
        {"parallel.cp": 2, "parallel.cp_comm": "a2a"},
        MEGATRON,
    ),
    Case("sequence pieces", {"batch.seq": 4097, "batch.global_tokens": 4097 * 8 * 64}, TENSOR),
    # multiples of 2 x cp = 4 and of cp x tp = 4, not of 8; 4 data-parallel devices
    Case(
        "sequence pieces, tp",
        {"batch.seq": 4100, "batch.global_tokens": 4100 * 4 * 64},
        {**TENSOR, "parallel.cp": 2},
        TITAN,
    ),
    Case("vision tokens", {"batch.images": ImageBatch(tokens_per_sequence=4097)}),
    Case("sizes", {"parallel.ep": 5, "parallel.world": 1280, "batch.global_tokens": 80 * 4096 * 64}),  # 384 / 5
    Case("heads over a2a", {"parallel.cp_comm": "a2a"}, {"parallel.world": 2048, "parallel.cp": 128}),  # 64 / 128
    Case("key-value heads over a2a", {"parallel.cp_comm": "a2a"}, {"parallel.cp": 16}, MEGATRON, GROUPED),  # 8 / 16
    Case("no a2a", {"parallel.cp_comm": "a2a"}, {"parallel.cp": 2}, TITAN),
    Case(
        "windows over a ring",
        {"parallel.cp_comm": "p2p"},
        {"parallel.cp": 2, "parallel.cp_comm": "a2a"},
        MEGATRON,
        WINDOWED,
    ),
    Case(
        "sparse attention over cp",
        {"parallel.cp": 2},
        NOTHING,
        MEGATRON,
        K2._replace(sites=frozenset({"kv_up", "core_attn", "index"})),
    ),
    Case("experts there are none of", {"parallel.ep": 2}, {"parallel.ep": 1}, None, DENSE),
    Case("experts over tp", {"parallel.sp": False}, TENSOR),
    Case("biases of experts", {"parallel.etp": 2}, {"parallel.ep": 8}, MEGATRON, K2._replace(expert_bias=True)),
    Case("widths of experts", {"parallel.etp": 2}, {"parallel.ep": 8}, TITAN),
    Case("ZeRO and pipeline", {"parallel.zero": 2}, NOTHING, MEGATRON),
    Case("ZeRO and pipeline", {"parallel.zero": 3}, SINGLE, DEEPSPEED),
    Case("dtype of gradients", {"precision.grads": "fp16"}),
    Case("layout of Muon", {"precision.muon_layout": "sliced", "precision.optimizer": "adamw"}),
    Case("remainders", {"precision.params": "fp32"}, {"precision.optimizer": "adamw-param-remainders"}),
    Case("weights in FP8", {"precision.fp8_params": True}, {"precision.optimizer": "adamw"}),
    Case(
        "weights in FP8, gathered",
        {"parallel.zero": 0},
        {"precision.fp8_params": True, "precision.fp8": "tensorwise", "precision.optimizer": "adamw"},
        MEGATRON,
    ),
    Case("precision-aware optimizer", {"parallel.zero": 0}, {"precision.optimizer": "adamw-bf16-moments"}, MEGATRON),
    Case("precision-aware optimizer", {"parallel.zero": 0}, {"precision.optimizer": "adam-8bit"}, MEGATRON),
    Case("offloaded states", {"memory.optimizer_offload": 0.5}, NOTHING, MEGATRON),  # of Muon
    Case(
        "offloaded states",
        {"precision.fp8": "blockwise"},
        {
            "memory.optimizer_offload": 0.5,
            "precision.fp8_params": True,
            "precision.fp8": "delayed",
            "precision.optimizer": "adamw",
            "activations.recompute": [],
        },
        MEGATRON,
    ),
    Case("fsdp", {"parallel.zero": 2}, SHARDED),
    Case("fsdp, gradients", {"precision.grads": "fp32"}, SHARDED),
    Case("fsdp, quantized", {"train.mtp": "qlora(8)"}, SHARDED),
    Case("fsdp, what is Megatron-LM's", {"memory.optimizer_offload": 0.5}, SHARDED),
    Case("replicas", {"fsdp": Fsdp(replicate=3)}, SHARDED),  # 256 / 3
    # 256 / 128 = 2 data-parallel devices: replicas hold whole sequences; of experts there are 256
    Case("replicas", {"fsdp": Fsdp(replicate=4)}, {**SHARDED, "parallel.ep": 1, "parallel.cp": 128}),
    Case("fsdp under Megatron-LM", {"parallel.ep": 16}, UNFUSED, MEGATRON),
    Case("fsdp under Megatron-LM", {"memory.gradient_accumulation_fusion": True}, UNFUSED, MEGATRON),
    Case(
        "fsdp under Megatron-LM, tied",
        {"parallel.ep": 1},
        UNFUSED,
        MEGATRON,
        K2._replace(tied=True),
    ),
    Case("full recompute and more", {"activations.recompute": ["full", "layernorm"]}, {"schedule.extra_warmup": 0}),
    Case("two ways to recompute", {"activations.selective": ["mm"]}),
    Case("recompute modules", {"activations.recompute": ["layernorm", "moe_down_proj"]}, NOTHING, MEGATRON),
    Case(
        "recompute of MLA",
        {"activations.recompute": ["mla_up_proj"]},
        {"activations.recompute": []},
        MEGATRON,
        K2._replace(sites=frozenset({"qkv"})),
    ),
    Case("recompute under delayed scaling", {"precision.fp8": "delayed"}, NOTHING, MEGATRON),
    Case("unfused attention over cp", {"activations.core": "unfused"}, {"parallel.cp": 2}),
    Case("deterministic loss", {"activations.cross_entropy": "te"}, {"activations.deterministic": True}, MEGATRON),
    Case("offload modules", {"activations.offload": "all"}, NOTHING, MEGATRON),
    Case("offload modules", {"activations.offload": ["attn_proj"]}, NOTHING, MEGATRON),
    Case(
        "offload modules",
        {"activations.recompute": ["moe"]},
        {"activations.offload": ["moe_act"], "schedule.extra_warmup": 0},
        MEGATRON,
    ),
    Case("spread", {"activations.moe_imbalance": Spread(typical=2.0, worst=1.5)}),
    Case("imbalance above ep", {"activations.moe_imbalance": 257.0}, {"parallel.ep": 1}),  # 256 GPUs
    # 4 experts a device: a token sends it 4 of its 8 copies, 96 x 4 / 8 = 48 times the mean
    Case(
        "imbalance above what is picked",
        {"activations.moe_imbalance": 48.5},
        {"parallel.ep": 96, "parallel.world": 1536, "batch.global_tokens": 96 * 4096 * 64},
    ),
    Case("FP8 kernels", {"activations.kernels": "eager"}, {"precision.fp8": "tensorwise"}),
    Case("FP8 and ZeRO-3", {"precision.fp8": "tensorwise"}, {"parallel.zero": 3}),
    Case("FP8 rows", {"precision.fp8": "mxfp8"}, {"batch.seq": 4104, "batch.global_tokens": 4104 * 16 * 64}),  # 8 x 513
    # 1,024 over 64 devices are 16 outputs: a multiple of 8, not of 32
    Case(
        "FP8 widths",
        {"precision.fp8": "mxfp8"},
        {"parallel.tp": 64, "parallel.sp": True, "parallel.world": 1024},
        None,
        K2._replace(linears=(((Dim("width", 1024, "ffn"),), (HIDDEN,)),)),
    ),
    Case("allocator efficiency", {"memory.allocator_efficiency": 5e-324}),
    Case("compute utilization", {"memory.compute_utilization": 5e-324}),
    Case("vision frozen twice", {"train.vision": "lora(8)"}, {"vision.process": "frozen"}),
    Case("schedule", {"schedule.group": 8}),  # fewer than pp 16
    Case("schedules there are none of", {"schedule.kind": "zb-h1"}, {**SINGLE, "schedule.extra_warmup": 0}, MEGATRON),
    Case("schedules there are none of", {"schedule.kind": "gpipe"}, {**SINGLE, "schedule.extra_warmup": 0}, DEEPSPEED),
    Case("schedules there are none of", {"schedule.kind": "zb-h2"}, {**SINGLE, "schedule.extra_warmup": 0}, TITAN),
    Case("interleaving one stage", {"schedule.kind": "interleaved-1f1b"}, SINGLE, TITAN),
    # 35 micro-batches over pp 16 are 2 rounds, and so are 36
    Case(
        "rounds",
        {"batch.global_tokens": 35 * 16 * 4096, "schedule.group": 35},
        {"batch.global_tokens": 36 * 16 * 4096, "schedule.group": 18},
        TITAN,
    ),
    # 15 over 16 stages
    Case(
        "fewer micro-batches than stages",
        {"batch.global_tokens": 15 * 16 * 4096},
        {**SINGLE, "schedule.extra_warmup": 0},
        TITAN,
    ),
    Case("overlap of nothing", {"parallel.ep": 1}, {"schedule.ep_overlap": True}),
    Case("overlap in fp32", {"precision.params": "fp32"}, {"schedule.ep_overlap": True}),
    Case("overlap and recompute", {"activations.recompute": ["moe"]}),
    Case("overlap and prediction", {"schedule.ep_overlap": True}, NOTHING, None, K2._replace(mtp=2)),
    Case("layout", {"parallel.layout": [61]}),
    Case("stages without a weight", {"parallel.vpp": 4}, NOTHING, TITAN),  # 63 in all over 64 stages
    Case("ranks without a layer", {"parallel.layout": [5, 0, *[4] * 14]}, SINGLE),
)


@cache
def base() -> Plan:
    kept = ("activations.offload=none", "activations.recompute=[layernorm,swiglu,mla_up_proj]")
    return load_plan("k2-pretrain", kept)


def changed(plan: Plan, changes: Changes) -> Plan:
    """The plan with fields changed by path, not validated: what a search asks about."""
    for path, value in changes.items():
        name, _, key = path.partition(".")
        inner = getattr(plan, name).model_copy(update={key: value}) if key else value
        plan = plan.model_copy(update={name: inner})
    return plan


@cache
def stack_of(name: str | None) -> Stack | None:
    """A bundled stack of a framework; no stack of DeepSpeed is bundled."""
    if name is None:
        return None
    if name == DEEPSPEED:
        return load_stack("torch-fsdp2").model_copy(update={"framework": DEEPSPEED, "layers": "auto"})
    return load_stack({MEGATRON: "megatron-core-0.14+te-2.11", TITAN: "torch-fsdp2"}[name])
