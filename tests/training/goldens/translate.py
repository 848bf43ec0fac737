"""A golden's spec and plan, or the capability that archcalc lacks for it."""

from __future__ import annotations

import re
from typing import Any

from archcalc.files.model import Spec
from archcalc.training.plan import Plan
from tests.training.goldens.rows import Golden
from tests.training.goldens.workspaces import deterministic, fixed, stack

MISSING = {
    "bert": "an encoder whose attention looks both ways, with token types and a pooler",
    "t5": "an encoder and a decoder that attends to it",
    "multimodal": "LLaVA and MIMO models: a CLIP tower before a GPT decoder",
    "mamba": "Mamba-2 layers",
    "fp4": "FP4 compute and weights",
    "comm_overlap": "buffers and workspaces of --tp-comm-overlap",
    "cuda_graphs": "memory pools of captured CUDA graphs",
    "deferred_wgrad": "weight gradients of the head that wait (--defer-embedding-wgrad-compute)",
    "repeated": "the golden file repeats another test's, byte for byte: its own option did not reach the run",
    "attention": "attention of another kind",
    "vocabulary": "the vocabulary: a tokenizer's file that the test does not name the size of",
    "refused": "a plan or a spec that archcalc refuses",
    "fsdp": "Megatron-LM's own FSDP",
    "world": "the number of GPUs: no recipe names the test, and the distributed optimizer's share depends on it",
    "checkpoint_only": "a run of one step that loads and checks a checkpoint",
}
"""Why rows are not predicted: a closed list."""

GPT2_WORDS = 50257
"""Entries of GPT-2's tokenizer (GPT2BPETokenizer)."""


def missing(row: Golden) -> tuple[str, ...]:
    """What archcalc lacks for a row, or the row lacks; empty where it is predicted."""
    run, name = row.run, row.test
    found = {
        "bert": row.family == "bert",
        "t5": row.family == "t5",
        "multimodal": row.family == "multimodal",
        "mamba": row.family.startswith("mamba"),
        "fp4": "e2m1" in str(run.get("fp8")),
        "comm_overlap": bool(run.get("tp_comm_overlap")),
        "cuda_graphs": bool(run.get("cuda_graph")),
        "deferred_wgrad": "defer_embedding_wgrad" in name,
        "repeated": "multi_dist_optimizer_instances" in name and row.container == "lts" and row.date < "2026",
        "attention": run["attention"] not in ("mha", "gqa", "mla"),
        "vocabulary": vocabulary(row) == 0,
        "fsdp": bool(run["fsdp"]),
        "world": row.world is None and bool(run["dist_optimizer"]),
        "checkpoint_only": bool(run["finetune"]),
    }
    return tuple(reason for reason, holds in found.items() if holds)


