"""Routed experts that stay in the host's memory: what that takes there, and what a decoded token has to read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from archcalc.calc.weights import Scheme
from archcalc.errors import InputError
from archcalc.serving.overhead import Load
from archcalc.tape import Weight, product


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What stays in the host's memory.

    Attributes:
        layers: whose routed experts stay there: the first ones that have any (llama.cpp, --n-cpu-moe).
        nbytes: all of their experts [bytes].
        token_bytes: of the experts that one token is sent to: what a decoded token reads [bytes].
        step_bytes: what a decode step of the load's sequences reads, where each is sent to any experts alike [bytes].
        sequences: of that step.
    """

    layers: frozenset[int]
    nbytes: int
    token_bytes: int
    step_bytes: int
    sequences: int

    def left(self, w: Weight) -> Weight | None:
        """What of a weight is on devices."""
        if not _routed(w):
            return w
        kept = tuple(i for i in w.indices if i not in self.layers)
        return w.replace(indices=kept) if kept else None

    def tokens_per_second(self, bandwidth: int) -> Fraction:
        """The most tokens a second that a bandwidth allows, reading alone [1/s]."""
        return Fraction(bandwidth * self.sequences, self.step_bytes)


def offloaded(weights: Iterable[Weight], scheme: Scheme, load: Load) -> Host:
    """The experts of the first `load.offloaded` layers that have any; of all of them for None.

    A step of B sequences reads E·(1 - (1 - k/E)^B) of E experts, k to each token. Raises InputError for a model
    without experts, or for more layers than have them.
    """
    experts = [w for w in weights if _routed(w)]
    having = sorted({i for w in experts for i in w.indices})
    if not having:
        raise InputError("this model has no routed experts to keep in the host's memory", hint="leave out the option")
    if load.offloaded is not None and load.offloaded > len(having):
        raise InputError(
            f"only {len(having)} layers have routed experts, not {load.offloaded}",
            value=load.offloaded,
            hint="--offload-experts host keeps all of them there",
        )
    layers = frozenset(having if load.offloaded is None else having[: load.offloaded])
    total, token, step = 0, 0, Fraction(0)
    for w in experts:
        here = sum(i in layers for i in w.indices)
        each = here * sum(t.nbytes for t in scheme(w))
        count, active = product(w.stack), 1 if w.active is None else w.active.size
        total += each * count
        token += each * active
        step += each * count * (1 - Fraction(count - active, count) ** min(load.batch, 4096))
    return Host(layers=layers, nbytes=total, token_bytes=token, step_bytes=ceil(step), sequences=load.batch)


def _routed(w: Weight) -> bool:
    return any(d.axis == "experts" for d in w.stack)
