"""Merger: from the patches of a merge window to one hidden state of the backbone, for one or several layers."""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import model_validator

from archcalc.arch.block import Activation, Dtype, Real
from archcalc.arch.layers import Name
from archcalc.arch.projector.projector import Projector
from archcalc.arch.vision.tower import Features
from archcalc.errors import FieldError
from archcalc.section import About, Size
from archcalc.tape import Dim, Tape, Tensor
from archcalc.tape.values import NormKind


class MergerNames(NamedTuple):
    """Modules of a merger in a checkpoint."""

    norm: str
    fc1: str
    act: str
    fc2: str


NAMES: Mapping[str, MergerNames] = {
    "qwen2_vl": MergerNames("ln_q", "mlp.0", "mlp.1", "mlp.2"),
    "qwen3_vl": MergerNames("norm", "linear_fc1", "act_fn", "linear_fc2"),
    "llava": MergerNames("norm", "linear_1", "act", "linear_2"),
}
"""By the family whose public class has them (transformers: qwen2_vl and qwen2_5_vl, qwen3_vl and qwen3_5, llava)."""


class Merger(Projector):
    """The projector of Qwen2-VL and its kin and, without norm and merge, LLaVA's.

    The norm sees single patches, before the merge. Features of earlier layers have mergers of their own beside this
    one, each with a LayerNorm after the merge; theirs are added to the backbone's hidden states at the image's tokens,
    the first after its first layer and so on (Qwen3-VL's DeepStack).
    """

    about = About(
        (
            "Two-layer perceptron that maps each merge window of patches to one backbone token (Qwen2-VL, "
            "arXiv:2409.12191; without norm and merge, LLaVA's, arXiv:2310.03744)"
        ),
        kind="Which projector this is",
        names="Whose public class names the modules: `qwen2_vl`, `qwen3_vl` or `llava`",
        prefix="Module of the checkpoint that holds the projector, such as model.visual.merger",
        mm_hidden_size="Features of one patch, as the tower makes them [elements]",
        intermediate_size="Width between the two linears [elements]",
        text_hidden_size="Features of one backbone token: the backbone's `hidden_size` [elements]",
        norm="Kind of the norm before the merge; null: none",
        projector_hidden_act="Activation between the linears. Changes no count",
        projector_ln_eps="Epsilon of the projector's norm; goes with `norm`. Changes no size",
        projector_bias="Whether the linears have biases",
        dtype="Dtype of the projector's weights and activations where nothing else says otherwise",
    )
    takes_earlier: ClassVar[bool] = True
    purposes: ClassVar[dict[str, str]] = {
        "norm": "Normalises the patches' features before they are mixed.",
        "fc1": "First linear: mixes the patches of one merge window.",
        "act": "The activation between the two linears; it has no parameters.",
        "fc2": "Second linear: to the backbone's hidden size.",
        "order": "Brings tokens back from the order of windows to that of the picture.",
    }

    kind: Literal["merger"]
    names: Literal["qwen2_vl", "qwen3_vl", "llava"]
    prefix: Name
    mm_hidden_size: Size
    intermediate_size: Size
    text_hidden_size: Size
    norm: Literal["layer", "rms"] | None
    projector_hidden_act: Activation
    projector_ln_eps: Real | None = None
    projector_bias: bool
    dtype: Dtype

    @model_validator(mode="after")
    def _norm_has_eps(self) -> Self:
        if (self.norm is None) != (self.projector_ln_eps is None):
            message = "projector_ln_eps belongs to a norm: neither, or both"
            raise FieldError(message, "projector_ln_eps" if self.norm is None else "norm")
        return self

    @property
    def input_dim(self) -> Dim:
        """Features of one patch [elements]."""
        return self.dim("mm_hidden_size")

    @property
    def output_dim(self) -> Dim:
        """Features of one backbone token [elements]."""
        return self.dim("text_hidden_size")

    def forward(self, tape: Tape, features: Features) -> None:
        """Rows [batch, vision_tokens], features [window, mm_hidden] to rows alike, features [text_hidden]."""
        names = NAMES[self.names]
        said = {getattr(names, key): self.purposes[key] for key in MergerNames._fields}
        with tape.scope("", purposes=self.purposes | said):
            self._merge(tape, features.last, self.prefix, shuffled=features.shuffled)
            if features.earlier:
                beside = ".".join((*self.prefix.split(".")[:-1], "deepstack_merger_list.{i}"))
                each = tuple(range(len(features.earlier)))
                self._merge(tape, features.earlier[0], beside, each, shuffled=features.shuffled)

    def _merge(
        self, tape: Tape, x: Tensor, path: str, indices: tuple[int, ...] = (), *, shuffled: bool = False
    ) -> None:
        """One merger, or, with `indices`, those of earlier layers."""
        names, about, bias = NAMES[self.names], self.about.sentence, self.projector_bias
        with tape.segment(path, "projector", x, indices, about=about, dtype=self.dtype) as inner:
            window, patch = inner.features
            merged, y = Dim(f"({window.name}·{patch.name})", window.size * patch.size), inner
            kind: NormKind | None = "layer" if indices else self.norm
            if kind is not None:
                y = inner.view((merged,)) if indices else inner.view((patch,), (*inner.rows, window))
                y = tape.norm(y, names.norm, kind=kind, role="projector", site="projector_norm")
            y = y.view((merged,), inner.rows)
            width = (self.dim("intermediate_size"),)
            y = tape.linear(y, names.fc1, width, role="projector", site="projector_fc1", bias=bias)
            y = tape.activation(y, names.act, site="projector_act")
            y = tape.linear(y, names.fc2, (self.output_dim,), role="projector", site="projector_fc2", bias=bias)
            if shuffled:
                tape.reorder(y, "order", y.rows, site="projector_fc2")
