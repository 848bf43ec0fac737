"""DualPipe (DeepSeek-V3, arXiv:2412.19437, section 3.2.1): micro-batches enter at both ends of the ranks."""

from archcalc.errors import InputError

from .base import Pipeline, Schedule
from .patterns import Phase, Phases, two_way


class DualPipe(Schedule):
    """Rank r holds stages r and PP - 1 - r, so parameters and gradients are held twice. PP + 1 chunks are
    alive at most.

    Chunk 0 is stage r, for the micro-batches that enter at rank 0 (numbered 0, 2, 4, ...); chunk 1 is stage
    PP - 1 - r, for those that enter at the last rank (1, 3, 5, ...).
    """

    kind = "dualpipe"
    copies = 2
    splits_backward = True

    def stage(self, pp: int, rank: int, chunk: int) -> int:
        return rank if chunk == 0 else pp - 1 - rank

    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        near = min(rank, pipeline.pp - 1 - rank)  # ranks between this one and the end that is closer
        found = two_way(pipeline.pp // 2, near, pipeline.micro_batches // 2)
        if rank == near:
            return found
        # From the middle on the closer end is the last rank.
        return [Phase(times, tuple(step._replace(chunk=1 - step.chunk) for step in steps)) for times, steps in found]

    def micro_batch(self, chunk: int, nth: int) -> int:
        return 2 * nth + chunk

    def validate(self, pipeline: Pipeline) -> None:
        super().validate(pipeline)
        if pipeline.pp % 2:
            raise InputError(
                f"dualpipe pairs each rank with its mirror image, so pp must be even; it is {pipeline.pp}",
                value=pipeline.pp,
                hint="use an even pp, or dualpipe-v",
            )
        if pipeline.micro_batches % 2:
            raise InputError(
                "half the micro-batches enter at each end, so their number must be even; "
                f"it is {pipeline.micro_batches}",
                value=pipeline.micro_batches,
                hint="use an even number of micro-batches, or dualpipe-v",
            )
        if pipeline.micro_batches < 2 * pipeline.pp:
            raise InputError(
                f"dualpipe needs 2 pp = {2 * pipeline.pp} micro-batches; there are {pipeline.micro_batches}",
                value=pipeline.micro_batches,
                hint="raise the global batch, or lower pp",
            )
