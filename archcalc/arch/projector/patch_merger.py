"""Patch-merger projector: from merged vision patches to the backbone's hidden size."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from archcalc.arch.block import Activation, Dtype, Real
from archcalc.arch.projector.projector import Projector
from archcalc.arch.vision.tower import Features
from archcalc.errors import FieldError
from archcalc.section import About, Size
from archcalc.tape import Dim, Tape, Tensor


class PatchMerger(Projector):
    """The projector of Kimi K2.5 (arXiv:2602.02276) and, as `patchmergerv2`, of Kimi K3."""

    about = About(
        (
            "Two-layer perceptron that maps each merge window of patches to one backbone token (Kimi K2.5, "
            "arXiv:2602.02276)"
        ),
        kind="Which projector this is",
        mm_projector_type=(
            "`patchmerger` (K2.5): biases, and a LayerNorm before. `patchmergerv2` (Kimi K3): no biases, and an "
            "RMSNorm behind"
        ),
        mm_hidden_size="Features of one patch, as the tower makes them [elements]",
        text_hidden_size="Features of one backbone token: the backbone's `hidden_size` [elements]",
        projector_hidden_act="Activation between the linears. Changes no count",
        projector_ln_eps="Epsilon of the projector's norm. Changes no size",
        use_postshuffle_norm=(
            "Whether the LayerNorm sees whole merge windows, not single patches; not of `patchmergerv2`"
        ),
        dtype="Dtype of the projector's weights and activations where nothing else says otherwise",
    )
    purposes: ClassVar[dict[str, str]] = {
        "pre_norm": (
            "LayerNorm that brings every patch's features to mean 0 and variance 1, with a learned scale and shift, so "
            "that the projector sees inputs of one scale whatever the image."
        ),
        "proj.0": (
            "First linear: mixes the patches of one merge window at their own width; it does not yet reach the "
            "backbone's hidden size."
        ),
        "proj.1": (
            "GELU, x·Φ(x): the smooth nonlinearity between the two linears; without it they would collapse into one "
            "matrix. It has no parameters."
        ),
        "proj.2": "Second linear: from the merged width to the backbone's hidden size.",
        "post_norm": "RMSNorm that brings what enters the backbone to one scale.",
    }

    kind: Literal["patch_merger"]
    mm_projector_type: Literal["patchmerger", "patchmergerv2"] = "patchmerger"
    mm_hidden_size: Size
    text_hidden_size: Size
    projector_hidden_act: Activation
    projector_ln_eps: Real
    use_postshuffle_norm: bool
    dtype: Dtype

    @model_validator(mode="after")
    def _one_norm(self) -> Self:
        if self._second and self.use_postshuffle_norm:
            message = "use_postshuffle_norm: patchmergerv2 has no norm before its linears"
            raise FieldError(message, "use_postshuffle_norm", "mm_projector_type")
        return self

    @property
    def _second(self) -> bool:
        return self.mm_projector_type == "patchmergerv2"

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
        about = self.about.sentence
        with (
            tape.segment("mm_projector", "projector", features.last, about=about, dtype=self.dtype) as inner,
            tape.scope("", purposes=self.purposes),
        ):
            window, bias = inner.features[0], not self._second
            merged = Dim(f"({window.name}·{self.input_dim.name})", window.size * self.input_dim.size)
            y = inner if self._second else self._normed(tape, inner, merged)
            y = y.view((merged,), inner.rows)
            y = tape.linear(y, "proj.0", (merged,), role="projector", site="projector_fc1", bias=bias)
            y = tape.activation(y, "proj.1", site="projector_act")
            y = tape.linear(y, "proj.2", (self.output_dim,), role="projector", site="projector_fc2", bias=bias)
            if self._second:
                tape.rms_norm(y, "post_norm", role="projector", site="projector_norm")

    def _normed(self, tape: Tape, x: Tensor, merged: Dim) -> Tensor:
        single = x.view((self.input_dim,), (*x.rows, x.features[0]))
        x = x.view((merged,)) if self.use_postshuffle_norm else single
        return tape.layer_norm(x, "pre_norm", role="projector", site="projector_norm")
