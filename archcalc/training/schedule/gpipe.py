"""GPipe (arXiv:1811.06965): all forwards, then all backwards."""

from .base import Pipeline, Schedule
from .patterns import Phases, alternate, single_chunk


class GPipe(Schedule):
    """Every micro-batch is alive at once, on every rank."""

    kind = "gpipe"

    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        count = pipeline.micro_batches
        return alternate(single_chunk("F", count), single_chunk("B", count), warmup=count)
