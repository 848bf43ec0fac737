"""Token rows of the backbone, from the workload: new rows, key rows, and the pairs that attention scores."""

from __future__ import annotations

from archcalc.tape import Dim, Dims, Number, Tape, Term


def new_rows(tape: Tape) -> Dims:
    """[batch, seq]: the new tokens, text and vision together."""
    return (Dim("batch", tape.workload.batch), Dim("seq", tape.seq, "seq"))


def key_rows(tape: Tape) -> Dims:
    """[batch, keys]: cached tokens and new ones."""
    batch, seq = new_rows(tape)
    if not tape.workload.context:
        return (batch, seq)
    return (batch, Dim("context", tape.workload.context) + seq)


def pairs(tape: Tape) -> Number:
    """Query-key pairs times FLOPs a multiply-add.

    n new tokens on c cached ones score n·(c+n) pairs. Causal masking lets half of the n·n own-block pairs count, so
    their
    coefficient is 1 instead of 2 and odd lengths stay exact; cached context is never halved.
    """
    batch, seq = new_rows(tape)
    own = Term(1 if tape.workload.attention == "causal" else 2, (batch, seq, seq))
    if not tape.workload.context:
        return (own,)
    return (own, Term(2, (batch, seq, Dim("context", tape.workload.context))))
