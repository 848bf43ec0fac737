"""FLOPs of transformers' own classes: torch's counter on a run of the text model on meta."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.reference.flopcount import ModuleFlops
from archcalc.reference.guards import Rules, TwinError, refuse_zero
from archcalc.reference.hf import Public, parts
from archcalc.reference.hf_names import checkpoint_path

TOWERS = ("vision_tower.", "mm_projector.", "visual.", "model.visual.", "transformers:model.visual.")


class Unrunnable(Exception):
    """The class does not run on meta with these sizes."""


def flops(built: Public, *, seq: int, batch: int = 1) -> dict[str, int]:
    """Forward FLOPs of the text backbone and head, bf16, full attention scores: module path -> FLOPs.

    Paths are those of `archcalc.reference.flops`, but transformers runs the routed experts of a layer in one
    module, gate and up fused: they share the path `...mlp.experts.*`. Its eager attention multiplies every pair and
    masks what a sliding window or an indexer leaves out: cores agree as long as `seq` is no more than either allows.

    Args:
        built: from `hf.build`, on meta.
        seq: new text tokens of each sequence.
        batch: sequences.

    Raises:
        TwinError: when a part counts no FLOPs, or torch runs a product that it has no rule for.
        Unrunnable: when the class fails.
    """
    running = {part: path for path, part in parts(built) if not path.startswith(TOWERS)}
    convs: list[int] = []

    def convolution(x: Tensor, weight: Tensor, *_: object, **__: object) -> int:
        """Kept apart: a layer's runs outside its module."""
        convs.append(conv_flops(x, weight))
        return 0

    rules: Rules = {torch.ops.aten._grouped_mm: grouped_mm_flops, torch.ops.aten.convolution: convolution}
    with ModuleFlops(running, rules) as counted:
        run(built, seq=seq, batch=batch, use_cache=False)
    found = counted.forward | _by_layer(built, convs)
    refuse_zero(found, "forward")
    return found


def run(built: Public, *, seq: int, batch: int, use_cache: bool) -> object:
    """The text model's output for so many new tokens. Raises Unrunnable where the class fails."""
    ids = torch.zeros(batch, seq, dtype=torch.long, device="meta")
    mask = torch.zeros(batch, 1, seq, seq, dtype=torch.bfloat16, device="meta")  # transformers' own needs data to make
    try:
        with torch.no_grad():
            return built.model(input_ids=ids, attention_mask=mask, use_cache=use_cache)
    except TwinError:
        raise
    except Exception as error:  # a class may raise anything at a size
        raise Unrunnable(" ".join(f"{type(error).__name__}: {error}".split())) from error


def _by_layer(built: Public, convs: list[int]) -> dict[str, int]:
    """The convolutions that ran, in order, by the modules that hold their weights, in order."""
    names = [name for name, module in built.model.named_modules() if isinstance(module, nn.Conv1d)]
    if len(names) != len(convs):
        raise TwinError(f"{len(convs)} convolutions ran, and the class holds {len(names)}")
    paths = [checkpoint_path(f"{name}.weight", built.model_type).removesuffix(".weight") for name in names]
    return dict(zip(paths, convs, strict=True))


def grouped_mm_flops(rows: Tensor, stack: Tensor, *_: object, **__: object) -> int:
    """FLOPs of `_grouped_mm` for rows [R, k] sorted by group and a stack of [groups, k, n]: every row meets
    one matrix.

    Raises:
        ValueError: for other operand shapes, which only the backward pass has.
    """
    if rows.dim() != 2 or stack.dim() != 3:
        raise ValueError(f"no rule for grouped_mm of {tuple(rows.shape)} by {tuple(stack.shape)}")
    return 2 * rows.shape[0] * rows.shape[1] * stack.shape[2]


def conv_flops(x: Tensor, weight: Tensor, *_: object, **__: object) -> int:
    """FLOPs of a causal convolution of channels [B, C, N] each on its own by [C, 1, K] taps: every column that goes in
    is one that is kept. transformers pads both ends and cuts the last K - 1 columns off again.

    Raises:
        ValueError: for any other convolution, which a text model has not.
    """
    if x.dim() != 3 or weight.shape[:2] != (x.shape[1], 1):
        raise ValueError(f"no rule for a convolution of {tuple(x.shape)} by {tuple(weight.shape)}")
    return 2 * x.numel() * weight.shape[2]
