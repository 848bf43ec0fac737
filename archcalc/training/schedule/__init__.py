"""Pipeline schedules, one a file, and what follows from their order: the chunks alive."""

from archcalc.errors import InputError, did_you_mean

from .base import Op, Pipeline, Schedule
from .dualpipe import DualPipe
from .dualpipe_v import DualPipeV
from .ended import ended_states
from .gpipe import GPipe
from .interleaved import Interleaved1F1B
from .live import State, all_states, live_states, most_live
from .one_f_one_b import OneFOneB
from .patterns import OpKind
from .zb_h1 import ZBH1
from .zb_h2 import ZBH2
from .zb_v import ZBV

SCHEDULES: dict[str, Schedule] = {
    "gpipe": GPipe(),
    "1f1b": OneFOneB(),
    "interleaved-1f1b": Interleaved1F1B(),
    "zb-h1": ZBH1(),
    "zb-h2": ZBH2(),
    "zb-v": ZBV(),
    "dualpipe": DualPipe(),
    "dualpipe-v": DualPipeV(),
}


def get_schedule(kind: str) -> Schedule:
    """The schedule of this name. Raises InputError for a name that there is not."""
    if kind in SCHEDULES:
        return SCHEDULES[kind]
    hint = did_you_mean(kind, SCHEDULES) or "one of " + ", ".join(SCHEDULES)
    raise InputError(f"there is no pipeline schedule {kind!r}", value=kind, hint=hint)


__all__ = [
    "SCHEDULES",
    "Op",
    "OpKind",
    "Pipeline",
    "Schedule",
    "State",
    "all_states",
    "ended_states",
    "get_schedule",
    "live_states",
    "most_live",
]
