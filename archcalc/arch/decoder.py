"""The transformer decoder: embedding, layers by pattern, head, multi-token prediction."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from archcalc.arch.attention.delta import KDA, GatedDeltaNet
from archcalc.arch.attention.gqa import GQA
from archcalc.arch.attention.mla import MLA
from archcalc.arch.block import Block, Depth, Dtype, Real
from archcalc.arch.carried import (
    RESIDUAL_MODULES,
    block_outputs,
    check_choices,
    check_residuals,
    takes_choices,
)
from archcalc.arch.ffn.dense import DenseFFN
from archcalc.arch.ffn.moe import MoE
from archcalc.arch.layers import LayerKind, Layers, Place, Placement
from archcalc.arch.rope import Base, RopeScaling
from archcalc.arch.rotation import check_rotation
from archcalc.arch.rows import new_rows, sequences
from archcalc.errors import FieldError, did_you_mean
from archcalc.limits import LAYER_STEPS, field_beyond
from archcalc.section import About, Size
from archcalc.tape import Dim, Tape, Tensor, Weight
from archcalc.tape.values import NormKind

Attention = Annotated[MLA | GQA | GatedDeltaNet | KDA, Field(discriminator="kind")]
BlockName = Annotated[str, Field(min_length=1)]
FFN = Annotated[DenseFFN | MoE, Field(discriminator="kind")]


PREDICTION_MODULES = ("enorm", "hnorm", "eh_proj", "shared_head.norm")
"""What a multi-token-prediction module has beside its layer's own modules."""

RESIDUALS = (*RESIDUAL_MODULES.values(), "model.output_attn_res")


