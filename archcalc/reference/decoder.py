"""The decoder: embedding, layers by the spec's patterns, final norm, prediction modules."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from archcalc.reference.attention import Attention, Pass, causal_mask
from archcalc.reference.cache import Cache
from archcalc.reference.factory import Factory
from archcalc.reference.ffn import MLP, MoE, dense
from archcalc.reference.fields import Section
from archcalc.reference.kinds import attention_class, make_attention
from archcalc.reference.layer import DecoderLayer, PredictionLayer
from archcalc.reference.norm_kinds import norm_kind, norm_name
from archcalc.reference.norms import make_norm
from archcalc.reference.patterns import LayerKind, Step, layer_kinds, prediction_kind
from archcalc.reference.rope import Angles, Rope


class Backbone(nn.Module):
    """Embedding to final norm. Prediction modules stand after the layers, as layer L, L+1, ...

    Args:
        section: the spec's `backbone` section.
    """

    def __init__(self, section: Section, at: Factory) -> None:
        super().__init__()
        self._section, self._at = section, at
        self._hidden = section.integer("hidden_size")
        self.embed_tokens = nn.Embedding(section.integer("vocab_size"), self._hidden, **at)
        positions = section.optional_integer("position_embeddings")
        self.embed_positions = None if positions is None else nn.Embedding(positions, self._hidden, **at)
        embedding_norm = norm_name(section, "embedding_norm") if section.has("embedding_norm") else None
        self.embed_norm = None if embedding_norm is None else self._norm(embedding_norm)
        kinds = layer_kinds(section)
        self.depth = len(kinds)
        self.ropes: nn.ModuleDict = nn.ModuleDict()
        self._known: dict[str, tuple[Section, Rope | None]] = {}
        self.layers = nn.ModuleList()
        slot = 0
        for kind in kinds:
            self.layers.append(DecoderLayer(kind, self._mixers(kind), self._norm, slot))
            slot += sum(step.side == "attention" for step in kind)
        self._add_predictions(section.integer("num_nextn_predict_layers", 0))
        self.norm = self._norm(norm_name(section))

    def _add_predictions(self, modules: int) -> None:
        kind, norm = prediction_kind(self._section), norm_name(self._section)
        for _ in range(modules):
            parts = kind, self._mixers(kind), self._norm, 0
            self.layers.append(PredictionLayer(*parts, hidden=self._hidden, norm=norm, at=self._at))

    def attentions(self) -> Iterator[Attention]:
        """The attention modules of the layers in running order, prediction modules left out: one a cache slot."""
        for layer in self.layers[: self.depth]:
            yield from layer.attentions()

    def forward(self, x: Tensor, cache: Cache | None, absorbed: bool) -> Tensor:
        """Embedded tokens [B,N,W] after the cached rows -> final hidden states [B,N,W], normalised."""
        cached = cache.length if cache is not None else 0
        x = self._embedded(x, cached)
        now = self._pass(x, cached, cache, absorbed)
        for layer in self.layers[: self.depth]:
            x = layer(x, now)
        if cache is not None:
            cache.advance(x.shape[1])
        out: Tensor = self.norm(x)
        return out

    def predict(self, module: int, hidden: Tensor, ids: Tensor) -> Tensor:
        """One prediction module on the main model's hidden states [B,N,W] and the ids one step later ->
        [B,N,W]."""
        layer = self.layers[self.depth + module]
        x = layer.joined(self.embed_tokens(ids), hidden)
        x = layer(x, self._pass(x, 0, None, False))
        out: Tensor = layer.shared_head.norm(x)
        return out

    def _embedded(self, x: Tensor, cached: int) -> Tensor:
        """Learned positions added (GPT-2), then normalised (BLOOM, arXiv:2211.05100)."""
        if self.embed_positions is not None:
            x = x + self.embed_positions(torch.arange(cached, cached + x.shape[1], device=x.device))
        return x if self.embed_norm is None else self.embed_norm(x)

    def _pass(self, x: Tensor, cached: int, cache: Cache | None, absorbed: bool) -> Pass:
        positions = torch.arange(cached, cached + x.shape[1], device=x.device)
        angles: dict[str, Angles] = {name: rope(positions) for name, rope in self.ropes.items()}
        mask = causal_mask(x.shape[1], cached, x)
        return Pass(angles=angles, mask=mask, cached=cached, cache=cache, absorbed=absorbed)

    def _norm(self, name: str) -> nn.Module:
        return make_norm(norm_kind(self._section, name), self._hidden, self._at)

    def _mixers(self, kind: LayerKind) -> list[nn.Module]:
        return [self._attention(step) if step.side == "attention" else self._ffn(step) for step in kind]

    def _attention(self, step: Step) -> Attention:
        if step.name not in self._known:
            section = self._section.section("attention").section(step.name)
            rope = attention_class(section).rotation(section, self._section, self._at["device"])
            self._known[step.name] = section, rope
            if rope is not None:
                self.ropes[step.name] = rope
        section, rope = self._known[step.name]
        return make_attention(section, self._section, rope, self._at)

    def _ffn(self, step: Step) -> MLP | MoE:
        return make_ffn(self._section, step.name, self._at)


def make_ffn(section: Section, name: str, at: Factory) -> MLP | MoE:
    """The named ffn section as a module."""
    chosen = section.section("ffn").section(name)
    build = dense if chosen.choice("kind", "dense", "moe") == "dense" else MoE
    made = build(chosen, section.integer("hidden_size"), at)
    chosen.finish()
    return made
