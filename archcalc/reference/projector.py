"""Projectors: normalise, join a group's patches, two linear layers (Kimi K2.5's public PatchMergerMLP, Qwen2-VL's
PatchMerger and Qwen3-VL's with those of earlier layers, LLaVA's without norm)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from archcalc.reference.activations import ACTIVATIONS
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm
from archcalc.reference.places import place
from archcalc.reference.tower import Projector


class PatchMerger(Projector):
    """Merged patches to backbone features. `patchmergerv2` (Kimi K3's PatchMergerMLPV2) has no biases, no norm before
    and an RMSNorm after the linears.

    Args:
        section: the spec's `projector` section.
        group: patches of one group (2x2 = 4).
    """

    def __init__(self, section: Section, group: int, make: Factory) -> None:
        super().__init__()
        section.choice("kind", "patch_merger")
        self.features, out = section.integer("mm_hidden_size"), section.integer("text_hidden_size")
        eps, joined = section.number("projector_ln_eps", 1e-5), group * self.features
        kinds = ("patchmerger", "patchmergerv2")
        second = section.choice("mm_projector_type", *kinds, default=kinds[0]) == kinds[1]
        self.after_merge = section.flag("use_postshuffle_norm")
        normed = joined if self.after_merge else self.features
        self.pre_norm = None if second else Norm(NormKind(name="layer", eps=eps), normed, make)
        self.post_norm = Norm(NormKind(name="rms", eps=eps), out, make) if second else None
        act, bias = ACTIVATIONS[section.choice("projector_hidden_act", *ACTIVATIONS)], not second
        self.proj = nn.Sequential(make.linear(joined, joined, bias=bias), act, make.linear(joined, out, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, patches of a group, features] -> [tokens, backbone features]."""
        if self.pre_norm is None:
            joined = x.flatten(1)
        else:
            joined = self.pre_norm(x.flatten(1)) if self.after_merge else self.pre_norm(x).flatten(1)
        out: Tensor = self.proj(joined)
        return out if self.post_norm is None else self.post_norm(out)

    def places(self) -> Mapping[str, nn.Module]:
        """All of it."""
        return {"mm_projector": self}

    def project(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The one level that there is."""
        (last,) = levels
        return [self(last)]


MODULES = {
    "qwen2_vl": ("ln_q", "mlp.0", "mlp.2"),
    "qwen3_vl": ("norm", "linear_fc1", "linear_fc2"),
    "llava": ("norm", "linear_1", "linear_2"),
}
"""Norm and linears, by the family whose public class names them so."""


class Merger(nn.Module):
    """norm, join, linear, activation, linear.

    Args:
        group: patches of one group.
        norm: its kind, or None.
        after_merge: whether it sees joined patches.
    """

    def __init__(self, section: Section, group: int, norm: NormKind | None, after_merge: bool, make: Factory) -> None:
        super().__init__()
        self._names = MODULES[section.choice("names", *MODULES)]
        features, inner = section.integer("mm_hidden_size"), section.integer("intermediate_size")
        joined, bias = group * features, section.flag("projector_bias")
        self.after_merge, self.normed = after_merge, norm is not None
        if norm is not None:
            place(self, self._names[0], Norm(norm, joined if after_merge else features, make))
        place(self, self._names[1], make.linear(joined, inner, bias=bias))
        place(self, self._names[2], make.linear(inner, section.integer("text_hidden_size"), bias=bias))
        self._act = ACTIVATIONS[section.choice("projector_hidden_act", *ACTIVATIONS)]

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, patches of a group, features] -> [tokens, backbone features]."""
        norm, first, second = self._names
        if self.after_merge:
            x = x.flatten(1)
        if self.normed:
            x = self.get_submodule(norm)(x)
        joined = x if self.after_merge else x.flatten(1)
        out: Tensor = self.get_submodule(second)(self._act(self.get_submodule(first)(joined)))
        return out


class Mergers(Projector):
    """A merger for the last layer's features, and, beside it, one for each earlier layer's, which normalise joined
    patches (transformers, models/qwen3_vl/modeling_qwen3_vl.py, `deepstack_merger_list`).

    Args:
        levels: how many layers hand on their features.
    """

    def __init__(self, section: Section, group: int, make: Factory, levels: int = 1) -> None:
        super().__init__()
        section.choice("kind", "merger")
        self.features, self.path = section.integer("mm_hidden_size"), section.word("prefix")
        kind = section.choice("norm", "layer", "rms") if section.has("norm") else None
        eps = section.number("projector_ln_eps") if kind else 0.0
        norm = None if kind is None else NormKind(name=kind, eps=eps)
        self.last = Merger(section, group, norm, False, make)
        deep = NormKind(name="layer", eps=eps)
        self.earlier = nn.ModuleList(Merger(section, group, deep, True, make) for _ in range(levels - 1))

    def places(self) -> Mapping[str, nn.Module]:
        """The last layer's merger, and the list of the others."""
        beside = ".".join((*self.path.split(".")[:-1], "deepstack_merger_list"))
        return {self.path: self.last, **({beside: self.earlier} if len(self.earlier) else {})}

    def project(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Each level with its own merger."""
        return [merger(level) for merger, level in zip((self.last, *self.earlier), levels, strict=True)]

    def pieces(self) -> Iterator[tuple[str, nn.Module]]:
        """Both sorts."""
        for path, module in self.places().items():
            yield (path, module) if module is self.last else (f"{path}.0", self.earlier[0])