class Decoder(Block):
    """Decoder-only transformer: token embedding, layers of residual steps, a last norm, a head.

    With `attn_res_block_size` what a mixer and the head read is no sum of what came before: a softmax weighs the
    outputs of blocks of so many layers and the running sum of the last one.
    """

    about = About(
        "Decoder-only transformer: token embedding, layers of residual steps, a last norm, a head",
        hidden_size="Width of the residual stream [elements]",
        vocab_size="Rows of the embedding and outputs of the head [tokens]",
        num_hidden_layers="Layers, those of multi-token prediction apart; `layers` adds up to it",
        max_position_embeddings="Longest context: what commands take where `--context` is left out [tokens]",
        tie_word_embeddings="Whether the head is the embedding's matrix, which then counts once",
        num_nextn_predict_layers="Modules of multi-token prediction (DeepSeek-V3); 0: none",
        mtp_stored=(
            "Whether the release holds the modules of multi-token prediction; null: nobody has looked, and they are "
            "counted with a note"
        ),
        lm_head_bias="Whether the head has a bias (Phi-3.5-MoE)",
        rms_norm_eps=(
            "Epsilon of RMSNorms; needed where a norm of the layers is one, refused elsewhere. Changes no size"
        ),
        layer_norm_eps=(
            "Epsilon of LayerNorms; needed where a norm of the layers is one, refused elsewhere. Changes no size"
        ),
        dtype="Dtype of weights and activations where `storage`, a plan or an option does not say otherwise",
        rope_theta="Base of the rotary embedding; null: no attention rotates. Changes no size",
        rope_scaling="Stretching of the rotary embedding beyond the pretrained context; null: none. Changes no size",
        norm=(
            "Kind of the layers' norms: `rms`, `rms_zero_centered` (times 1 + weight), `layer`, `layer_no_bias`, "
            "`none` (LayerNorm without weights)"
        ),
        norm_placement="`pre`: x + f(norm x). `post`: x + norm f(x) (OLMo 2). `sandwich`: both (Gemma 2). `none`",
        position_embeddings=(
            "Rows of a learned position table (GPT-2: n_positions; OPT: max_position_embeddings + 2); left out: no "
            "such table"
        ),
        embedding_norm="Kind of a norm right after the embedding (BLOOM); left out: no such norm",
        layers="Patterns of layers in order",
        mtp_layer="The layer that multi-token prediction runs; left out: the kind of the last layer",
        attn_res_block_size=(
            "Layers of a block whose output later mixers attend to, in place of the residual's sum (attention "
            "residuals, arXiv:2603.15031, Kimi K3); left out: a plain residual [layers]"
        ),
        attention="Attention mixers, each under a name that `layers` uses",
        ffn="Feed-forward mixers, each under a name that `layers` uses",
    )
    purposes: ClassVar[dict[str, str]] = {
        "embed_tokens": "Looks up each token's hidden vector.",
        "embed_positions": "Looks up a learned vector for each position, added to the token's.",
        "embed_norm": "Normalises the embedded tokens before the first layer.",
        "model.norm": "Normalises the last hidden state before the head.",
        **{f"{name}_norm": "Normalises the sources before they are scored." for name in RESIDUALS},
        **{f"{name}_proj": "Scores what blocks of layers made, and weighs it." for name in RESIDUALS},
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
    mtp_stored: bool | None = True
    lm_head_bias: bool = False
    rms_norm_eps: Real | None = None
    layer_norm_eps: Real | None = None
    dtype: Dtype
    rope_theta: Base | None
    rope_scaling: RopeScaling | None
    norm: NormKind = "rms"
    norm_placement: Placement = "pre"
    position_embeddings: Size | None = None
    embedding_norm: NormKind | None = None
    layers: Annotated[list[Layers], Field(min_length=1)]
    mtp_layer: Layers | None = None
    attn_res_block_size: Size | None = None
    attention: Annotated[dict[BlockName, Attention], Field(min_length=1)]
    ffn: Annotated[dict[BlockName, FFN], Field(min_length=1)]

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        for place, layer in self._written():
            if layer.count is None and layer is not self.mtp_layer:
                raise FieldError("count is missing: how many of these layers there are", place)
        total = sum(pattern.total for pattern in self.layers)
        if total != self.num_hidden_layers:
            raise FieldError(
                f"the layer patterns add up to {total} layers, num_hidden_layers says {self.num_hidden_layers}",
                "layers",
                "num_hidden_layers",
            )
        steps = sum(map(len, {self._kind(layer) for _, layer in self._written()}))
        if steps > LAYER_STEPS.most:
            raise field_beyond(LAYER_STEPS, steps, "layers")
        self._check_mtp()
        used: dict[str, set[str]] = {"attention": set(), "ffn": set()}
        for place, layer in self._written():
            self._check_layer(place, layer, used)
        for key, names in (("attention", self.attention), ("ffn", self.ffn)):
            for name in names:
                if name not in used[key]:
                    raise FieldError(f"{key} {name} is used by no layer", (key, name), "layers")
        check_choices(self.kinds(), self._predicted() if self.num_nextn_predict_layers else (), self.attention)
        if self.attn_res_block_size is not None:
            check_residuals(self.kinds(), self.num_nextn_predict_layers)
        return self

    @model_validator(mode="after")
    def _norms_have_eps(self) -> Self:
        written = [self._kind(layer) for _, layer in self._written()]
        inside = {step.norm for kind in written for step in kind if step.input_norm or step.output_norm}
        sources: set[NormKind] = set() if self.attn_res_block_size is None else {"rms"}
        kinds = sorted({self.norm, self.embedding_norm or self.norm} | inside | sources)
        readers = {
            "rms_norm_eps": [kind for kind in kinds if kind.startswith("rms")],
            "layer_norm_eps": [kind for kind in kinds if not kind.startswith("rms")],
        }
        for key, of in readers.items():
            if of and getattr(self, key) is None:
                raise FieldError(f"{key} is missing: a norm of kind {of[0]} needs it")
        for key, of in readers.items():
            if not of and getattr(self, key) is not None:
                raise FieldError(f"no norm of the layers reads {key}: they are of kind {', '.join(kinds)}", key)
        return self

    @model_validator(mode="after")
    def _positions_fit(self) -> Self:
        longest = self.max_position_embeddings
        check_rotation(self.rope_theta, self.rope_scaling, self.attention, longest)
        if self.position_embeddings is not None and self.position_embeddings < longest:
            raise FieldError(
                f"position_embeddings {self.position_embeddings} are fewer than max_position_embeddings {longest}",
                "position_embeddings",
                "max_position_embeddings",
            )
        return self

    def _written(self) -> Iterator[tuple[Place, Layers]]:
        """Every layer as the file writes it, and where."""
        for i, pattern in enumerate(self.layers):
            yield from ((("layers", i, *place), layer) for place, layer in pattern.places())
        if self.mtp_layer is not None:
            yield ("mtp_layer",), self.mtp_layer

    def _check_mtp(self) -> None:
        """Raises FieldError for a key of prediction modules that are not there, and a prediction layer that is none."""
        for key, default in (("mtp_layer", None), ("mtp_stored", True)):
            if getattr(self, key) is not default and not self.num_nextn_predict_layers:
                raise FieldError(f"{key} without multi-token prediction", key, "num_nextn_predict_layers")
        if self.mtp_layer is None:
            return
        for key in ("count", "repeat"):
            if getattr(self.mtp_layer, key) is not None:
                message = f"{key} in mtp_layer: num_nextn_predict_layers says how many there are"
                raise FieldError(message, ("mtp_layer", key), "num_nextn_predict_layers")

    def _check_layer(self, place: Place, layer: Layers, used: dict[str, set[str]]) -> None:
        """Mixers that exist, and modules that don't meet. Raises FieldError."""
        for inner, step in layer.parts():
            kind = step.kind(self.norm, self.norm_placement)
            names = self.attention if kind.section == "attention" else self.ffn
            if kind.mixer not in names:
                where = (*place, *inner, kind.section)
                hint = did_you_mean(kind.mixer, names)
                raise FieldError(f"no {kind.section} is named {kind.mixer}", where, kind.section, hint=hint)
            used[kind.section].add(kind.mixer)
        reserved = PREDICTION_MODULES if self.num_nextn_predict_layers else ()
        if self.attn_res_block_size is not None:
            reserved = (*reserved, *(f"{name}_{of}" for name in RESIDUAL_MODULES.values() for of in ("norm", "proj")))
        layer.check_steps(place, self.norm, self.norm_placement, reserved)

    def forward(self, tape: Tape) -> None:
        """Ids in, logits and loss out, over rows [batch, seq]."""
        vocab, hidden = self.dim("vocab_size", "vocab"), self.dim("hidden_size")
        tape.norm_kind, tape.rotary = self.norm, self.rope_theta is not None
        tape.shares_choice = takes_choices(self.attention.values())
        with tape.scope("", purposes=self.purposes):
            embedding, x = self._embed(tape, vocab, hidden)
            for kind, indices in self.runs().items():
                with tape.segment(f"{tape.body}.layers.{{i}}", "backbone", x, indices, dtype=self.dtype) as inner:
                    x = self._layer(tape, inner, kind)
            head = self._head(tape, x, vocab, embedding if self.tie_word_embeddings else None)
            self._mtp(tape, x, vocab, head)

    def _embed(self, tape: Tape, vocab: Dim, hidden: Dim) -> tuple[Weight, Tensor]:
        """The embedding's weight, and the embedded tokens: [batch, seq, hidden]."""
        with tape.segment(f"{tape.body}.embed_tokens", "backbone", scope=tape.body, dtype=self.dtype):
            x = tape.embedding(new_rows(tape), "embed_tokens", vocab, hidden)
            embedding = tape.weights()[-1]
            if self.position_embeddings is not None:
                x = tape.add_positions(x, "embed_positions", self.dim("position_embeddings"))
            if self.embedding_norm is not None:
                x = tape.norm(x, "embed_norm", kind=self.embedding_norm, role="norm", site="embedding")
            tape.dropout(x, "embed_tokens.dropout", site="embedding")
        return embedding, x

    def _kind(self, layer: Layers) -> LayerKind:
        """A written layer under the backbone's norm and placement."""
        return layer.kind(self.norm, self.norm_placement)

    def _predicted(self) -> LayerKind:
        """The kind of a prediction module's layer."""
        return self.kinds()[-1] if self.mtp_layer is None else self._kind(self.mtp_layer)

    def kinds(self) -> list[LayerKind]:
        """The kind of every layer, in order; of a layer that patterns repeat, made once."""
        known: dict[int, LayerKind] = {}
        kinds: list[LayerKind] = []
        for pattern in self.layers:
            for count, layer in pattern.runs():
                kind = known.get(id(layer)) or known.setdefault(id(layer), self._kind(layer))
                kinds += [kind] * count
        return kinds

    def runs(self) -> dict[LayerKind, tuple[int, ...]]:
        """Layer indices by kind, in order of first appearance."""
        runs: dict[LayerKind, list[int]] = {}
        for i, kind in enumerate(self.kinds()):
            runs.setdefault(kind, []).append(i)
        return {kind: tuple(indices) for kind, indices in runs.items()}

    def _layer(self, tape: Tape, x: Tensor, kind: LayerKind) -> Tensor:
        blocks = self._blocks(tape, x)
        read, mixed = x, x  # what the step before read, before and after its norm
        for step in kind:
            block = self.attention[step.mixer] if step.section == "attention" else self.ffn[step.mixer]
            site, what = ("attn", "attention") if step.section == "attention" else ("mlp", "the feed-forward")
            before, after = f"Normalises the hidden state before {what}.", f"Normalises what {what} adds to it."
            read = read if step.parallel else self._read(tape, x, blocks, RESIDUAL_MODULES[step.section])
            with tape.scope("", purposes={step.input_norm: before, step.output_norm: after}):
                if step.input_norm:
                    mixed = tape.norm(read, step.input_norm, kind=step.norm, role="norm", site=f"{site}_norm")
                elif not step.shares:
                    mixed = read
                with tape.scope(step.scope, block.about.sentence, block.purposes):
                    out = block.forward(tape, mixed)
                if step.output_norm:
                    out = tape.norm(out, step.output_norm, kind=step.norm, role="norm", site=f"{site}_post_norm")
            x = tape.add(x, out, f"add_{site}", site="residual", drops=True)
        return x

    def _blocks(self, tape: Tape, x: Tensor) -> Tensor | None:
        """The outputs of blocks of layers, where they are attended to."""
        size = self.attn_res_block_size
        return None if size is None else block_outputs(tape, x, size, self.num_hidden_layers)

    def _read(self, tape: Tape, x: Tensor, blocks: Tensor | None, module: str) -> Tensor:
        """What stands for the residual: itself, or what attention makes of it and the blocks' outputs."""
        return x if blocks is None else tape.attention_residual(x, blocks, (f"{module}_norm", f"{module}_proj"))

    def _head(self, tape: Tape, x: Tensor, vocab: Dim, tied: Weight | None) -> tuple[Weight, ...]:
        """The last norm, logits and in training their loss; returns the head's weights."""
        with tape.segment("lm_head", "backbone", x, scope="", dtype=self.dtype) as last:
            last = self._read(tape, last, self._blocks(tape, last), "model.output_attn_res")
            last = _asked(tape, last)
            norm = f"{tape.body}.norm"
            with tape.scope("", purposes={norm: self.purposes["model.norm"]}):
                last = tape.norm(last, norm, role="norm", site="final_norm")
            bias = self.lm_head_bias
            logits = tape.linear(last, "lm_head", (vocab,), role="head", site="head", weight=tied, bias=bias)
            weights = tape.segments[-1].ops[-1].weights
            if tape.workload.phase == "train":
                tape.cross_entropy(logits, "loss")
        return weights

    def _mtp(self, tape: Tape, x: Tensor, vocab: Dim, head: tuple[Weight, ...]) -> None:
        """Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2): each module joins the embedding of a
        later token with the hidden state (eq. 21), runs a layer (eq. 22), the head (eq. 23) and in training a loss
        (eq. 24). Embedding and head are the main model's."""
        if not self.num_nextn_predict_layers:
            return
        first = self.num_hidden_layers
        indices = tuple(range(first, first + self.num_nextn_predict_layers))
        kind = self._predicted()
        hidden = self.dim("hidden_size")
        about = "Multi-token prediction module."
        with tape.segment(f"{tape.body}.layers.{{i}}", "mtp", x, indices, about=about, dtype=self.dtype) as inner:
            embedded = tape.copy((inner,), "shift_embedding", inner.features, site="mtp_in")
            tape.dropout(embedded, "dropout", site="mtp_in")
            embedded = tape.norm(embedded, "enorm", role="mtp", site="mtp_in")
            previous = tape.norm(inner, "hnorm", role="mtp", site="mtp_in")
            both = tape.copy((embedded, previous), "join", (2 * hidden,), site="mtp_in")
            # in training column-parallel, its result gathered (Megatron-LM core/transformer/multi_token_prediction.py,
            # get_mtp_layer_spec_for_backend); in serving whole on each device (vLLM, deepseek_mtp.py)
            across = hidden.on("ffn") if tape.workload.phase == "train" else hidden
            w = tape.weight("eh_proj", "weight", (across,), both.features, "mtp")
            x = tape.linear(both, "eh_proj", (hidden,), role="mtp", site="mtp_in", weight=w)
            x = _asked(tape, self._layer(tape, x, kind))
            x = tape.norm(x, "shared_head.norm", role="mtp", site="mtp_in")
            logits = tape.linear(x, "shared_head.head", (vocab,), role="head", site="head", weight=head)
            if tape.workload.phase == "train":
                tape.cross_entropy(logits, "loss")


def _asked(tape: Tape, x: Tensor) -> Tensor:
    """The rows whose logits the workload asks for: all, or each sequence's last."""
    return x.view(x.features, (sequences(tape),)) if tape.workload.logits == "last" else x
