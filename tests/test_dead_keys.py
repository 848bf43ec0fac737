"""No dead keys: of every kind of file every key is changed, every command asked again, and something must differ.

The keys come from the types, so a new field is met without anybody thinking of it. An answer is a number, a word or a
refusal: whatever a command prints. Not asked: what prints the file itself (`show`, `diff`, `report`), what says only
that it is valid (`validate`), and `crosscheck`, which compares numbers that others print.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from archcalc.cli.app import COMMANDS
from archcalc.errors import InputError
from archcalc.files.loader import bundled_dir
from archcalc.files.model import Spec
from archcalc.files.yaml_loader import load
from archcalc.hardware import Hardware
from archcalc.section import Section
from archcalc.serving.engine import Engine
from archcalc.training.plan import Plan
from archcalc.training.stack import Stack
from tests.reference import tiny
from tests.support import Ran, dumped, run
from tests.towers import small

KINDS: dict[str, type[Section]] = {"spec": Spec, "plan": Plan, "hardware": Hardware, "engine": Engine, "stack": Stack}

# ------------------------------------------------------------------------------------------------ files that set keys

LATENT: dict[str, Any] = {
    "kind": "spec",
    "name": "latent",
    "title": "Latent",
    "sources": {"backbone": "a source"},
    "backbone": {
        "hidden_size": 64,
        "vocab_size": 128,
        "num_hidden_layers": 3,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-6,
        "dtype": "bfloat16",
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
        "layers": [
            {"count": 1, "attention": "mla", "ffn": "dense"},
            {"count": 1, "attention": "mla", "ffn": "moe"},
            {"count": 1, "attention": "shared", "ffn": "moe"},
        ],
        "mtp_layer": {"attention": "mla", "ffn": "dense"},
        "attention": {
            "mla": {
                "kind": "mla",
                "num_attention_heads": 4,
                "q_lora_rank": 16,
                "kv_lora_rank": 32,
                "qk_nope_head_dim": 8,
                "qk_rope_head_dim": 4,
                "v_head_dim": 8,
                "attention_bias": False,
                "indexer": {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 16},
            },
            "shared": {
                "kind": "mla",
                "num_attention_heads": 4,
                "q_lora_rank": 16,
                "kv_lora_rank": 32,
                "qk_nope_head_dim": 8,
                "qk_rope_head_dim": 4,
                "v_head_dim": 8,
                "attention_bias": False,
                "index_topk": 16,
            },
        },
        "ffn": {
            "dense": {"kind": "dense", "intermediate_size": 96, "hidden_act": "silu", "gated": True, "mlp_bias": False},
            "moe": {
                "kind": "moe",
                "n_routed_experts": 8,
                "num_experts_per_tok": 2,
                "n_shared_experts": 1,
                "moe_intermediate_size": 32,
                "hidden_act": "silu",
                "scoring_func": "sigmoid",
                "topk_method": "noaux_tc",
                "n_group": 2,
                "topk_group": 1,
                "norm_topk_prob": True,
                "routed_scaling_factor": 2.5,
                "shared_expert_intermediate_size": 64,
                "shared_expert_gate": True,
                "routed_expert_hidden_size": 32,
                "latent_moe_use_norm": True,
            },
        },
    },
    "vision": tiny.VISION,
    "projector": {
        "kind": "patch_merger",
        "mm_hidden_size": tiny.VISION["vt_hidden_size"],
        "text_hidden_size": 64,
        "projector_hidden_act": "gelu",
        "projector_ln_eps": 1e-5,
        "use_postshuffle_norm": False,
        "dtype": "bfloat16",
    },
    "storage": [
        {
            "match": "routed_expert",
            "store": {"scheme": "pack-quantized", "num_bits": 4, "group_size": 16, "scale_dtype": "bfloat16"},
        },
        {"match": "*.o_proj", "store": {"scheme": "fp8-block", "block_size": [32, 32], "scale_dtype": "float32"}},
        {"match": "default", "store": {"scheme": "plain", "dtype": "bfloat16"}},
    ],
    "claims": [
        {"claim": "a claim", "quantity": "params.total", "value": "1.2M", "source": "a paper"},
        {
            "claim": "another",
            "quantity": "serve.margin_bytes",
            "value": None,
            "source": "a log",
            "gpu": "h200",
            "gpus": 1,
            "context": 100,
        },
        {
            "claim": "a third",
            "quantity": "flops.forward",
            "value": None,
            "source": "a paper",
            "seq": 64,
            "image": ["60x60"],
        },
    ],
}
"""Latents with an indexer, a layer that shares its choice, experts on a latent, a prediction module, a tower,
storage by rules."""

GROUPED: dict[str, Any] = {
    "kind": "spec",
    "name": "grouped",
    "title": "Grouped",
    "sources": {},
    "backbone": {
        "hidden_size": 64,
        "vocab_size": 128,
        "num_hidden_layers": 5,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-6,
        "layer_norm_eps": 1e-5,
        "dtype": "bfloat16",
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "norm": "rms",
        "norm_placement": "pre",
        "position_embeddings": 256,
        "embedding_norm": "layer",
        "layers": [
            {"repeat": 2, "layers": [{"count": 2, "attention": "local", "ffn": "dense"}]},
            {
                "count": 1,
                "steps": [
                    {"attention": "global", "scope": "mixer", "norm_placement": "sandwich", "output_norm": "after"},
                    {"ffn": "dense", "arrangement": "parallel", "norm": "rms_zero_centered", "input_norm": "before"},
                ],
            },
        ],
        "mtp_layer": {"steps": [{"attention": "global", "norm_placement": "none"}, {"ffn": "dense", "norm": "layer"}]},
        "attention": {
            name: {
                "kind": "gqa",
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 8,
                "attention_bias": False,
                "attention_out_bias": False,
                "qk_norm": "per_head",
                **more,
            }
            for name, more in {
                "global": {"rotary_dim": 6, "output_gate": "per_head"},
                "local": {
                    "sliding_window": 16,
                    "rope_parameters": {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 8.0}},
                },
            }.items()
        },
        "ffn": {
            "dense": {"kind": "dense", "intermediate_size": 96, "hidden_act": "gelu", "gated": False, "mlp_bias": True}
        },
    },
    "storage": {
        "default": {"scheme": "plain", "dtype": "bfloat16"},
        "attention": {"scheme": "fp8-block", "block_size": [32, 32], "scale_dtype": "float32"},
        "dense_ffn": {"scheme": "pack-quantized", "num_bits": 8, "group_size": 16, "scale_dtype": "bfloat16"},
    },
}
"""Windows, layers as steps, norms of several kinds, learned positions, storage by role."""

LINEAR: dict[str, Any] = GROUPED | {
    "name": "linear",
    "title": "Linear",
    "backbone": {
        **{key: value for key, value in GROUPED["backbone"].items() if key not in ("mtp_layer", "layer_norm_eps")},
        "num_hidden_layers": 3,
        "num_nextn_predict_layers": 0,
        "embedding_norm": None,
        "layers": [
            {"count": 1, "steps": [{"attention": "delta", "scope": "linear_attn"}, {"ffn": "dense"}]},
            {"count": 1, "attention": "kda", "ffn": "dense"},
            {"count": 1, "attention": "global", "ffn": "dense"},
        ],
        "attention": {
            "delta": {
                "kind": "gated_deltanet",
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "linear_conv_kernel_dim": 4,
                "hidden_act": "silu",
                "in_proj": "fused",
            },
            "kda": {
                "kind": "kda",
                "num_heads": 4,
                "head_dim": 8,
                "short_conv_kernel_size": 4,
                "use_full_rank_gate": False,
                "a_log_size": 4,
            },
            "global": GROUPED["backbone"]["attention"]["global"],
        },
    },
}
"""States in place of keys and values."""

RESIDUALS: dict[str, Any] = GROUPED | {
    "name": "residuals",
    "backbone": {key: value for key, value in GROUPED["backbone"].items() if key != "mtp_layer"}
    | {
        "num_hidden_layers": 2,
        "num_nextn_predict_layers": 0,
        "attn_res_block_size": 1,
        "layers": [{"count": 1, "attention": name, "ffn": "dense"} for name in ("global", "local")],
    },
}
"""Layers that attend to what blocks of layers made."""


def seeing(name: str, tower: str, **vision: Any) -> dict[str, Any]:
    """The grouped model with a small vision tower and its projector."""
    made, projector = small(tower, **vision)
    sections = {"vision": made, "projector": projector | {"text_hidden_size": 64}}
    return GROUPED | sections | {"name": name, "title": name.capitalize()}


WINDOWED = seeing(
    "windowed",
    "qwen2.5-vl-3b",
    num_position_embeddings=25,
    interpolate_pos_encoding=True,
    deepstack_visual_indexes=[2, 0],
    patch_embed_bias=True,
)
"""A tower with windows, positions and features of earlier layers."""
SQUARE = seeing("square", "clip-l-336")
"""Pictures of one size, a class token, norms around the blocks."""

FLOAT = {"scheme": "float-quantized", "strategy": "channel", "scale_dtype": "bfloat16", "input_scale": True}
NVFP4 = {"scheme": "nvfp4", "group_size": 32, "input_scale": True}
AWQ = {"scheme": "awq", "num_bits": 4, "group_size": 32, "scale_dtype": "float16"}
GPTQ = AWQ | {"scheme": "gptq"}
MLX = AWQ | {"scheme": "mlx-affine"}
ZEROS = AWQ | {"scheme": "pack-quantized", "symmetric": False}
BNB = {"scheme": "bitsandbytes-4bit", "quant_type": "nf4", "block_size": 32, "dtype": "bfloat16", "double_quant": True}
PLAIN = {"scheme": "plain", "dtype": "bfloat16"}

PACKED: dict[str, Any] = LATENT | {
    "storage": {
        "attention": FLOAT,
        "dense_ffn": AWQ,
        "router": {"scheme": "mxfp8"},
        "routed_expert": GPTQ,
        "shared_expert": MLX,
        "embedding": NVFP4,
        "head": ZEROS,
        "mtp_embedding": {"scheme": "mxfp4"},
        "projector": BNB,
        "default": PLAIN,
    }
}
"""Schemes by role that the others have not."""

LISTED: dict[str, Any] = GROUPED | {
    "storage": [
        {"match": match, "store": store}
        for match, store in {
            "*.0.*.q_proj": FLOAT,
            "*.0.*.k_proj": {"scheme": "mxfp8"},
            "*.0.*.v_proj": {"scheme": "mxfp4"},
            "*.0.*.o_proj": NVFP4,
            "*.0.*.up_proj": AWQ,
            "*.0.*.down_proj": GPTQ,
            "*.1.*.q_proj": MLX,
            "*.1.*.k_proj": ZEROS,
            "*.1.*.v_proj": BNB,
            "default": PLAIN,
        }.items()
    ],
}
"""The same in rules."""

PIPELINED: dict[str, Any] = {
    "kind": "plan",
    "name": "pipelined",
    "title": "Pipelined",
    "sources": {"all": "a source"},
    "hardware": "h800",
    "parallel": {
        "world": 8,
        "pp": 2,
        "vpp": 1,
        "layout": "auto",
        "ep": 2,
        "etp": 1,
        "tp": 1,
        "sp": False,
        "cp": 1,
        "zero": 1,
    },
    "schedule": {"kind": "1f1b", "extra_warmup": 0},
    "batch": {"seq": 128, "micro_batch": 1, "global_tokens": 4096},
    "precision": {"params": "bf16", "grads": "fp32", "optimizer": "muon"},
    "train": {"backbone": "full"},
    "activations": {
        "kernels": "fused",
        "router_probs": "out",
        "recompute": ["layernorm", "moe_down_proj"],
        "fp8": ["swiglu_input"],
        "offload": "all",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "moe_imbalance": 1.0,
        "cross_entropy": "fused",
    },
    "vision": {"process": "decoupled"},
    "memory": {
        "fixed": "4KB",
        "allocator_efficiency": 0.94,
        "placeholder_grads": True,
        "compute_utilization": 0.4,
    },
    "assumed": ["memory.fixed"],
}
"""Two stages, experts over two devices."""

INTERLEAVED = PIPELINED | {
    "parallel": PIPELINED["parallel"] | {"vpp": 2, "ep": 1},
    "schedule": {"kind": "interleaved-1f1b", "extra_warmup": 1, "group": 2},
    "memory": PIPELINED["memory"] | {"optimizer_offload": 0.5},
}
KEPT = PIPELINED | {"activations": PIPELINED["activations"] | {"offload": "none", "recompute": ["layernorm"]}}
"""The same, which Megatron-LM can run: it offloads and makes again no more than it has names for."""

REFUSED = "train latent.yaml --plan kept.yaml --set parallel.zero=2 --set stack={}"
"""What Megatron-LM has not, and others may."""

ROUTED = PIPELINED | {"activations": PIPELINED["activations"] | {"moe_imbalance": {"typical": 1.1, "worst": 1.5}}}
DIVIDED = PIPELINED | {
    "hardware": "h100",
    "parallel": PIPELINED["parallel"]
    | {"pp": 1, "vpp": 1, "tp": 2, "sp": True, "cp": 2, "cp_comm": "a2a", "ep": 1, "etp": 1, "zero": 3},
    "schedule": {"kind": "1f1b"},
    "precision": {"params": "bf16", "grads": "bf16", "optimizer": "adamw"},
    "activations": PIPELINED["activations"] | {"kernels": "eager", "offload": "none", "recompute": [], "fp8": []},
}

UNFUSED = PIPELINED | {
    "parallel": PIPELINED["parallel"] | {"ep": 1},
    "precision": PIPELINED["precision"] | {"optimizer": "adamw"},
    "activations": PIPELINED["activations"]
    | {
        "core": "unfused",
        "rope": "unfused",
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "offload": "none",
        "recompute": [],
    },
}
"""What is written out is kept."""

PICTURED = PIPELINED | {
    "batch": PIPELINED["batch"]
    | {"images": {"size": [60, 60], "per_sequence": 2}, "videos": [{"size": [9, 64, 64], "per_sequence": 1}]}
}
FILMED = PIPELINED | {
    "batch": PIPELINED["batch"]
    | {"images": [{"size": [60, 60], "per_sequence": 2}], "videos": {"size": [9, 64, 64], "per_sequence": 1}},
    "vision": {"process": "first-stage"},
}
MIXED = PIPELINED | {
    "batch": PIPELINED["batch"] | {"images": {"tokens_per_sequence": 40}, "videos": [{"tokens_per_sequence": 8}]},
    "vision": {"process": "decoupled", "micro_batch": 2},
}
MIXED_TOO = PIPELINED | {
    "batch": PIPELINED["batch"] | {"images": [{"tokens_per_sequence": 40}], "videos": {"tokens_per_sequence": 8}},
}


SHARDED = PIPELINED | {
    "parallel": PIPELINED["parallel"] | {"pp": 1, "ep": 1, "zero": 3},
    "batch": PIPELINED["batch"] | {"seq": 16},  # so few tokens that weights are what counts
    "precision": {"params": "fp32", "grads": "fp32", "optimizer": "adamw-no-master"},
    "activations": PIPELINED["activations"]
    | {"kernels": "eager", "offload": "none", "recompute": [], "selective": ["every_other_mm", "attention"], "fp8": []},
    "fsdp": {
        "reshard_after_forward": True,
        "prefetch": 1,
        "param_dtype": "bf16",
        "reduce_dtype": "fp32",
        "replicate": 2,
    },
}


def bundled(kind: str, name: str) -> dict[str, Any]:
    path = bundled_dir() / kind / f"{name}.yaml"
    return load(path.read_bytes(), path.name).data


SPEC = (
    "params {}",
    "params {} --depth 9",
    "params {} --explain lm_head",
    "flops {} --phase train --seq 40",
    "flops {} --phase decode --context 50",
    "kv {}",
    "kv {} --context 100 --kv-dtype fp8 --tp 2",
    "weights {}",
    "weights {} --optimizer muon",
    "serve {} --gpu h200 --gpus 1",
    "plot memory {}",
    "train {} --plan pipelined.yaml --set parallel.pp=1 --set parallel.ep=1",
    "train {} --plan divided.yaml",
    "claims {}",
)
SEEN = (
    "flops {} --image 9x9 --video 9x9x9",
    "params {}",
    "params {} --depth 9",
    "weights {}",
    "serve {} --gpu h200 --gpus 1",
)
PICTURES = ("flops {} --image 60x60 --video 9x64x64", "flops {} --image 9000x90", "flops {} --video 9x400x400")
FILES: dict[str, dict[str, tuple[dict[str, Any], tuple[str, ...]]]] = {
    "spec": {
        "latent": (LATENT, (*PICTURES, *SPEC)),
        "grouped": (GROUPED, SPEC),
        "linear": (LINEAR, SPEC),
        "residuals": (RESIDUALS, SPEC[:5]),
        "windowed": (WINDOWED, (*PICTURES, *SEEN)),
        "square": (SQUARE, (*PICTURES, *SEEN)),
        "packed": (PACKED, ("weights {}",)),
        "listed": (LISTED, ("weights {}",)),
    },
    "plan": {
        "pipelined": (PIPELINED, ("train latent.yaml --plan {}", "plot train latent.yaml --plan {}")),
        "kept": (KEPT, ("train latent.yaml --plan {}",)),
        "routed": (ROUTED, ("train latent.yaml --plan {}",)),
        "interleaved": (INTERLEAVED, ("train grouped.yaml --plan {}",)),
        "divided": (DIVIDED, ("train grouped.yaml --plan {}",)),
        "sharded": (SHARDED, ("train grouped.yaml --plan {}",)),
        "unfused": (UNFUSED, ("train grouped.yaml --plan {}",)),
        **{
            name: (plan, ("train latent.yaml --plan {}",))
            for name, plan in (("pictured", PICTURED), ("filmed", FILMED), ("mixed", MIXED), ("mixed-too", MIXED_TOO))
        },
    },
    "hardware": {
        "h800": (
            bundled("hardware", "h800") | {"host": {"memory_bytes": "1TiB", "memory_bandwidth": 400_000_000_000}},
            (
                "serve k25 --gpu {} --gpus 16 --offload-experts host",
                "train latent.yaml --plan pipelined.yaml --set hardware={}",
                "train latent.yaml --plan kept.yaml --set hardware={} --set stack=megatron-2025",
            ),
        ),
        "l40s": (bundled("hardware", "l40s"), ("serve llama-3.1-70b --gpu {} --gpus 8",)),
        **{
            older: (
                bundled("hardware", "a100") | {"name": older, "architecture": older},
                ("train latent.yaml --plan kept.yaml --set hardware={} --set stack=megatron-2025",),
            )
            for older in ("volta", "turing")
        },
    },
    "stack": {
        "megatron": (
            bundled("stacks", "megatron-2025"),
            (
                "train latent.yaml --plan kept.yaml --set stack={}",
                REFUSED,
                *(
                    f"train latent.yaml --plan kept.yaml --set stack={{}} --set hardware={device}"
                    for device in ("a100", "b200", "l40s", "mi300x", "mi355x", "volta.yaml", "turing.yaml")
                ),
            ),
        ),
    },
    "engine": {
        "vllm": (
            bundled("engines", "vllm"),
            (
                "serve llama-3.1-70b --gpu b200 --gpus 1 --engine {}",
                "serve llama-3.1-70b --gpu l40s --gpus 8 --engine {}",  # PCIe, small devices
                "serve k25 --gpu mi300x --tp 8 --dp 5 --ep all --engine {}",  # experts that don't divide, dp
                "serve llama-3.1-70b --gpu mi300x --gpus 4 --engine {}",  # links like NVLink, another vendor
                "serve k25 --as bf16 --gpu b300 --tp 8 --context 1k --engine {}",  # experts in bf16
                "serve gemma-3-27b --gpu h100 --gpus 1 --sampler torch --engine {}",  # windows
                "serve gemma-3-27b --gpu h100 --gpus 1 --max-num-seqs 64 --sampler torch --engine {}",
                "serve k25 --gpu h200 --gpus 8 --batch 1025 --engine {}",  # what it does not fit in is looked for
                "serve k25 --gpu a100 --gpus 16 --batch 257 --engine {}",
            ),
        ),
        "vllm-0.8": (
            bundled("engines", "vllm-0.8"),
            (
                "serve k25 --as fp8 --gpu b300 --tp 8 --batched-tokens 64k --engine {}",
                "serve deepseek-v3 --gpu h200 --gpus 8 --batched-tokens 64k --engine {}",
            ),
        ),
        "vllm-v0": (
            bundled("engines", "vllm-v0"),
            tuple(f"serve llama-3.1-70b --gpu h200 --gpus 4 --context {n}k --engine {{}}" for n in (16, 48)),
        ),
        "sglang": (
            bundled("engines", "sglang"),
            (
                "serve llama-3.1-70b --gpu h200 --gpus 4 --engine {}",
                "serve llama-3.1-70b --gpu l40s --gpus 8 --engine {}",
                "serve k25 --gpu l4 --gpus 64 --as bf16 --batched-tokens 1 --max-num-seqs 1 --engine {}",
                "serve k25 --gpu h100 --gpus 8 --batched-tokens 1 --engine {}",
            ),
        ),
    },
}
"""Files by kind and name, each with what is asked of it."""
FILES_BY_NAME = {name: file for files in FILES.values() for name, file in files.items()}

# ---------------------------------------------------------------------------------------------------- keys from types

EACH = object()


class Key(NamedTuple):
    """A key of a kind of file: the steps down to it (a key, EACH of a list or mapping, the type that stands there)."""

    kind: str
    steps: tuple[Any, ...]
    annotation: Any
    field: FieldInfo

    @property
    def path(self) -> str:
        """`spec backbone.attention.*(mla).head_dim`."""
        text = ""
        for step in self.steps:
            text += ".*" if step is EACH else f".{step}" if isinstance(step, str) else _tag(step)
        return f"{self.kind} {text.removeprefix('.')}"


def constants(section: type[Section]) -> dict[str, Any]:
    """Keys of a section that can have one value only, any other being refused: they tell it from other sections."""
    annotations = {key: field.annotation for key, field in section.model_fields.items()}
    return {key: get_args(a)[0] for key, a in annotations.items() if get_origin(a) is Literal and len(get_args(a)) == 1}


def _tag(section: type[Section]) -> str:
    words = constants(section)
    return "".join(f"({words[key]})" for key in ("kind", "scheme") if key in words)


def forms(annotation: Any) -> list[Any]:
    """The members of a union, or the type itself; without null."""
    if get_origin(annotation) is Annotated:
        return forms(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [form for member in get_args(annotation) for form in forms(member)]
    return [] if annotation is type(None) else [annotation]


def inside(annotation: Any) -> Iterator[tuple[tuple[Any, ...], type[Section]]]:
    """The sections below a key, each with the steps down to it."""
    for form in forms(annotation):
        if isinstance(form, type) and issubclass(form, Section):
            yield (form,), form
        elif get_origin(form) in (list, dict):
            yield from (((EACH, *steps), section) for steps, section in inside(get_args(form)[-1]))


def keys(kind: str, section: type[Section], above: tuple[Any, ...] = ()) -> Iterator[Key]:
    """Every key of a section and of those below it that can have more than one value."""
    for name, field in section.model_fields.items():
        below = list(inside(field.annotation))
        for steps, inner in below:
            if inner not in above:  # a pattern of patterns is met once
                yield from keys(kind, inner, (*above, name, *steps))
        (form, *_) = forms(field.annotation)
        if below or name in constants(section):
            continue
        if get_origin(form) is dict and get_origin(get_args(form)[0]) is Literal:
            entry = get_args(form)[1]
            yield from (Key(kind, (*above, name, word), entry, field) for word in get_args(get_args(form)[0]))
        else:
            yield Key(kind, (*above, name), field.annotation, field)


KEYS = [key for kind, model in KINDS.items() for key in keys(kind, model)]


def places(data: Any, steps: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Where the steps lead in the data of a file; the last one is a key that may be unset."""
    first, rest = steps[0], steps[1:]
    if first is EACH:
        for part in data if isinstance(data, dict) else range(len(data)):
            yield from ((part, *place) for place in places(data[part], rest))
    elif isinstance(first, type) and issubclass(first, Section):
        words = constants(first)
        if (
            isinstance(data, dict)
            and set(data) <= set(first.model_fields)
            and all(data.get(key) == word for key, word in words.items())
        ):
            yield from places(data, rest)
    elif not rest:
        yield (first,)
    elif data.get(first) is not None:
        yield from ((first, *place) for place in places(data[first], rest))


