"""DualPipeV (github.com/deepseek-ai/DualPipe): DualPipe cut in half, a V in which nothing is held twice."""

from archcalc.errors import InputError

from .base import Pipeline, VShaped
from .patterns import Phases, two_way


class DualPipeV(VShaped):
    """2 PP + 1 chunks, each half a rank's layers, are alive on every rank at most.

    DeepSeek's own table counts stages, 2 PP here, as PP: its "PP/2 devices, PP + 1 activations" are these.
    """

    kind = "dualpipe-v"
    splits_backward = True

    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        return two_way(pipeline.pp, rank, pipeline.micro_batches)

    def validate(self, pipeline: Pipeline) -> None:
        super().validate(pipeline)
        if pipeline.micro_batches < 2 * pipeline.pp:
            raise InputError(
                f"dualpipe-v needs as many micro-batches as stages, {2 * pipeline.pp}; "
                f"there are {pipeline.micro_batches}",
                value=pipeline.micro_batches,
                hint="raise the global batch, or lower pp",
            )
