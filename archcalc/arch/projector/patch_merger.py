"""Patch-merger projector: from merged vision patches to the backbone's hidden size."""

from __future__ import annotations

from typing import ClassVar, Literal

from archcalc.arch.block import Activation, Dtype, Real
from archcalc.arch.projector.projector import Projector
from archcalc.section import Size
from archcalc.tape import Dim, Tape, Tensor


class PatchMerger(Projector):
    """Two-layer perceptron that maps each merge window of patches to one backbone token.

    Kimi K2.5, arXiv:2602.02276. The LayerNorm sees single patches, before the merge; `use_postshuffle_norm` puts it
    after the merge instead.
    """

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
    }

    kind: Literal["patch_merger"]
    mm_hidden_size: Size
    text_hidden_size: Size
    projector_hidden_act: Activation
    projector_ln_eps: Real
    use_postshuffle_norm: bool
    dtype: Dtype

    @property
    def input_dim(self) -> Dim:
        """Features of one patch [elements]."""
        return self.dim("mm_hidden_size")

    @property
    def output_dim(self) -> Dim:
        """Features of one backbone token [elements]."""
        return self.dim("text_hidden_size")

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, vision_tokens], features [window, mm_hidden]; returns rows alike, features [text_hidden]."""
        with (
            tape.segment("mm_projector", "projector", x, about=self.__doc__ or "", dtype=self.dtype) as inner,
            tape.scope("", purposes=self.purposes),
        ):
            window = inner.features[0]
            patch = self.input_dim
            merged = Dim(f"({window.name}·{patch.name})", window.size * patch.size)
            if self.use_postshuffle_norm:
                y = tape.layer_norm(inner.view((merged,)), "pre_norm", role="projector", site="projector_norm")
            else:
                single = inner.view((patch,), (*inner.rows, window))
                y = tape.layer_norm(single, "pre_norm", role="projector", site="projector_norm")
            y = y.view((merged,), inner.rows)
            y = tape.linear(y, "proj.0", (merged,), role="projector", site="projector_fc1", bias=True)
            y = tape.activation(y, "proj.1", site="projector_act")
            return tape.linear(y, "proj.2", (self.output_dim,), role="projector", site="projector_fc2", bias=True)
