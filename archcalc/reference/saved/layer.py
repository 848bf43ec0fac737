"""A decoder layer, and the bytes it keeps for backward.

    x = x + attention(norm(x));  x = x + ffn(norm(x))

or with other norms, steps and arrangements, as `archcalc.reference.patterns` reads them. The layer is charged its own
input: the first norm saves it, and the layer before doesn't.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.patterns import LayerKind, Step, plain_kind
from archcalc.reference.saved.attention import attention
from archcalc.reference.saved.counting import SavedStorage, saved_storages
from archcalc.reference.saved.ffn import ffn
from archcalc.reference.saved.modules import META, Norm, dtype_of, kind_of, owned
from archcalc.reference.saved.options import Core, Kernels, Options, RouterProbs
from archcalc.reference.saved.recompute import Region, checkpointed


class ResidualStep(nn.Module):
    """A mixer with its norms; how they are put together is the layer's business."""

    def __init__(self, section: Section, step: Step, rows: int, options: Options, device: torch.device) -> None:
        super().__init__()
        hidden = section.integer("hidden_size")
        self.parallel, self.shares = step.parallel, step.shares
        kind = None if step.input_norm is None and step.output_norm is None else kind_of(section, step.norm)
        before, after = (None if name is None else kind for name in (step.input_norm, step.output_norm))
        self.input_norm = None if before is None else Norm(hidden, before, options, device)
        chosen = section.section(step.side).section(step.name)
        if step.side == "attention":
            self.mixer = attention(chosen, section, rows, options, device)
        else:
            self.mixer = ffn(chosen, hidden, options, device)
        self.output_norm = None if after is None else Norm(hidden, after, options, device)


class DecoderLayer(nn.Module):
    """One layer of a backbone section.

    The option `layernorm` recomputes the norms before a mixer (Megatron-LM's input and pre-MLP norm), and not those
    behind one.

    Args:
        backbone: the section as `yaml.safe_load` or `Spec.model_dump()` gives it.
        kind: its steps.
        rows: tokens of one sequence.
        options: how it is run.
        device: meta for counting; cpu computes values and gradients, weights then are random.

    Raises:
        InputError: a key is missing or has a value that isn't known.
    """

    def __init__(
        self,
        backbone: Mapping[str, object],
        kind: LayerKind,
        *,
        rows: int,
        options: Options,
        device: torch.device = META,
    ) -> None:
        super().__init__()
        section = Section(backbone, "backbone")
        self.hidden = section.integer("hidden_size")
        names = options.recompute
        self.full, self.layernorm = "full" in names, "layernorm" in names
        self.steps = nn.ModuleList(ResidualStep(section, step, rows, options, device) for step in kind)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,hidden] -> the same; `full` keeps x alone."""
        return checkpointed(self.full, self._layer, x)

    def _layer(self, x: Tensor) -> Tensor:
        read = given = x  # the residual that a step reads, and what its mixer is given
        normed: Region | None = None
        for step, then in zip(self.steps, [*self.steps[1:], None], strict=True):
            read = read if step.parallel else x
            if step.input_norm is not None:
                normed = Region(step.input_norm, active=self.layernorm)
                given = normed(read)
            elif not step.shares:
                given = read
            out: Tensor = step.mixer(given)
            if normed is not None and (then is None or not then.shares):
                normed.discard_after(out)  # the last mixer that was given it: in backward, the first
                normed = None
            x = x + (out if step.output_norm is None else step.output_norm(out))
        return x


def kind_storages(
    backbone: Mapping[str, object], kind: LayerKind, *, tokens: int, batch: int = 1, options: Options
) -> list[SavedStorage]:
    """What one layer of this kind keeps, storage by storage in the order of the first save; see `layer_bytes`."""
    if batch < 1 or tokens < 1 or tokens % batch:
        raise InputError(f"{tokens} tokens can't be cut into {batch} equal sequences")
    dtype = dtype_of(Section(backbone, "backbone"))
    layer = DecoderLayer(backbone, kind, rows=tokens // batch, options=options).to(dtype)
    x = torch.empty(batch, tokens // batch, layer.hidden, dtype=dtype, device=META, requires_grad=True)
    return saved_storages(lambda: layer(x), owned(layer))


def layer_storages(
    backbone: Mapping[str, object],
    *,
    attention: str,
    ffn: str,
    tokens: int,
    batch: int = 1,
    options: Options,
) -> list[SavedStorage]:
    """What one decoder layer keeps, storage by storage in the order of the first save; see `layer_bytes`."""
    kind = plain_kind(Section(backbone, "backbone"), attention, ffn)
    return kind_storages(backbone, kind, tokens=tokens, batch=batch, options=options)


def layer_bytes(
    backbone: Mapping[str, object],
    *,
    attention: str,
    ffn: str,
    tokens: int,
    batch: int = 1,
    kernels: Kernels = "fused",
    core: Core = "flash",
    router_probs: RouterProbs = "act",
    recompute: frozenset[str] = frozenset(),
    fp8: frozenset[str] = frozenset(),
) -> int:
    """Bytes that one decoder layer keeps from its forward pass for its backward pass [bytes].

    Args:
        backbone: the spec's section as a plain mapping.
        attention: key in `backbone.attention`.
        ffn: key in `backbone.ffn`.
        tokens: all tokens of the micro-batch on this rank, `batch` equal sequences together.
        batch: sequences; only the `math` core's score matrix depends on it.
        kernels: see `Options`, as the rest.

    Raises:
        InputError: a key or a name isn't known, or `tokens` is no multiple of `batch`.
    """
    options = Options(kernels=kernels, core=core, router_probs=router_probs, recompute=recompute, fp8=fp8)
    storages = layer_storages(backbone, attention=attention, ffn=ffn, tokens=tokens, batch=batch, options=options)
    return sum(storage.bytes for storage in storages)
