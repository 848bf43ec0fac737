"""A decoder layer, and the bytes it keeps for backward.

    x = x + attention(norm(x));  x = x + ffn(norm(x))

The layer is charged its own input: the first norm saves it, and the layer before doesn't.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.saved.attention import attention
from archcalc.reference.saved.counting import SavedStorage, saved_storages
from archcalc.reference.saved.ffn import ffn
from archcalc.reference.saved.modules import META, Norm, dtype_of, owned
from archcalc.reference.saved.options import Core, Kernels, Options, RouterProbs
from archcalc.reference.saved.recompute import Region, checkpointed


class DecoderLayer(nn.Module):
    """One layer of a backbone section.

    Args:
        backbone: the section as `yaml.safe_load` or `Spec.model_dump()` gives it.
        attention_name: key in its `attention` section.
        ffn_name: key in its `ffn` section.
        rows: tokens of one sequence.
        options: how it is run.
        device: meta for counting; cpu computes values and gradients, weights then are random.

    Raises:
        InputError: a key is missing or has a value that isn't known.
    """

    def __init__(
        self,
        backbone: Mapping[str, object],
        *,
        attention_name: str,
        ffn_name: str,
        rows: int,
        options: Options,
        device: torch.device = META,
    ) -> None:
        super().__init__()
        section = Section(backbone, "backbone")
        self.hidden = section.integer("hidden_size")
        eps = section.number("rms_norm_eps", 1e-6)
        names = options.recompute
        self.full, self.layernorm = "full" in names, "layernorm" in names
        self.norm1 = Norm(self.hidden, eps, options, device)
        self.attention = attention(
            section.section("attention").section(attention_name), self.hidden, rows, options, device
        )
        self.norm2 = Norm(self.hidden, eps, options, device)
        self.ffn = ffn(section.section("ffn").section(ffn_name), self.hidden, options, device)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,hidden] -> the same; `full` keeps x alone."""
        return checkpointed(self.full, self._layer, x)

    def _layer(self, x: Tensor) -> Tensor:
        x = self._branch(x, self.norm1, self.attention)
        return self._branch(x, self.norm2, self.ffn)

    def _branch(self, x: Tensor, norm: Norm, block: nn.Module) -> Tensor:
        normed = Region(norm, active=self.layernorm)
        out: Tensor = block(normed(x))
        normed.discard_after(out)
        return x + out


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
    if batch < 1 or tokens < 1 or tokens % batch:
        raise InputError(f"{tokens} tokens can't be cut into {batch} equal sequences")
    dtype = dtype_of(Section(backbone, "backbone"))
    layer = DecoderLayer(backbone, attention_name=attention, ffn_name=ffn, rows=tokens // batch, options=options)
    layer = layer.to(dtype)
    x = torch.empty(batch, tokens // batch, layer.hidden, dtype=dtype, device=META, requires_grad=True)
    return saved_storages(lambda: layer(x), owned(layer))


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
