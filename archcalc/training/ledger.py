"""The ledger: what each memory saver of a plan buys, one lever at a time; and what uneven routing costs."""

from __future__ import annotations

from math import erf, exp, pi, sqrt
from typing import Any

from archcalc.tape import Tape, value
from archcalc.training.memory import fragmented, one_layer_extra, training_memory, worst
from archcalc.training.placement import chunks
from archcalc.training.plan import Activations, Plan
from archcalc.training.savers import FULL, RECOMPUTE


def ledger(tape: Tape, plan: Plan) -> list[dict[str, Any]]:
    """From no savers to the plan. Each row adds one lever; `saved_bytes` is what it buys on the worst
    rank."""
    a = plan.activations
    bare = _with(plan, recompute=[], fp8=[], offload="none")
    steps: list[tuple[str, Plan, str]] = [("no savers", bare, "")]
    for i, name in enumerate(a.recompute):
        steps.append(
            (f"recompute {name}", _with(bare, recompute=a.recompute[: i + 1]), recompute_cost(tape, plan, name))
        )
    for i, name in enumerate(a.fp8):
        cost = "storage only: a cast each way"
        steps.append((f"fp8 {name}", _with(bare, recompute=a.recompute, fp8=a.fp8[: i + 1]), cost))
    if a.offload != "none":
        label = a.offload if isinstance(a.offload, str) else ", ".join(a.offload)
        steps.append((f"offload {label}", plan, "copies to the host and back: see offload"))
    rows: list[dict[str, Any]] = []
    for lever, step, cost in steps:
        top = worst(training_memory(tape, step))
        before = rows[-1]["peak_bytes"] if rows else top.peak
        rows.append(
            {
                "path": lever,
                "lever": lever,
                "peak_bytes": top.peak,
                "saved_bytes": before - top.peak,
                "activation_bytes": top.activation,
                "transient_bytes": top.transient,
                "worst_rank": top.rank,
                "cost": cost,
            }
        )
    return rows


def recompute_cost(tape: Tape, plan: Plan, name: str) -> str:
    """What recomputing costs: the region's share of the forward FLOPs of the rank that pays most."""
    spent = whole = 0
    for held in chunks(tape, plan):
        region = forward = 0
        for chunk in held:
            for n, count in chunk:
                for op in tape.segments[n].ops:
                    flops = count * value(op.flops)
                    forward += flops
                    layer = bool(tape.segments[n].indices)
                    region += flops if (layer if name == FULL else op.site in RECOMPUTE[name].sites) else 0
        spent, whole = max((spent, whole), (region, forward))
    return f"{100 * spent / whole:.1f} % more forward FLOPs" if spent else "elementwise work only, no GEMM"


def imbalances(tape: Tape, plan: Plan) -> list[dict[str, Any]]:
    """Peak under uneven routing: as planned, the expectation of a random router, what-ifs, and the worst
    case: in every live micro-batch at once (no plan survives it), and in one layer of one (what crashes a
    run)."""
    tokens = plan.batch.micro_batch * plan.batch.seq // plan.parallel.cp
    sizes = next((w.stack[0].size, w.active.size) for w in tape.weights() if w.active is not None)
    most = worst_imbalance(*sizes, plan.parallel.ep)
    cases = [
        ("as planned", plan.activations.moe_imbalance),
        ("a uniformly random router, expected", expected_imbalance(*sizes, plan.parallel.ep, tokens)),
        ("what if: 1.25 times the mean", 1.25),
        ("what if: twice the mean", 2.0),
        ("worst case always: every token picks this device's experts", most),
    ]
    rows = []
    for case, factor in cases:
        top = worst(training_memory(tape, _with(plan, moe_imbalance=factor)))
        rows.append(_imbalance(case, factor, top.activation, top.peak, top.rank))
    extra = one_layer_extra(tape, plan, most)
    top = max(training_memory(tape, plan), key=lambda r: (r.running, -r.rank))
    peak = max(top.peak, fragmented(plan, top.running + extra))
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


def _with(plan: Plan, **changes: Any) -> Plan:
    fields: Activations = plan.activations.model_copy(update=changes)
    return plan.model_copy(update={"activations": fields})
