"""The patch merger: normalise, join a group's patches, two linear layers (Kimi K2.5's public
PatchMergerMLP)."""

from __future__ import annotations

from torch import Tensor, nn

from archcalc.reference.activations import ACTIVATIONS
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm


class PatchMerger(nn.Module):
    """Merged patches to backbone features.

    Args:
        section: the spec's `projector` section.
        group: patches of one group (2x2 = 4).
    """

    def __init__(self, section: Section, group: int, make: Factory) -> None:
        super().__init__()
        section.choice("kind", "patch_merger")
        features, out = section.integer("mm_hidden_size"), section.integer("text_hidden_size")
        eps, joined = section.number("projector_ln_eps", 1e-5), group * section.integer("mm_hidden_size")
        self.after_merge = section.flag("use_postshuffle_norm")
        normed = joined if self.after_merge else features
        self.pre_norm = Norm(NormKind(name="layer", eps=eps), normed, make)
        act = ACTIVATIONS[section.choice("projector_hidden_act", *ACTIVATIONS)]
        self.proj = nn.Sequential(make.linear(joined, joined, bias=True), act, make.linear(joined, out, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, patches of a group, features] -> [tokens, backbone features]."""
        joined = self.pre_norm(x.flatten(1)) if self.after_merge else self.pre_norm(x).flatten(1)
        out: Tensor = self.proj(joined)
        return out
