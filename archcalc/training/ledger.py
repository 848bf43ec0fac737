"""The ledger: what each memory saver of a plan buys, one lever at a time; and what uneven routing costs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import erf, exp, pi, sqrt
from typing import Any

from archcalc.calc.activations import Savers
from archcalc.calc.selective import kept_outputs
from archcalc.tape import Op, Segment, value
from archcalc.training.memory import one_layer_extra, training_memory, worst
from archcalc.training.run import Run
from archcalc.training.savers import FULL, RECOMPUTE, Lever


def ledger(run: Run) -> list[dict[str, Any]]:
    """From no savers to the plan. Each row adds one lever; `saved_bytes` is what it buys on the worst
    rank."""
    rows: list[dict[str, Any]] = []
    for n, lever in enumerate(run.levers):
        top = worst(training_memory(run.until(n)))
        before = rows[-1]["peak_bytes"] if rows else top.peak
        rows.append(
            {
                "path": lever.label,
                "lever": lever.label,
                "peak_bytes": top.peak,
                "saved_bytes": before - top.peak,
                "activation_bytes": top.activation,
                "transient_bytes": top.transient,
                "worst_rank": top.rank,
                "cost": lever_cost(run, lever),
            }
        )
    return rows


COSTS = {"none": "", "fp8": "storage only: a cast each way", "offload": "copies to the host and back: see offload"}
"""What savers that recompute nothing cost."""


def lever_cost(run: Run, lever: Lever) -> str:
    """What a lever costs, in words."""
    if lever.kind == "selective":
        return selective_cost(run, lever.savers)
    return recompute_cost(run, lever.option) if lever.kind == "recompute" else COSTS[lever.kind]


def recompute_cost(run: Run, option: str) -> str:
    """What recomputing costs: the region's share of the forward FLOPs of the rank that pays most."""
    if option == FULL:
        return _cost(run, lambda segment: set(segment.ops) if segment.indices else set())
    return _cost(run, lambda segment: {op for op in segment.ops if op.site in RECOMPUTE[option].sites})


def selective_cost(run: Run, savers: Savers) -> str:
    """The same of layers that keep what some kinds of operations put out."""

    def again(segment: Segment) -> set[Op]:
        kept = kept_outputs(segment, run.shards, savers.selective or frozenset(), savers.variants)
        return set(segment.ops) - {each.op for each in kept} if segment.indices else set()

    return _cost(run, again)


def _cost(run: Run, again: Callable[[Segment], set[Op]]) -> str:
    spent = whole = 0
    for rank in run.ranks:
        region = forward = 0
        for n, count in (piece for chunk in rank.chunks for piece in chunk):
            segment = run.tape.segments[n]
            recomputed = again(segment)
            for op in segment.ops:
                flops = count * value(op.flops)
                forward += flops
                region += flops if op in recomputed else 0
        spent, whole = max((spent, whole), (region, forward))
    return f"{100 * spent / whole:.1f} % more forward FLOPs" if spent else "elementwise work only, no GEMM"


def imbalances(run: Run) -> list[dict[str, Any]]:
    """Peak under uneven routing: as planned, the expectation of a random router, what-ifs, and the worst
    case: in every live micro-batch at once (no plan survives it), and in one layer of one (what crashes a
    run)."""
    sizes = next((w.stack[0].size, w.active.size) for w in run.tape.weights() if w.active is not None)
    most = worst_imbalance(*sizes, run.shards.ep)
    cases = [
        ("as planned", float(run.shards.imbalance)),
        ("a uniformly random router, expected", expected_imbalance(*sizes, run.shards.ep, run.tokens)),
        ("what if: 1.25 times the mean", 1.25),
        ("what if: twice the mean", 2.0),
        ("worst case always: every token picks this device's experts", most),
    ]
    rows = []
    for case, factor in cases:
        top = worst(training_memory(run.routed(Fraction(str(factor)))))
        rows.append(_imbalance(case, factor, top.activation, top.peak, top.rank))
    extra = one_layer_extra(run, most)
    top = max(training_memory(run), key=lambda r: (r.running, -r.rank))
    peak = max(top.peak, run.fragmented(top.running + extra))
    rows.append(_imbalance("worst case once: in one layer of one micro-batch", most, top.activation, peak, top.rank))
    return rows


def _imbalance(case: str, factor: float, activation: int, peak: int, rank: int) -> dict[str, Any]:
    return {
        "path": case,
        "case": case,
        "imbalance": factor,
        "activation_bytes": activation,
        "peak_bytes": peak,
        "worst_rank": rank,
    }


def expected_imbalance(experts: int, top_k: int, ep: int, tokens: int) -> float:
    """Busiest device over the mean when every token of `ep` devices picks `top_k` of `experts` uniformly.

    Rows of one device are sums over tokens of hypergeometric picks: variance N·k·q·(1-q)·(E-k)/(E-1), q =
    1/ep, N = ep·tokens, near normal; the factor is the expectation of the largest of ep normal values.
    """
    if ep == 1:
        return 1.0
    q, n = 1 / ep, ep * tokens
    sd = sqrt(n * top_k * q * (1 - q) * (experts - top_k) / (experts - 1))
    return round(1 + expected_maximum(ep) * sd / (n * top_k * q), 6)


def expected_maximum(n: int) -> float:
    """Mean of the largest of n standard normal values: the integral of x·n·φ(x)·Φ(x)^(n-1), by the trapezoid
    rule."""
    step = 1 / 256
    points = [i * step for i in range(-2048, 2049)]
    density = (x * n * exp(-x * x / 2) / sqrt(2 * pi) * (0.5 * (1 + erf(x / sqrt(2)))) ** (n - 1) for x in points)
    return step * sum(density)


def worst_imbalance(experts: int, top_k: int, ep: int) -> float:
    """Every token sends as many copies to one device as it holds experts for: ep·min(k, E/ep)/k times the
    mean."""
    return ep * min(top_k, experts // ep) / top_k
