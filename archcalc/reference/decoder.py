"""The decoder: embedding, pre-norm layers by the spec's patterns, final norm, prediction modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.reference.attention import GQA, causal_mask
from archcalc.reference.cache import Cache
from archcalc.reference.factory import Factory
from archcalc.reference.ffn import MLP, MoE, dense
from archcalc.reference.fields import Section
from archcalc.reference.mla import MLA
from archcalc.reference.norms import RMSNorm
from archcalc.reference.rope import Angles, Rope

Pattern = tuple[str, str]
"""Names of a layer's attention and ffn sections."""


class DecoderLayer(nn.Module):
    """x + attention(norm x), then x + ffn(norm x)."""

    def __init__(self, parts: tuple[MLA | GQA, MLP | MoE], rope: str, hidden: int, eps: float, at: Factory) -> None:
        super().__init__()
        self.rope = rope
        self.input_layernorm = RMSNorm(hidden, eps, **at)
        self.self_attn, self.mlp = parts
        self.post_attention_layernorm = RMSNorm(hidden, eps, **at)

    def forward(
        self, x: Tensor, angles: Angles, mask: Tensor, cache: Cache | None, layer: int, absorbed: bool
    ) -> Tensor:
        """[B,N,W] -> [B,N,W]."""
        x = x + self.self_attn(self.input_layernorm(x), angles, mask, cache, layer, absorbed)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class SharedHead(nn.Module):
    """What a prediction module has before the main model's head: its own norm."""

    def __init__(self, hidden: int, eps: float, at: Factory) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden, eps, **at)


class PredictionLayer(DecoderLayer):
    """A multi-token prediction module (DeepSeek-V3, arXiv:2412.19437, section 2.2); embedding and head are
    the main model's."""

    def __init__(self, parts: tuple[MLA | GQA, MLP | MoE], rope: str, hidden: int, eps: float, at: Factory) -> None:
        super().__init__(parts, rope, hidden, eps, at)
        self.enorm = RMSNorm(hidden, eps, **at)
        self.hnorm = RMSNorm(hidden, eps, **at)
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False, **at)
        self.shared_head = SharedHead(hidden, eps, at)


class Backbone(nn.Module):
    """Embedding to final norm. Prediction modules stand after the layers, as layer L, L+1, ...

    Args:
        section: the spec's `backbone` section.
    """

    def __init__(self, section: Section, at: Factory) -> None:
        super().__init__()
        hidden, eps = section.integer("hidden_size"), section.number("rms_norm_eps")
        self.embed_tokens = nn.Embedding(section.integer("vocab_size"), hidden, **at)
        patterns = layer_patterns(section)
        self.depth = len(patterns)
        self.ropes = nn.ModuleDict()
        self.layers = nn.ModuleList()
        extra = [patterns[-1]] * section.integer("num_nextn_predict_layers", 0)
        for index, (attention, ffn) in enumerate(patterns + extra):
            parts = self._attention(section, attention, at), make_ffn(section, ffn, at)
            kind = DecoderLayer if index < self.depth else PredictionLayer
            self.layers.append(kind(parts, attention, hidden, eps, at))
        self.norm = RMSNorm(hidden, eps, **at)

    def forward(self, x: Tensor, cache: Cache | None, absorbed: bool) -> Tensor:
        """Embedded rows [B,N,W] after the cached ones -> final hidden states [B,N,W], normalised."""
        cached = cache.length if cache is not None else 0
        angles, mask = self._angles(cached, x), causal_mask(x.shape[1], cached, x)
        for index, layer in enumerate(self.layers[: self.depth]):
            x = layer(x, angles[layer.rope], mask, cache, index, absorbed)
        if cache is not None:
            cache.advance(x.shape[1])
        out: Tensor = self.norm(x)
        return out

    def predict(self, module: int, hidden: Tensor, ids: Tensor) -> Tensor:
        """One prediction module on the main model's hidden states [B,N,W] and the ids one step later ->
        [B,N,W]."""
        layer = self.layers[self.depth + module]
        joined = torch.cat((layer.enorm(self.embed_tokens(ids)), layer.hnorm(hidden)), dim=-1)
        mask = causal_mask(ids.shape[1], 0, hidden)
        x = layer.eh_proj(joined)
        x = layer(x, self._angles(0, x)[layer.rope], mask, None, 0, False)
        out: Tensor = layer.shared_head.norm(x)
        return out

    def _angles(self, cached: int, x: Tensor) -> dict[str, Angles]:
        positions = torch.arange(cached, cached + x.shape[1], device=x.device)
        return {name: rope(positions) for name, rope in self.ropes.items()}

    def _attention(self, section: Section, name: str, at: Factory) -> MLA | GQA:
        chosen = section.section("attention").section(name)
        latent = chosen.choice("kind", "mla", "gqa") == "mla"
        if name not in self.ropes:
            dim = chosen.integer("qk_rope_head_dim" if latent else "head_dim")
            theta, scaling = section.number("rope_theta"), section.optional_section("rope_scaling")
            self.ropes[name] = Rope(dim, theta, scaling, at["device"])
        hidden, eps = section.integer("hidden_size"), section.number("rms_norm_eps")
        kind: type[MLA] | type[GQA] = MLA if latent else GQA
        softmax = self.ropes[name].softmax
        assert isinstance(softmax, float)
        made = kind(chosen, hidden, eps, softmax, at)
        chosen.finish()
        return made


def make_ffn(section: Section, name: str, at: Factory) -> MLP | MoE:
    """The named ffn section as a module."""
    chosen = section.section("ffn").section(name)
    build = dense if chosen.choice("kind", "dense", "moe") == "dense" else MoE
    made = build(chosen, section.integer("hidden_size"), at)
    chosen.finish()
    return made


def layer_patterns(section: Section) -> list[Pattern]:
    """(attention, ffn) of every layer, in order.

    Raises:
        InputError: when the patterns' counts don't add up to `num_hidden_layers`.
    """
    patterns: list[Pattern] = []
    for entry in section.sections("layers"):
        patterns += [(entry.word("attention"), entry.word("ffn"))] * entry.integer("count")
    section.expect("num_hidden_layers", len(patterns))
    return patterns
