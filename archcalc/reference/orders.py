"""The orders of torch's own pipeline schedules: an opinion independent of archcalc.training.schedule.

torch.distributed.pipelining lays out the order of all ranks when a schedule is built, from nothing but sizes.
Stages stand in for real ones here, so neither a model nor a process group is needed. Source:
torch/distributed/pipelining/schedules.py, read in torch 2.13; what is private there may change.
"""

import logging
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch.distributed.pipelining import schedules

from archcalc.errors import InputError

Action = tuple[str, int, int]  # F, B, I or W; stage; micro-batch

_CLASSES = {
    "interleaved-1f1b": "ScheduleInterleaved1F1B",
    "interleaved-zb": "ScheduleInterleavedZeroBubble",
    "zb-v": "ScheduleZBVZeroBubble",
    "dualpipe-v": "ScheduleDualPipeV",
}
_V_SHAPED = {"zb-v", "dualpipe-v"}

KINDS = tuple(kind for kind, name in _CLASSES.items() if hasattr(schedules, name))
"""What torch_order knows with this torch. interleaved-zb is ZB1P with virtual stages."""


def torch_order(kind: str, pp: int, vpp: int, micro_batches: int) -> dict[int, list[Action]]:
    """torch's order for each rank: (F, B, I or W; stage; micro-batch).

    Where torch overlaps a forward and a backward, the forward comes first. interleaved-1f1b takes
    micro-batches in groups of M / max(1, M // pp) here. Raises InputError for an unknown kind, and for what
    torch refuses.
    """
    if kind not in KINDS:
        raise InputError(f"torch {torch.__version__} has no {kind!r}", value=kind, hint="one of " + ", ".join(KINDS))
    last = pp * vpp - 1
    first_rank = [last if kind in _V_SHAPED and chunk else chunk * pp for chunk in range(vpp)]
    stages = [_stage(index, last=last, pp=pp) for index in first_rank]
    logging.getLogger(schedules.__name__).setLevel(logging.WARNING)
    try:
        built = getattr(schedules, _CLASSES[kind])(stages, micro_batches)
    except ValueError as refusal:
        raise InputError(
            f"torch refuses {kind} with pp {pp}, vpp {vpp}, {micro_batches} micro-batches: {refusal}"
        ) from None
    return {rank: list(_flat(actions)) for rank, actions in built.pipeline_order.items()}


def _stage(index: int, *, last: int, pp: int) -> SimpleNamespace:
    """A stage of rank 0 with what torch reads to lay out orders; it does so for all ranks on each of them."""
    return SimpleNamespace(
        stage_index=index,
        num_stages=last + 1,
        group_rank=0,
        group_size=pp,
        submod=None,
        is_first=index == 0,
        is_last=index == last,
        has_backward=True,
    )


def _flat(actions: Iterable[Any]) -> Iterator[Action]:
    """The actions in order, without gaps, overlapped pairs taken apart."""
    for action in actions:
        if action is None:
            continue
        if pair := getattr(action, "sub_actions", None):
            yield from _flat(pair)
        else:
            yield action.computation_type.value, action.stage_index, action.microbatch_index
