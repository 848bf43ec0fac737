"""ZB-H2 (zero bubble, arXiv:2401.10241, section 2.2): no bubble, for twice the activations."""

from .base import Pipeline, Schedule
from .patterns import Phases, alternate, single_chunk


class ZBH2(Schedule):
    """Twice the warm-up of 1F1B, which fills the wait for the first backward; weight gradients fill all later
    ones.

    Alive at most, from 2 PP - 1 micro-batches on: 2 (PP - r) - 1 chunks, and the weight gradients' share of 2
    r more.
    """

    kind = "zb-h2"
    splits_backward = True

    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        forwards, inputs, weights = (single_chunk(kind, pipeline.micro_batches) for kind in ("F", "I", "W"))
        warmup = 2 * (pipeline.pp - 1 - rank)
        return alternate(forwards, inputs, warmup=warmup, weights=weights, delay=2 * rank)
