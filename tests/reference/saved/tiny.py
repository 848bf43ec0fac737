"""Tiny sizes that run with values on CPU, and what comes back from a layer's backward pass."""

import torch

from archcalc.reference.fields import Section
from archcalc.reference.patterns import plain_kind
from archcalc.reference.saved import DecoderLayer, Options

ROWS, BATCH, HIDDEN = 6, 2, 64
BACKBONE = {
    "hidden_size": HIDDEN,
    "vocab_size": 96,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention": {
        "mla": {
            "kind": "mla",
            "num_attention_heads": 2,
            "q_lora_rank": 32,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 24,
        },
        "gqa": {
            "kind": "gqa",
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "attention_bias": True,
            "qk_norm": "per_head",
        },
    },
    "ffn": {
        "dense": {"kind": "dense", "intermediate_size": 48, "hidden_act": "silu", "gated": True},
        "moe": {
            "kind": "moe",
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 16,
            "hidden_act": "silu",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    },
}


def layer(attention, ffn, options):
    """A layer of attention and ffn on CPU whose weights depend on nothing but their names."""
    return layer_of(BACKBONE, plain_kind(Section(BACKBONE, "backbone"), attention, ffn), options)


def layer_of(backbone, kind, options):
    """A layer of any kind on CPU whose weights depend on nothing but their names."""
    built = DecoderLayer(backbone, kind, rows=ROWS, options=options, device=torch.device("cpu"))
    torch.manual_seed(7)
    with torch.no_grad():
        for name, weight in sorted(built.named_parameters()):
            noise = torch.randn(weight.shape)
            weight.copy_(1 + 0.1 * noise if "norm" in name else noise / weight.shape[-1] ** 0.5)
    return built


def gradients(module):
    """The gradient of a fixed random sum of the outputs, by name; the input's is `x`."""
    torch.manual_seed(8)
    x = torch.randn(BATCH, ROWS, HIDDEN).bfloat16().requires_grad_()
    (module(x).float() * torch.randn(BATCH, ROWS, HIDDEN)).sum().backward()
    return {"x": x.grad, **{name: weight.grad for name, weight in module.named_parameters()}}


def layer_gradients(attention, ffn, **options):
    """`gradients` of `layer`."""
    return gradients(layer(attention, ffn, Options(**options)))


def farthest(ours, theirs):
    """The largest relative distance between two gradients of one name, and that name."""
    assert ours.keys() == theirs.keys()
    return max(
        (((ours[name].float() - theirs[name].float()).norm() / theirs[name].float().norm()).item(), name)
        for name in ours
    )
