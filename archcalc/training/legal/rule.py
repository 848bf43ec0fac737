"""What a rule of training plans is, and what it sees: a plan, sizes of a model, and the stack that would run it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from archcalc.tape import Dims, Tape
from archcalc.training.fp8 import multiplies

if TYPE_CHECKING:
    from archcalc.training.plan import Plan
    from archcalc.training.stack import Stack

ARGUMENTS = "Megatron-LM training/arguments.py, validate_args"
CONFIG = "Megatron-LM core/transformer/transformer_config.py, __post_init__"
"""Sources of many rules."""

Key = tuple[str, ...]
"""A key of a plan by its path."""


class Facts(NamedTuple):
    """Sizes of a model that decide whether a plan can run it; none depends on the plan.

    Attributes:
        layers: of the backbone.
        mtp: modules of multi-token prediction.
        dims: every size of a weight that devices may divide, each once.
        exchanged: heads that attention hands on between context-parallel devices.
        experts: routed experts of a layer, and how many a token picks; None without any.
        expert_bias: whether matrices of routed experts have biases.
        linears: output and input dims of the matrices that may multiply in FP8, each pair of sizes once.
        sites: of the backbone's operations.
        windowed: whether attention of a layer sees a window of tokens only.
        tied: whether the head is the embedding's matrix.
    """

    layers: int
    mtp: int
    dims: Dims
    exchanged: Dims
    experts: tuple[int, int] | None
    expert_bias: bool
    linears: tuple[tuple[Dims, Dims], ...]
    sites: frozenset[str]
    windowed: bool
    tied: bool


@lru_cache(maxsize=64)
def facts_of(tape: Tape) -> Facts:
    """The facts of a model. Batch and length of the tape don't matter; a tape is known by its identity."""
    weights = tape.weights()
    segments = [s for s in tape.segments if s.part == "backbone"]
    ops = [op for s in segments for op in s.ops]
    dims = {(d.name, d.size, d.axis): d for w in weights for d in (*w.stack, *w.out, *w.into) if d.axis}
    exchanged = [d for op in ops if op.exchange == "context" for d in op.inputs[0].features if d.axis == "heads"]
    linears = [op.weights[0] for s in tape.segments for op in s.ops if multiplies(op)]
    routed = next((w for w in weights if w.active is not None), None)
    return Facts(
        layers=sum(len(s.indices) for s in segments),
        mtp=sum(s.count for s in tape.segments if s.part == "mtp"),
        dims=tuple(dims.values()),
        exchanged=tuple({(d.name, d.size): d for d in exchanged}.values()),
        experts=None if routed is None or routed.active is None else (routed.stack[0].size, routed.active.size),
        expert_bias=any(w.stack and not w.into for w in weights),
        linears=tuple({(_sizes(w.out), _sizes(w.into)): (w.out, w.into) for w in linears}.values()),
        sites=frozenset(op.site for op in ops),
        windowed=any(op.span is not None and op.span.kind == "window" for op in ops),
        tied=not any(w.role == "head" for w in weights),
    )


def _sizes(dims: Dims) -> tuple[tuple[int, str | None], ...]:
    return tuple((d.size, d.axis) for d in dims)


class Case(NamedTuple):
    """What rules look at. Where there is no model, or no stack, the rules that need one don't ask."""

    plan: Plan
    model: Facts | None
    stack: Stack | None

    @property
    def facts(self) -> Facts:
        """The model, of a rule that needs one."""
        assert self.model is not None
        return self.model


class Found(NamedTuple):
    """What a rule has against a plan: why, the keys it is about (the first is to blame), and what to do."""

    message: str
    keys: tuple[Key, ...]
    hint: str | None = None
    value: object = None


class Rule(NamedTuple):
    """One reason to refuse a plan.

    Attributes:
        name: short, unique.
        about: what is refused, for readers.
        source: where the real software refuses it, or why it can't be counted.
        find: what is wrong with a case, or None. It may rely on the rules of the mesh to hold.
        stacks: frameworks that refuse it, as stacks name them; empty: whoever runs it.
        model: whether it needs the model.
    """

    name: str
    about: str
    source: str
    find: Callable[[Case], Found | None]
    stacks: tuple[str, ...] = ()
    model: bool = False


def key(path: str) -> Key:
    """A key by its path: `parallel.pp`."""
    return tuple(path.split("."))


def found(message: str, *paths: str, hint: str | None = None, value: object = None) -> Found:
    """What is wrong, the keys given as paths."""
    return Found(message, tuple(map(key, paths)), hint, value)


def dim_names(dims: Dims) -> str:
    """Sizes as a message names them: `hidden_size x heads`."""
    return " x ".join(d.name for d in dims)
