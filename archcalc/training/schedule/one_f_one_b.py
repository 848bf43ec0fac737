"""1F1B (PipeDream-Flush, arXiv:2006.09503): backwards start as soon as the first reaches a rank."""

from .base import Pipeline, Schedule
from .patterns import Phases, alternate, single_chunk


class OneFOneB(Schedule):
    """Rank r warms up with PP - 1 - r forwards, so that min(PP - r, M) chunks are alive at most.

    Megatron-LM offers the extra warm-up with virtual stages only; here it means the same without them.
    """

    kind = "1f1b"
    takes_extra_warmup = True

    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        count = pipeline.micro_batches
        return alternate(single_chunk("F", count), single_chunk("B", count), warmup=self.warmup(pipeline, rank))

    def warmup(self, pipeline: Pipeline, rank: int) -> int:
        return pipeline.pp - 1 - rank + pipeline.extra_warmup
