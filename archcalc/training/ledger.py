"""The ledger: what each memory saver of a plan buys, one lever at a time; and what uneven routing costs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from archcalc.calc.activations import Savers
from archcalc.calc.selective import kept_outputs
from archcalc.tape import Op, Segment, value
from archcalc.training.memory import one_layer_extra, training_memory, worst
from archcalc.training.routing import expected_imbalance, worst_imbalance
from archcalc.training.run import Run
from archcalc.training.savers import FULL, RECOMPUTE, Lever


def ledger(run: Run) -> list[dict[str, Any]]:
    """From no savers to the plan. Each row adds one lever: `saved_bytes` is what it buys on the worst rank by then,
    `without_bytes` what the plan's own peak grows by where that lever alone is left out."""
    rows: list[dict[str, Any]] = []
    so_far = [worst(training_memory(run.until(n))) for n in range(len(run.levers))]
    planned = so_far[-1].peak
    for n, (lever, top) in enumerate(zip(run.levers, so_far, strict=True)):
        before = rows[-1]["peak_bytes"] if rows else top.peak
        without = worst(training_memory(run.without(n))).peak if n else None
        share = lever_share(run, lever)
        rows.append(
            {
                "path": lever.label,
                "lever": lever.label,
                "peak_bytes": top.peak,
                "saved_bytes": before - top.peak,
                "without_bytes": None if without is None else without - planned,
                "without_peak_bytes": without,
                "activation_bytes": top.activation,
                "transient_bytes": top.transient,
                "worst_rank": top.rank,
                "recompute_flops_share": share,
                "cost": COSTS[lever.kind] if lever.kind in COSTS else cost_of(share),
            }
        )
    return rows


COSTS = {"none": "", "fp8": "storage only: a cast each way", "offload": "copies to the host and back: see offload"}
"""What savers that recompute nothing cost."""


def lever_share(run: Run, lever: Lever) -> float:
    """What a lever recomputes, as a share of the forward FLOPs."""
    if lever.kind == "selective":
        return selective_share(run, lever.savers)
    return recompute_share(run, lever.option) if lever.kind == "recompute" else 0.0


def cost_of(share: float) -> str:
    """What recomputing such a share costs, in words."""
    return f"{100 * share:.1f} % more forward FLOPs" if share else "elementwise work only, no GEMM"


def recompute_share(run: Run, option: str) -> float:
    """What recomputing costs: the region's share of the forward FLOPs of the rank that pays most."""
    if option == FULL:
        return _share(run, lambda segment: set(segment.ops) if segment.indices else set())
    return _share(run, lambda segment: {op for op in segment.ops if op.site in RECOMPUTE[option].sites})


def selective_share(run: Run, savers: Savers) -> float:
    """The same of layers that keep what some kinds of operations put out."""

    def again(segment: Segment) -> set[Op]:
        kept = kept_outputs(segment, run.shards, savers.selective or frozenset(), savers.variants)
        return set(segment.ops) - {each.op for each in kept} if segment.indices else set()

    return _share(run, again)


def _share(run: Run, again: Callable[[Segment], set[Op]]) -> float:
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
    return spent / whole if spent else 0.0


UNIFORM = "uniform routing: a lower bound of the routing term"


def imbalances(run: Run) -> list[dict[str, Any]]:
    """Peak under uneven routing: as planned, uniform, the expectation of a random router, what-ifs, and the worst
    case: in every live micro-batch at once (no plan survives it), and in one layer of one (what crashes a
    run)."""
    sizes = next((w.stack[0].size, w.active.size) for w in run.tape.weights() if w.active is not None)
    most = worst_imbalance(*sizes, run.shards.ep)
    planned, worse = run.routing.typical, run.routing.worst
    cases = [
        ("as planned", float(planned)),
        *([("as planned, worst", float(worse))] if worse != planned else []),
        *([(UNIFORM, 1.0)] if planned != 1 else []),
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
