"""The kinds of plots, each asked with plain arguments: by the command line and from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from archcalc.documents.sweep.cases import Model, Range, cases, span
from archcalc.documents.sweep.figure import Figure
from archcalc.errors import InputError

Ends = tuple[int, int]
"""The first and the last length of a range [tokens]."""


def memory(
    several: Sequence[Model],
    *,
    context: Ends | None = None,
    batch: Sequence[int] = (1,),
    kv_dtype: Sequence[str] = ("bf16",),
    gpu: Sequence[str] = (),
    plan: Sequence[str] = (),
    set: Sequence[str] = (),
    **flags: Any,
) -> Figure:
    """Memory of each device: of serving against context, `flags` as of `serve`; with plans, of training against
    sequence length, and none of `flags` is looked at. Raises InputError."""
    if plan:
        return _trained(several, plan, set, context)
    from archcalc.documents.sweep.memory import memory_figure

    return memory_figure(cases(several, kv_dtype, batch), _range(several, context), gpu, **flags)


def kv(
    several: Sequence[Model],
    *,
    context: Ends | None = None,
    batch: Sequence[int] = (1,),
    kv_dtype: Sequence[str] = ("bf16",),
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    dcp: int = 1,
    block_size: int = 1,
) -> Figure:
    """KV cache of each device against context. Raises InputError."""
    from archcalc.calc.kv_cache import Mesh
    from archcalc.documents.sweep.kv import kv_figure

    mesh = Mesh(tp=tp, pp=pp, dp=dp, dcp=dcp, block_size=block_size)
    return kv_figure(cases(several, kv_dtype, batch), _range(several, context), mesh)


def flops(several: Sequence[Model], *, context: Ends | None = None, batch: Sequence[int] = (1,)) -> Figure:
    """FLOPs of a prefill against its length. Raises InputError."""
    from archcalc.documents.sweep.flops import flops_figure

    return flops_figure(cases(several, ("",), batch), _range(several, context))


def train(several: Sequence[Model], *, plan: Sequence[str], set: Sequence[str] = ()) -> Figure:
    """Training memory of every pipeline rank under each plan. Raises InputError."""
    from archcalc.documents.sweep.training import train_figure, trainings

    return train_figure(trainings(several, plan, tuple(set)))


KINDS: Mapping[str, Callable[..., Figure]] = MappingProxyType(
    {"memory": memory, "kv": kv, "flops": flops, "train": train}
)
"""What can be drawn, by its name."""


def check_trained(extra: Sequence[str], *, planned: bool = True) -> None:
    """Raises InputError for what `memory` does not look at beside a plan, or without one; by the names that it was
    given under."""
    named = ", ".join(extra)
    if extra and not planned:
        raise InputError(f"{named} overrides a field of a plan", hint="add --plan k2-pretrain, or a plan file")
    if extra:
        hint = f"leave out --plan, or {named}"
        raise InputError(f"plot memory --plan draws training memory, and does not look at {named}", hint=hint)


def _trained(several: Sequence[Model], plans: Sequence[str], overrides: Sequence[str], context: Ends | None) -> Figure:
    """From a quarter of the plans' sequence to eight times it, unless a range is given."""
    from archcalc.documents.sweep.training import training_memory_figure, trainings

    found = trainings(several, plans, tuple(overrides))
    seqs = [training.plan.batch.seq for training in found]
    return training_memory_figure(found, span(*(context or (max(1, min(seqs) // 4), 8 * max(seqs)))))


def _range(several: Sequence[Model], context: Ends | None) -> Range:
    """From 4k, or less for a short model, to the longest model's limit, unless a range is given."""
    limit = max(model.spec.backbone.max_position_embeddings for model in several)
    return span(*(context or (min(4096, max(1, limit // 16)), limit)))
