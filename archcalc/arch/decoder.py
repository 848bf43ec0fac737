"""The transformer decoder: embedding, layers by pattern, head, multi-token prediction."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from archcalc.arch.attention.gqa import GQA
from archcalc.arch.attention.mla import MLA
from archcalc.arch.block import Block, Depth, Dtype, Real, Section, Size
from archcalc.arch.ffn.dense import DenseFFN
from archcalc.arch.ffn.moe import MoE
from archcalc.arch.rows import new_rows
from archcalc.errors import FieldError, did_you_mean
from archcalc.tape import Dim, Tape, Tensor, Weight

Attention = Annotated[MLA | GQA, Field(discriminator="kind")]
FFN = Annotated[DenseFFN | MoE, Field(discriminator="kind")]


class Layers(Section):
    """`count` equal layers: an attention and an ffn, by their names in the sections beside it."""

    count: Depth
    attention: str
    ffn: str


class RopeScaling(Section):
    """Rotary scaling beyond the pretrained context; keys as in Hugging Face configs. It changes no size."""

    type: Literal["yarn", "llama3", "linear"]
    factor: Real
    original_max_position_embeddings: Size | None = None
    beta_fast: PositiveFloat | None = None
    beta_slow: PositiveFloat | None = None
    mscale: PositiveFloat | None = None
    mscale_all_dim: PositiveFloat | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None


class Decoder(Block):
    """Decoder-only transformer with pre-norm residual layers (RMSNorm before attention and before the feed-forward)."""

    purposes: ClassVar[dict[str, str]] = {
        "model.embed_tokens": "Looks up each token's hidden vector.",
        "input_layernorm": "Normalises the hidden state before attention.",
        "post_attention_layernorm": "Normalises the hidden state before the feed-forward.",
        "model.norm": "Normalises the last hidden state before the head.",
        "lm_head": "Turns the last hidden state into a score for every vocabulary entry.",
        "enorm": "Normalises the next token's embedding before the two are joined.",
        "hnorm": "Normalises the previous depth's hidden state before the two are joined.",
        "eh_proj": "Joins embedding and hidden state into the extra layer's input.",
        "shared_head.norm": "Normalises before the shared output head.",
    }

    hidden_size: Size
    vocab_size: Size
    num_hidden_layers: Depth
    max_position_embeddings: Size
    tie_word_embeddings: bool
    num_nextn_predict_layers: Annotated[int, Field(ge=0, le=100)]
    rms_norm_eps: Real
    dtype: Dtype
    rope_theta: Real
    rope_scaling: RopeScaling | None
    layers: Annotated[list[Layers], Field(min_length=1)]
    attention: Annotated[dict[str, Attention], Field(min_length=1)]
    ffn: Annotated[dict[str, FFN], Field(min_length=1)]

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        total = sum(pattern.count for pattern in self.layers)
        if total != self.num_hidden_layers:
            raise FieldError(
                f"the layer patterns add up to {total} layers, num_hidden_layers says {self.num_hidden_layers}",
                "layers",
                "num_hidden_layers",
            )
        for key, names in (("attention", self.attention), ("ffn", self.ffn)):
            used = [getattr(pattern, key) for pattern in self.layers]
            for i, name in enumerate(used):
                if name not in names:
                    raise FieldError(
                        f"no {key} is named {name}", ("layers", i, key), key, hint=did_you_mean(name, names)
                    )
            for name in names:
                if name not in used:
                    raise FieldError(f"{key} {name} is used by no layer", (key, name), "layers")
        return self

    def forward(self, tape: Tape) -> None:
        """Ids in, logits and loss out, over rows [batch, seq]."""
        vocab, hidden = self.dim("vocab_size", "vocab"), self.dim("hidden_size")
        with tape.scope("", purposes=self.purposes):
            about = self.purposes["model.embed_tokens"]
            with tape.segment("model.embed_tokens", "backbone", about=about, dtype=self.dtype):
                x = tape.embedding(new_rows(tape), "", vocab, hidden)
            embedding = tape.weights()[-1]
            for kinds, indices in self.runs().items():
                with tape.segment("model.layers.{i}", "backbone", x, indices, dtype=self.dtype) as inner:
                    x = self._layer(tape, inner, *kinds)
            self._head(tape, x, vocab, embedding if self.tie_word_embeddings else None)
            self._mtp(tape, x)

    def runs(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Layer indices by (attention, ffn) kind, in order of first appearance."""
        runs: dict[tuple[str, str], tuple[int, ...]] = {}
        start = 0
        for pattern in self.layers:
            key = (pattern.attention, pattern.ffn)
            runs[key] = (*runs.get(key, ()), *range(start, start + pattern.count))
            start += pattern.count
        return runs

    def _layer(self, tape: Tape, x: Tensor, attention: str, ffn: str) -> Tensor:
        mixer, mlp = self.attention[attention], self.ffn[ffn]
        normed = tape.rms_norm(x, "input_layernorm", role="norm", site="attn_norm")
        with tape.scope("self_attn", mixer.__doc__ or "", mixer.purposes):
            mixed = mixer.forward(tape, normed)
        x = tape.add(x, mixed, "add_attn", site="residual")
        normed = tape.rms_norm(x, "post_attention_layernorm", role="norm", site="mlp_norm")
        with tape.scope("mlp", mlp.__doc__ or "", mlp.purposes):
            mixed = mlp.forward(tape, normed)
        return tape.add(x, mixed, "add_mlp", site="residual")

    def _head(self, tape: Tape, x: Tensor, vocab: Dim, tied: Weight | None) -> None:
        with tape.segment("lm_head", "backbone", x, scope="", dtype=self.dtype) as last:
            if tape.workload.logits == "last":
                last = last.view(last.features, (last.rows[0],))
            last = tape.rms_norm(last, "model.norm", role="norm", site="final_norm")
            logits = tape.linear(last, "lm_head", (vocab,), role="head", site="head", weight=tied)
            if tape.workload.phase == "train":
                tape.cross_entropy(logits, "loss")

    def _mtp(self, tape: Tape, x: Tensor) -> None:
        """Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2): embedding and head are the main
        model's."""
        if not self.num_nextn_predict_layers:
            return
        first = self.num_hidden_layers
        indices = tuple(range(first, first + self.num_nextn_predict_layers))
        last = self.layers[-1]
        hidden = self.dim("hidden_size")
        about = "Multi-token prediction module."
        with tape.segment("model.layers.{i}", "mtp", x, indices, about=about, dtype=self.dtype) as inner:
            embedded = tape.copy((inner,), "shift_embedding", inner.features, site="mtp_in")
            embedded = tape.rms_norm(embedded, "enorm", role="mtp", site="mtp_in")
            previous = tape.rms_norm(inner, "hnorm", role="mtp", site="mtp_in")
            both = tape.copy((embedded, previous), "join", (2 * hidden,), site="mtp_in")
            x = tape.linear(both, "eh_proj", (hidden,), role="mtp", site="mtp_in")
            x = self._layer(tape, x, last.attention, last.ffn)
            tape.rms_norm(x, "shared_head.norm", role="mtp", site="mtp_in")
