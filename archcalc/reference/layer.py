"""A decoder layer, step by step, and the layer of a multi-token prediction module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.attention import Attention, Pass
from archcalc.reference.depth import sources_of
from archcalc.reference.factory import Factory
from archcalc.reference.kernels.dropout import dropped
from archcalc.reference.kernels.recompute import Region, checkpointed
from archcalc.reference.patterns import LayerKind, Step

MakeNorm = Callable[[str], nn.Module]
"""A norm over the hidden size, by its kind's name."""

RESIDUALS = {"attention": "self_attention_res", "ffn": "mlp_res"}
"""Modules that weigh the sources of a step's input, without `_norm` and `_proj`, by Kimi K3's names."""


class DecoderLayer(nn.Module):
    """Residual steps: x + mixer(norm x), or with the norm behind the mixer, around it, or nowhere.

    The region `layernorm` is each norm before a mixer (Megatron-LM's input and pre-MLP norm), and none behind one;
    `full` is all of the layer.

    Args:
        kind: the steps.
        mixers: the attention or feed-forward module of each.
        norms: makes the norms.
        slot: place of the first attention in the cache; others follow.
        make: says what is recomputed.

    Attributes:
        number: which layer it is, from 0; of consequence where residuals are attended to.

    Raises:
        InputError: a part with the name of something that every module has.
    """

    number: int = 0

    def __init__(self, kind: LayerKind, mixers: Sequence[nn.Module], norms: MakeNorm, slot: int, make: Factory) -> None:
        super().__init__()
        self.recompute, self.recompute_norms = make.recomputes("full"), make.recomputes("layernorm")
        self._dropout = make.options.hidden_dropout
        self._kind = kind
        self._slots: dict[str, int] = {}
        for step, mixer in zip(kind, mixers, strict=True):
            if step.input_norm is not None:
                self._add(step.input_norm, norms(step.norm))
            self._add(step.scope, mixer)
            if step.output_norm is not None:
                self._add(step.output_norm, norms(step.norm))
            if isinstance(mixer, Attention):
                self._slots[step.scope] = slot + len(self._slots)

    def _add(self, name: str, part: nn.Module) -> None:
        if "." in name or not name or hasattr(self, name):
            raise InputError(f"a part of a layer can't be called {name!r}", value=name)
        self.add_module(name, part)

    def attentions(self) -> Iterator[Attention]:
        """The attention modules in running order."""
        for scope in self._slots:
            part = self.get_submodule(scope)
            assert isinstance(part, Attention)
            yield part

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        """[B,N,W] -> [B,N,W]."""
        left = () if now.blocks is None else (now.blocks.outputs,)
        out = checkpointed(self.recompute, lambda x, *blocks: self._steps(x, now, *blocks), x, *left)
        picked = [now.picked[slot] for slot in self._slots.values() if slot in now.picked]
        handed: Tensor = _Handed.apply(out, *picked) if self.recompute and now.shares and picked else out
        return handed

    def attend_to_residuals(self, hidden: int, eps: float, make: Factory) -> None:
        """Give each step what weighs the sources of its input.

        Raises:
            InputError: steps other than an attention, then a feed-forward.
        """
        if [step.side for step in self._kind] != ["attention", "ffn"] or self._kind[1].parallel:
            raise InputError("attn_res_block_size: a layer is an attention, then a feed-forward")
        for prefix in RESIDUALS.values():
            norm, sources = sources_of(hidden, eps, make)
            self._add(f"{prefix}_norm", norm)
            self._add(f"{prefix}_proj", sources)

    def _source(self, x: Tensor, step: Step, now: Pass, blocks: tuple[Tensor, ...]) -> Tensor:
        """What a step reads: the residual, or what it makes of it and of the blocks' outputs."""
        if now.blocks is None:
            return x
        before = self.number if step.side == "ffn" else self.number - 1  # the last layer whose note it sees
        prefix, filled = RESIDUALS[step.side], before // now.blocks.size + 1
        norm, sources = self.get_submodule(f"{prefix}_norm"), self.get_submodule(f"{prefix}_proj")
        out: Tensor = sources(x, *blocks, filled, norm)
        return out

    def _steps(self, x: Tensor, now: Pass, *blocks: Tensor) -> Tensor:
        read = given = x  # the residual that a step reads, and what its mixer is given
        begins = now.blocks is not None and self.number % now.blocks.size == 0
        normed: Region | None = None
        for step, then in zip(self._kind, (*self._kind[1:], None), strict=True):
            read = read if step.parallel else self._source(x, step, now, blocks)
            if step.input_norm is not None:
                normed = Region(self.get_submodule(step.input_norm), active=self.recompute_norms)
                given = normed(read)
            elif not step.shares:
                given = read
            mixer = self.get_submodule(step.scope)
            if step.side == "attention":
                out = mixer(given, now.angles.get(step.name), now, self._slots[step.scope])
            else:
                out = mixer(given)
            if normed is not None and (then is None or not then.shares):
                normed.discard_after(out)  # the last mixer that was given it: in backward, the first
                normed = None
            out = out if step.output_norm is None else self.get_submodule(step.output_norm)(out)
            out = dropped(out, self._dropout)
            x = out if begins and step is self._kind[0] else x + out
        return x


class _Handed(torch.autograd.Function):
    """Beside its input what an indexer picked: the next layer's checkpoint keeps it, and it is this layer's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *picked: Tensor) -> Tensor:
        ctx.save_for_backward(*picked)
        ctx.set_materialize_grads(False)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return (gradient, *(None for _ in ctx.saved_tensors))


class SharedHead(nn.Module):
    """What a prediction module has before the main model's head: its own norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm


class PredictionLayer(DecoderLayer):
    """A multi-token prediction module (DeepSeek-V3, arXiv:2412.19437, section 2.2); embedding and head are
    the main model's.

    Args:
        hidden: features of the residual.
        norm: kind of its own three norms.
    """

    def __init__(
        self,
        kind: LayerKind,
        mixers: Sequence[nn.Module],
        norms: MakeNorm,
        slot: int,
        make: Factory,
        *,
        hidden: int,
        norm: str,
    ) -> None:
        super().__init__(kind, mixers, norms, slot, make)
        self._add("enorm", norms(norm))
        self._add("hnorm", norms(norm))
        self._add("eh_proj", make.linear(2 * hidden, hidden))
        self._add("shared_head", SharedHead(norms(norm)))

    def joined(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """Embedded tokens and the main model's hidden states, both [B,N,W] -> what the layer reads, [B,N,W]."""
        enorm, hnorm = self.get_submodule("enorm"), self.get_submodule("hnorm")
        out: Tensor = self.get_submodule("eh_proj")(torch.cat((enorm(embedded), hnorm(hidden)), dim=-1))
        return out
