"""The mesh of one stage of a plan, as the calculators know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archcalc.calc.sharding import Shards

if TYPE_CHECKING:
    from archcalc.training.plan import Plan
    from archcalc.training.stack import Stack

VOCAB_DIVISIBLE_BY = 128
"""Megatron-LM pads the vocabulary to a multiple of this times tp (--make-vocab-size-divisible-by, training/tokenizer);
here only where tp does not divide it, unless the plan names a stack, which says how."""


def mesh_of(plan: Plan, stack: Stack | None = None) -> Shards:
    """The mesh of one stage, every expert as busy as the next."""
    p = plan.parallel
    return Shards(
        tp=p.tp,
        sp=p.sp,
        cp=p.cp,
        ep=p.ep,
        etp=p.etp,
        vocab_multiple=(VOCAB_DIVISIBLE_BY if stack is None else stack.vocabulary_multiple) * p.tp,
        vocab_always=stack is not None,
        ulysses=p.cp_comm == "a2a",
    )
