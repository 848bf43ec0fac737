"""Whether a plan is legal: refused where the real software refuses it, or where archcalc can't count it.

One list of rules (RULES), one function (`illegal`) that asks them. It is pure and cheap: a plan, a few sizes of a model
(`facts_of`) and the facts of a stack, no tape, no file and no exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from archcalc.training.legal.context import CONTEXT
from archcalc.training.legal.experts import EXPERTS
from archcalc.training.legal.fp8 import FP8
from archcalc.training.legal.fsdp import FSDP
from archcalc.training.legal.kept import KEPT
from archcalc.training.legal.mesh import DIVIDING, MESH
from archcalc.training.legal.pipeline import PIPELINE
from archcalc.training.legal.rule import Case, Facts, Key, Rule, facts_of
from archcalc.training.legal.states import STATES

if TYPE_CHECKING:
    from archcalc.training.plan import Plan
    from archcalc.training.stack import Stack

STAGES: tuple[tuple[Rule, ...], ...] = (MESH, (*DIVIDING, *CONTEXT, *EXPERTS), (*FSDP, *STATES, *KEPT, *FP8, *PIPELINE))
"""Rules in the order that they are asked: those of a stage rely on the stages before."""

RULES: tuple[Rule, ...] = tuple(rule for stage in STAGES for rule in stage)


class Refusal(NamedTuple):
    """Why a plan is refused.

    Attributes:
        reason: what is wrong; where a stack refuses, with that stack's source.
        source: where the real software refuses it, or why it can't be counted.
        keys: of the plan, the one to blame first.
        hint: what to do, or None.
        value: the offending value, if there is one.
        rule: the name of the rule.
    """

    reason: str
    source: str
    keys: tuple[Key, ...]
    hint: str | None
    value: object
    rule: str


def illegal(plan: Plan, model: Facts | None = None, stack: Stack | None = None) -> tuple[Refusal, ...]:
    """Why a plan can't run; empty for a legal one.

    Args:
        plan: with its stack's facts filled in (`settled`), where it has a stack.
        model: what the plan is to run; without it only the plan itself is looked at.
        stack: the plan's, whose framework adds rules of its own; without it those of all frameworks hold.
    """
    framework = None if stack is None else stack.framework
    case = Case(plan, model, stack)
    refused: list[Refusal] = []
    for stage in STAGES:
        for rule in stage:
            if (rule.stacks and framework not in rule.stacks) or (rule.model and model is None):
                continue
            what = rule.find(case)
            if what is not None:
                refused.append(_refusal(rule, *what))
        if refused:
            break
    return tuple(refused)


def _refusal(rule: Rule, message: str, keys: tuple[Key, ...], hint: str | None, value: object) -> Refusal:
    if rule.stacks:
        message, keys = f"{message} ({rule.source})", (*keys, ("stack",))
    return Refusal(message, rule.source, keys, hint, value, rule.name)


__all__ = ["RULES", "Facts", "Refusal", "Rule", "facts_of", "illegal"]