def others(annotation: Any, value: Any) -> Iterator[Any]:
    """Other values of a type, null apart."""
    for form in forms(annotation):
        if get_origin(form) is Literal:
            yield from (word for word in get_args(form) if word != value)
        elif form is bool:
            yield from (flag for flag in (True, False) if flag is not value)
        elif form in (int, float):
            n = form(value) if isinstance(value, int | float) else form(2)
            yield from (form(n * 2), form(n + 1), form(n / 2)) if n == value else (n,)
        elif form is str:
            yield f"{value}_too" if isinstance(value, str) else "other"
        elif get_origin(form) is list and isinstance(value, list) and value:
            yield value[:-1]
            yield from ([other, *value[1:]] for other in others(get_args(form)[0], value[0]))
        elif get_origin(form) is list:
            yield [next(others(get_args(form)[0], None))]
        elif get_origin(form) is dict:
            yield {key: next(others(get_args(form)[1], each)) for key, each in (value or {"a": None}).items()}


# ----------------------------------------------------------------------------------------------------------- the test

TWIN = "the torch twin, which computes with it"
TIME = "roofline and training time, to come"
LISTS = "the lists of files of this kind, to come (`specs --kind`)"
PEOPLE = "who checks a figure of the file"
EXEMPT = {
    "spec *_eps": TWIN,
    "spec *rope_theta": TWIN,
    "spec *rope_scaling.*": TWIN,
    "spec projector*hidden_act": TWIN,
    "spec *(gated_deltanet).hidden_act": TWIN,
    "spec vision(vit).hidden_act": TWIN,
    "spec *.init_pos_emb_time": TWIN,
    "spec *.scoring_func": TWIN,
    "spec *.topk_group": TWIN,
    "spec *.routed_scaling_factor": TWIN,
    "hardware memory_bandwidth": TIME,
    "hardware peak_flops.float*": TIME,
    "hardware peak_flops.int8": TIME,
    "hardware peak_flops.tfloat32": TIME,
    "hardware links.network*": TIME,
    "hardware memory_bytes": LISTS,
    "plan title": LISTS,
    "engine title": LISTS,
    "[!s]* sources": PEOPLE,
}
"""Keys on which no answer depends, by pattern of paths, each with its reader, there or to come."""