def vocabulary(row: Golden) -> int:
    """Padded to a multiple of --make-vocab-size-divisible-by x TP (Megatron-LM training/tokenizer); 0: not known."""
    multiple = row["vocab_divisible"] * row["tp"]
    words = row.run.get("vocab") or (GPT2_WORDS if row["tokenizer"] == "GPT2BPETokenizer" else 0)
    return -(-words // multiple) * multiple


def spec(row: Golden) -> Spec:
    """The model of a row."""
    run = row.run
    layered, rotary = "LayerNorm" in run["norm"], run["positions"] in ("rope", "yarn")
    moe = _moe_layers(row)
    kinds = [{"attention": "core", "ffn": "moe" if routed else "dense"} for routed in moe]
    backbone: dict[str, Any] = {
        "hidden_size": run["hidden"],
        "vocab_size": vocabulary(row),
        "num_hidden_layers": run["layers"],
        "max_position_embeddings": run["seq"],
        "tie_word_embeddings": run["tied"],
        "num_nextn_predict_layers": run["mtp"],
        "dtype": "bfloat16",
        "rope_theta": 10000.0 if rotary else None,
        "rope_scaling": None,
        "layers": [{"count": 1, **kind} for kind in kinds],
        "attention": {"core": _attention(row)},
        "ffn": {name: part for name, part in _ffn(row).items() if any(name == kind["ffn"] for kind in kinds)},
    }
    if layered:
        backbone |= {"norm": "layer", "layer_norm_eps": 1e-5}
    else:
        backbone |= {"rms_norm_eps": 1e-5}
    if run["positions"] == "learned_absolute":
        backbone["position_embeddings"] = run["seq"]
    return Spec.model_validate(
        {
            "kind": "spec",
            "name": "golden",
            "title": row.test,
            "sources": {"backbone": "NVIDIA/Megatron-LM, model_config.yaml of the test"},
            "backbone": backbone,
            "storage": {"default": {"scheme": "plain", "dtype": "bfloat16"}},
            "claims": [],
        }
    )


def _moe_layers(row: Golden) -> list[bool]:
    """Which layers are mixtures of experts: `([0]*3+[1]*12)`, or all where there are experts."""
    if not row.run.get("experts"):
        return [False] * row["layers"]
    pattern = row.run.get("moe_freq")
    if not isinstance(pattern, str):
        return [True] * row["layers"]
    pieces = re.findall(r"\[(\d)\]\*(\d+)", pattern)
    return [kind == "1" for kind, count in pieces for _ in range(int(count))]


def _attention(row: Golden) -> dict[str, Any]:
    run = row.run
    heads, width = run["heads"], run.get("kv_channels") or run["hidden"] // run["heads"]
    if run["attention"] == "mla":
        return {
            "kind": "mla",
            "num_attention_heads": heads,
            "q_lora_rank": run.get("q_lora", 1536),
            "kv_lora_rank": run.get("kv_lora", 512),
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "attention_bias": False,
        }
    return {
        "kind": "gqa",
        "num_attention_heads": heads,
        "num_key_value_heads": run["kv_groups"],
        "head_dim": width,
        "attention_bias": run["bias"],
        "attention_out_bias": run["bias"],
        "qk_norm": "per_head" if run["qk_layernorm"] else None,
    }


ACTS = {"gelu": ("gelu", False), "swiglu": ("silu", True), "squared_relu": ("relu2", False)}


def _ffn(row: Golden) -> dict[str, Any]:
    run = row.run
    act, gated = ACTS[run["activation"]]
    inner = run.get("moe_ffn") or run["ffn"]
    dense = {
        "kind": "dense",
        "intermediate_size": run["ffn"],
        "hidden_act": act,
        "gated": gated,
        "mlp_bias": run["bias"],
    }
    moe = {
        "kind": "moe",
        "n_routed_experts": run.get("experts"),
        "num_experts_per_tok": run.get("topk"),
        "n_shared_experts": 1 if run.get("shared_ffn") else 0,
        "moe_intermediate_size": inner,
        "hidden_act": act,
        "gated": gated,
        "scoring_func": "sigmoid" if run["attention"] == "mla" else "softmax",
        "topk_method": "noaux_tc" if run["attention"] == "mla" else "greedy",
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
    }
    if run.get("shared_ffn"):
        moe["shared_expert_intermediate_size"] = run["shared_ffn"]
    return {"dense": dense, "moe": moe}


def core(row: Golden) -> str:
    """The attention core that ran.

    `auto` leaves it to TransformerEngine (attention/dot_product_attention/utils.py, get_attention_backend): cuDNN's
    fused kernel from sm90 on, flash-attn below; where kernels have to be deterministic cuDNN's only on sm90 (below by
    that function, on Blackwell as its goldens say), and flash-attn only from 2.4.1 on, which the long-term image of
    2025 did not have: its goldens are those of the runs with `--attention-backend unfused`.
    """
    backend = str(row["attention_backend"])
    if backend == "flash":
        return "flash-attn"
    if backend != "auto":
        return "unfused"
    if row.container == "lts" and row.date < "2026" and deterministic(row):
        return "unfused"
    cudnn = row.device == "h100" or (row.device != "a100" and not deterministic(row))
    return "flash" if cudnn else "flash-attn"


def layout(row: Golden) -> str | list[int]:
    """Layers of each virtual stage where the run says so."""
    run = row.run
    slots, text = run["pp"] * run["vpp"], run.get("layout")
    if isinstance(text, str) and text:
        return [stage.count("t") for stage in _expanded(text.replace("\\", "")).split("|")]
    if run.get("split_with_ends"):  # --account-for-embedding-in-pipeline-split and -loss-
        each = (run["layers"] + 2) // slots
        return [each - 1, *[each] * (slots - 2), each - 1]
    if run.get("last_layers"):  # --decoder-first- and --decoder-last-pipeline-num-layers
        first, last = run["first_layers"], run["last_layers"]
        return [first, *[(run["layers"] - first - last) // (slots - 2)] * (slots - 2), last]
    return "auto"


def _expanded(text: str) -> str:
    """A pipeline layout written out: `(tt|)*6` and `t*3` are repetitions."""
    before = None
    while before != text:
        before = text
        text = re.sub(r"\(([^()]*)\)\*(\d+)", lambda m: m[1] * int(m[2]), text)
    return re.sub(r"(\w)\*(\d+)", lambda m: m[1] * int(m[2]), text)


def instances(row: Golden) -> int:
    """Instances of the distributed optimizer (--num-distributed-optimizer-instances, 2 in tests of that name): each
    shares its states among its own GPUs, so that a GPU has what it has in a run of one instance."""
    return 2 if "multi_dist_optimizer_instances" in row.test else 1


def plan(row: Golden) -> Plan:
    """The plan of a row."""
    run = row.run
    least = run["pp"] * run["tp"] * run["cp"]
    experts = run["pp"] * run["ep"] * (run.get("etp") or run["tp"]) if run.get("experts") else 1
    half = run["precision"] == "fp16"
    copies = instances(row)
    activations: dict[str, Any] = {
        "kernels": "fused",
        "core": core(row),
        "rope": "fused" if run["rope_fusion"] or run["positions"] != "rope" else "unfused",
        "router_probs": "act",
        "deterministic": deterministic(row),
        "recompute": _recompute(row),
        "fp8": [],
        "offload": str(run["offload"]).split() if run.get("offload") else "none",
        "moe_imbalance": 1.0,
        "hidden_dropout": run["hidden_dropout"],
        "attention_dropout": run["attention_dropout"],
        "attention_mask": "loader" if run.get("attention_mask_in_dataloader", True) else "none",
        "cross_entropy": "te" if run["cross_entropy"] == "fused:te" else "fused",
    }
    memory: dict[str, Any] = {
        "fixed": f"{fixed(row)}B",
        "allocator_efficiency": 1.0,
        "gradient_accumulation_fusion": bool(run["grad_accum_fusion"]),
    }
    return Plan.model_validate(
        {
            "kind": "plan",
            "name": "golden",
            "hardware": row.device,
            "stack": stack(row),
            "parallel": {
                "world": (row.world or max(least, experts) * 2) // copies,
                "pp": run["pp"],
                "vpp": run["vpp"],
                "layout": layout(row),
                "ep": run["ep"] if run.get("experts") else 1,
                "etp": (run.get("etp") or run["tp"]) if run.get("experts") else 1,
                "tp": run["tp"],
                "sp": bool(run["sp"]) and run["tp"] > 1,
                "cp": run["cp"],
                "zero": 1 if run["dist_optimizer"] else 0,
            },
            "schedule": {
                "kind": "interleaved-1f1b" if run["vpp"] > 1 else "1f1b",
                "group": run.get("group"),
                "ep_overlap": bool(run["ep_overlap"]),
            },
            "batch": {"seq": run["seq"], "micro_batch": run["mbs"], "global_tokens": run["gbs"] // copies * run["seq"]},
            "precision": {
                "params": run["precision"],
                "grads": "fp16" if half else "fp32",
                "optimizer": "muon" if "muon" in str(run["optimizer"]) else "adamw",
                **_fp8(row),
            },
            "activations": activations,
            "vision": {"process": "decoupled"},
            "memory": memory,
        }
    )


def _fp8(row: Golden) -> dict[str, Any]:
    """`format:recipe`, and `:param-gather` where weights are in FP8 too."""
    _, *words = str(row.run.get("fp8") or "").split(":")
    return {"fp8": words[0], "fp8_params": "param-gather" in words} if words else {}


SELECTIVE = {"layernorm": "layernorm", "mla_up_proj": "mla_up_proj", "mlp": "mlp", "moe_act": "swiglu", "moe": "moe"}


def _recompute(row: Golden) -> list[str]:
    text = row.run.get("recompute") or ""
    kind, _, what = str(text).partition(":")
    if kind == "full":
        return ["full"]
    if kind != "selective":
        return []
    return [SELECTIVE[name] for name in what.split()] or ["core_attn"]
