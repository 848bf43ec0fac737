"""ZB-H1 (zero bubble, arXiv:2401.10241, section 2.1): 1F1B with weight gradients held back."""

from .base import Pipeline, Schedule
from .patterns import Phases, alternate, single_chunk


class ZBH1(Schedule):
    """The warm-up of 1F1B; rank r holds r weight gradients back, to fill the end of the step with them.

    Alive at most: PP - r chunks, and of r more the share that weight gradients need. So no rank exceeds PP
    chunks.
    """

    kind = "zb-h1"
    splits_backward = True

    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        forwards, inputs, weights = (single_chunk(kind, pipeline.micro_batches) for kind in ("F", "I", "W"))
        warmup = pipeline.pp - 1 - rank
        return alternate(forwards, inputs, warmup=warmup, weights=weights, delay=rank)