def reader(key: Key) -> str | None:
    """Who reads an exempt key; None of a key that is not exempt."""
    return next((who for pattern, who in EXEMPT.items() if fnmatchcase(key.path, pattern)), None)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files, in a folder of their own."""
    here = tmp_path_factory.mktemp("keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for files in FILES.values():
            for name, (data, _) in files.items():
                (here / f"{name}.yaml").write_text(dumped(data))
        yield here


@lru_cache
def unchanged(command: str, file: str) -> Ran:
    return answer(command, file)


ECHOES = ("spec_sha256", "files")
"""What a document repeats of the files that it was computed from, whether anything reads it or not."""


def answer(command: str, file: str) -> Ran:
    ran = run(*command.format(f"{file}.yaml").split(), "--format", "json")
    assert ran.code != 3, ran.err
    if ran.code:
        return ran
    said = {name: part for name, part in json.loads(ran.out).items() if name not in ECHOES}
    return ran._replace(out=json.dumps(said))


def changes(key: Key) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    """Files with a place of a key and another value of its type: those that set it, or else those that leave it out."""
    files = FILES[key.kind]
    values = {(name, place): _at(data, place) for name, (data, _) in files.items() for place in places(data, key.steps)}
    given = {where: value for where, value in values.items() if value is not None} or values
    assert given, f"no file of this test has the section of {key.path}: add it to one"
    exact: Any = Annotated[key.annotation, "its bounds", *key.field.metadata]
    fits = TypeAdapter[Any](exact, config=Section.model_config)
    for where, here in given.items():
        elsewhere = [value for value in given.values() if value != here]
        for value in (*elsewhere, *others(key.annotation, here)):
            try:
                fits.validate_python(value)
            except ValidationError:
                continue
            yield *where, value


def _at(data: Any, place: tuple[Any, ...]) -> Any:
    """The value at a place; None where a key is unset."""
    for part in place:
        data = data[part] if isinstance(data, list) else data.get(part)
    return data


def _edited(data: dict[str, Any], edits: dict[tuple[Any, ...], Any]) -> dict[str, Any]:
    """Data with other values at some places."""
    changed = deepcopy(data)
    for place, value in edits.items():
        _at(changed, place[:-1])[place[-1]] = value
    return changed


def differs(file: str, edits: dict[tuple[Any, ...], Any], folder: Path, asked: Callable[[str], bool] = bool) -> bool:
    """Whether any answer is another with other values at some places of a file, of the commands that are `asked`."""
    data, lines = FILES_BY_NAME[file]
    commands = list(filter(asked, lines))
    before = {command: unchanged(command, file) for command in commands}
    path = folder / f"{file}.yaml"
    path.write_text(dumped(_edited(data, edits)))
    try:
        return any(answer(command, file) != before[command] for command in commands)
    finally:
        path.write_text(dumped(data))


def is_valid(kind: str, data: dict[str, Any]) -> bool:
    """Whether a file with this in it is refused by no command: a key may be there for its contradictions alone."""
    try:
        KINDS[kind].model_validate(data)
    except ValidationError:
        return False
    return True


def is_next(key: Key, turn: int, command: str) -> bool:
    """Whether a command is asked about a key in this turn: its namesake first, and last the few that take longest."""
    word = command.split()[0]
    return turn == (0 if word == key.steps[0] else 1 + (word in ("serve", "claims", "plot")))


@pytest.mark.parametrize("key", [key for key in KEYS if not reader(key)], ids=lambda key: key.path)
def test_an_answer_depends_on_every_key(key: Key, folder: Path) -> None:
    assert any(
        differs(file, {place: value}, folder, partial(is_next, key, turn))
        for turn in range(3)
        for file, place, value in changes(key)
    ), f"{key.path} changes no answer: whoever should read it reads it, or it is retired"


def test_no_answer_depends_on_an_exempt_key(folder: Path) -> None:
    together: dict[str, dict[tuple[Any, ...], Any]] = {}
    for key in filter(reader, KEYS):
        for file, place, value in changes(key):
            edits = together.setdefault(file, {})
            if place not in edits and is_valid(key.kind, _edited(FILES_BY_NAME[file][0], edits | {place: value})):
                edits[place] = value
    assert any(together.values())
    matter = [
        (file, place)
        for file, edits in together.items()
        if differs(file, edits, folder)
        for place, value in edits.items()
        if differs(file, {place: value}, folder)
    ]
    assert matter == [], "exempt no longer"


@pytest.mark.twin
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra torch")
def test_the_twin_reads_what_it_is_said_to_read() -> None:
    specs = [data for data, _ in FILES["spec"].values()]
    unread = [
        key.path
        for key in KEYS
        if reader(key) == TWIN
        and not any(_twin_refuses(data, place) for data in specs for place in places(data, key.steps))
    ]
    assert unread == []


def _twin_refuses(data: dict[str, Any], place: tuple[Any, ...]) -> bool:
    """Whether the twin refuses a key that holds a mapping, which no such key may."""
    from archcalc.reference.model import build

    try:
        build(_edited(data, {place: {}}))
    except InputError as error:
        return place[-1] in str(error)
    return False


def test_every_exemption_is_of_a_key() -> None:
    assert [pattern for pattern in EXEMPT if not any(fnmatchcase(key.path, pattern) for key in KEYS)] == []


def test_every_file_answers_unchanged() -> None:
    for files in FILES.values():
        for name, (_, commands) in files.items():
            for command in commands:
                code = 2 if command == REFUSED else 0
                assert unchanged(command, name).code == code, unchanged(command, name).err


def test_every_command_that_reads_a_file_is_asked() -> None:
    asked = {line.split()[0] for files in FILES.values() for _, lines in files.values() for line in lines}
    composed = {"card", "check", "diff", "report"}  # of the answers of others
    assert asked == set(COMMANDS) - {*composed, "validate", "show", "crosscheck", "schema", "specs", "import"}
