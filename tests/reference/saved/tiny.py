"""Bytes of one layer; tiny sizes that run with values on CPU, and what comes back from a layer's backward pass."""

import torch
from torch import nn

from archcalc.reference.fields import Section
from archcalc.reference.kernels.options import Options
from archcalc.reference.model import TextModel, factory
from archcalc.reference.patterns import layer_kinds
from archcalc.reference.saved import measure

ROWS, BATCH, HIDDEN = 6, 2, 64
BACKBONE = {
    "hidden_size": HIDDEN,
    "vocab_size": 96,
    "dtype": "bfloat16",
    "rms_norm_eps": 1e-6,
    "layer_norm_eps": 1e-5,
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
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    },
}


def one_layer(backbone, attention, ffn):
    """The backbone with a single layer of this pair."""
    return {**backbone, "num_hidden_layers": 1, "layers": [{"count": 1, "attention": attention, "ffn": ffn}]}


def layer_bytes(backbone, *, attention, ffn, tokens, batch=1, **how):
    """Bytes that one layer keeps of `tokens` tokens, `batch` equal sequences together."""
    spec = {"backbone": one_layer(backbone, attention, ffn)}
    assert tokens % batch == 0
    return measure(spec, seq=tokens // batch, batch=batch, **how)["model.layers.0"]


class Alone(nn.Module):
    """The first layer of a model."""

    def __init__(self, backbone):
        super().__init__()
        self.layer, self._now = backbone.layers[0], backbone.now

    def forward(self, x):
        return self.layer(x, self._now(x))


def layer(attention, ffn, options):
    """A layer of attention and ffn on CPU whose weights depend on nothing but their names."""
    return layer_of(one_layer(BACKBONE, attention, ffn), options)


def layer_of(backbone, options):
    """The first layer of a backbone on CPU whose weights depend on nothing but their names."""
    section = Section(backbone, "backbone")
    model = TextModel(section, factory(section, "cpu", options=options), layer_kinds(section)[:1])
    built = Alone(model.model)
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
