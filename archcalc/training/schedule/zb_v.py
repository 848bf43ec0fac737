"""ZB-V (arXiv:2401.10241, section 6; pipeline parallelism with controllable memory, arXiv:2405.15362): no
bubble at the activations of 1F1B, with two chunks a rank laid out as a V, if F, I and W take equally long."""

from .base import Pipeline, VShaped
from .patterns import Phases, up_to, written


class ZBV(VShaped):
    """At most 2 PP chunks, each half a rank's layers, are alive on every rank.

    A chunk is as long as half a rank's share of the model, so this is the PP chunks of 1F1B's first rank.
    """

    kind = "zb-v"
    splits_backward = True

    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        below = pipeline.pp - 1 - rank
        count = max(pipeline.micro_batches, 2 * pipeline.pp - 1)  # a shorter step is a longer one with gaps
        found = written(
            (2 * below + 1, "F0"),
            (rank, "F1 F0"),
            (below + 1, "F1 I1 W1"),
            (count - pipeline.pp - below, "F0 I0 W0 F1 I1 W1"),
            (below, "I0 W0 F1 I1 W1"),
            (rank, "I0 I1"),
            (below + 1, "I0 W0"),
            (rank, "W1"),
            (rank, "W0"),
        )
        return found if count == pipeline.micro_batches else up_to(found, pipeline.micro_batches)
