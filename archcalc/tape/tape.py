"""The tape: the vocabulary of operations on top of the recorder."""

from __future__ import annotations

from archcalc.tape.ops.gating import GatingOperations
from archcalc.tape.ops.linear import LinearOperations
from archcalc.tape.ops.mixing import MixingOperations
from archcalc.tape.ops.pointwise import PointwiseOperations
from archcalc.tape.ops.residual import ResidualOperations


class Tape(LinearOperations, PointwiseOperations, MixingOperations, GatingOperations, ResidualOperations):
    """Recorder of one forward pass under a workload, with every operation that blocks are written in.

    In operations `name` is local to the open scope; `site` says where savers may act.
    """
