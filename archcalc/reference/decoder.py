"""The decoder: embedding, layers by the spec's patterns, final norm, prediction modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.attention import Attention, Pass
from archcalc.reference.cache import Cache
from archcalc.reference.depth import Blocks, sources_of
from archcalc.reference.factory import Factory
from archcalc.reference.ffn import FFNS
from archcalc.reference.fields import Section
from archcalc.reference.kernels.dropout import dropped
from archcalc.reference.kinds import attention_class, make_attention
from archcalc.reference.layer import DecoderLayer, PredictionLayer
from archcalc.reference.norm_kinds import norm_kind, norm_name
from archcalc.reference.norms import Norm
from archcalc.reference.patterns import LayerKind, Step, layer_kinds, prediction_kind
from archcalc.reference.rope import Rope


class Backbone(nn.Module):
    """Embedding to final norm. Prediction modules stand after the layers, as layer L, L+1, ...

    Args:
        section: the spec's `backbone` section.
        kinds: the layers to build instead of the spec's own and its prediction modules.
    """

    def __init__(self, section: Section, make: Factory, kinds: Sequence[LayerKind] | None = None) -> None:
        super().__init__()
        self._section, self._make = section, make
        self._hidden = section.integer("hidden_size")
        self.embed_tokens = nn.Embedding(section.integer("vocab_size"), self._hidden, **make.at)
        positions = section.optional_integer("position_embeddings")
        self.embed_positions = None if positions is None else nn.Embedding(positions, self._hidden, **make.at)
        embedding_norm = norm_name(section, "embedding_norm") if section.has("embedding_norm") else None
        self.embed_norm = None if embedding_norm is None else self._norm(embedding_norm)
        built = layer_kinds(section) if kinds is None else kinds
        self.depth = len(built)
        self.ropes: nn.ModuleDict = nn.ModuleDict()
        self._known: dict[str, tuple[Section, Rope | None]] = {}
        self.layers = nn.ModuleList()
        slot = 0
        for kind in built:
            self.layers.append(DecoderLayer(kind, self._mixers(kind), self._norm, slot, make))
            slot += sum(step.side == "attention" for step in kind)
        self.block_size = section.optional_integer("attn_res_block_size")
        if self.block_size is not None:
            self._attend_to_residuals()
        if kinds is None:
            self._add_predictions(section.integer("num_nextn_predict_layers", 0))
        self.norm = self._norm(norm_name(section))

    def _attend_to_residuals(self) -> None:
        if self._section.integer("num_nextn_predict_layers", 0):
            raise InputError("attn_res_block_size: what a prediction module reads isn't known")
        parts = self._hidden, self._section.number("rms_norm_eps"), self._make
        for number, layer in enumerate(self.layers):
            layer.number = number
            layer.attend_to_residuals(*parts)
        self.output_attn_res_norm, self.output_attn_res_proj = sources_of(*parts)

    def _add_predictions(self, modules: int) -> None:
        kind, norm = prediction_kind(self._section), norm_name(self._section)
        for _ in range(modules):
            parts = kind, self._mixers(kind), self._norm, 0, self._make
            self.layers.append(PredictionLayer(*parts, hidden=self._hidden, norm=norm))

    def attentions(self) -> Iterator[Attention]:
        """The attention modules of the layers in running order, prediction modules left out: one a cache slot."""
        for layer in self.layers[: self.depth]:
            yield from layer.attentions()

    def forward(
        self, x: Tensor, cache: Cache | None, absorbed: bool, deep: Sequence[Tensor] = (), places: Tensor | None = None
    ) -> Tensor:
        """Embedded tokens [B,N,W] after the cached rows -> final hidden states [B,N,W], normalised.

        `deep` are features [tokens, W] that are added at `places`, flat indices into B*N, after the first layer, the
        second one and so on (DeepStack: transformers, models/qwen3_vl/modeling_qwen3_vl.py, `_deepstack_process`).
        """
        now = self.now(x, cache, absorbed)
        x = self.embedded(x, cache)
        for index, layer in enumerate(self.layers[: self.depth]):
            if now.blocks is not None:
                now.blocks.note(index, x)
            x = layer(x, now)
            if places is not None and index < len(deep):
                x = x.flatten(0, 1).index_add(0, places, deep[index]).view_as(x)
        if cache is not None:
            cache.advance(x.shape[1])
        out: Tensor = self.norm(self.source(x, now))
        return out

    def source(self, x: Tensor, now: Pass) -> Tensor:
        """What the last norm reads: the residual, or what it makes of it and of the blocks' outputs."""
        if now.blocks is None:
            return x
        out: Tensor = self.output_attn_res_proj(x, now.blocks.outputs, now.blocks.slots, self.output_attn_res_norm)
        return out

    def predict(self, module: int, hidden: Tensor, ids: Tensor) -> Tensor:
        """One prediction module on the main model's hidden states [B,N,W] and the ids one step later ->
        [B,N,W]."""
        layer = self.layers[self.depth + module]
        x = layer.joined(self.embed_tokens(ids), hidden)
        x = layer(x, self.now(x))
        out: Tensor = layer.shared_head.norm(x)
        return out

    def embedded(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Learned positions added (GPT-2), then normalised (BLOOM, arXiv:2211.05100); a position for each token of
        each sequence, int64, as Megatron-LM's data pipeline passes them. Dropout comes last (Megatron-LM, core/models/
        common/embeddings/language_model_embedding.py)."""
        if self.embed_positions is not None:
            x = x + self.embed_positions(_positions(x, cache).repeat(len(x), 1))
        x = x if self.embed_norm is None else self.embed_norm(x)
        return dropped(x, self._make.options.hidden_dropout)

    def now(self, x: Tensor, cache: Cache | None = None, absorbed: bool = False) -> Pass:
        """What the layers share in a pass over new rows [B,N,W]."""
        positions = _positions(x, cache)
        angles = {name: rope(positions) for name, rope in self.ropes.items()}
        shares = any(each.borrows is not None for each in self.attentions())
        depth = self._section.integer("num_hidden_layers")
        blocks = None if self.block_size is None else Blocks(x, self.block_size, depth)
        return Pass(angles=angles, cache=cache, absorbed=absorbed, shares=shares, blocks=blocks)

    def _norm(self, name: str) -> Norm:
        return Norm(norm_kind(self._section, name), self._hidden, self._make)

    def _mixers(self, kind: LayerKind) -> list[nn.Module]:
        return [self._attention(step) if step.side == "attention" else self._ffn(step) for step in kind]

    def _attention(self, step: Step) -> Attention:
        if step.name not in self._known:
            section = self._section.section("attention").section(step.name)
            rope = attention_class(section).rotation(section, self._section, self._make.device)
            self._known[step.name] = section, rope
            if rope is not None:
                self.ropes[step.name] = rope
        section, rope = self._known[step.name]
        return make_attention(section, self._section, rope, self._make)

    def _ffn(self, step: Step) -> nn.Module:
        section = self._section.section("ffn").section(step.name)
        norm = norm_kind(self._section, norm_name(self._section))
        made = FFNS[section.choice("kind", *FFNS)](section, self._hidden, norm, self._make)
        section.finish()
        return made


def _positions(x: Tensor, cache: Cache | None) -> Tensor:
    cached = 0 if cache is None else cache.length
    return torch.arange(cached, cached + x.shape[1], device=x.device)
