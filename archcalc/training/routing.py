"""Uneven routing: how many times the mean of the routed rows the busiest device gets, by mechanism and source."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import erf, exp, pi, sqrt
from typing import Literal, NamedTuple

from archcalc.tape import Tape

Balance = Literal["loss", "bias"]
"""What keeps a router even: an auxiliary loss, or a bias of each expert that selection adds (`topk_method:
noaux_tc`)."""


class Violation(NamedTuple):
    """A published load violation: the busiest expert's load over the mean, less 1, over a whole validation set."""

    balance: Balance
    maxvio: float
    experts: int
    source: str


VIOLATIONS = (
    Violation("loss", 0.52, 64, "3B model, sigmoid gate: arXiv:2408.15664, table 2"),
    Violation("loss", 0.72, 64, "1B model, sigmoid gate: arXiv:2408.15664, table 2"),
    Violation("loss", 0.937, 64, "1B model, softmax gate: arXiv:2408.15664, table 6"),
    Violation("bias", 0.027, 64, "1B model, softmax gate: arXiv:2408.15664, table 6"),
    Violation("bias", 0.04, 64, "1B and 3B model, sigmoid gate: arXiv:2408.15664, table 2"),
)
"""MaxVio_global of DeepSeekMoE models with 64 routed experts of which 6 are chosen, trained on 100B and 200B tokens.
The figures are as public summaries of the paper quote its tables: two agree on table 2, one quotes table 6. Single
batches spread more than a whole set (figure 3 there, of which no number is quoted), and a fresh router more than a
trained one. That an expert's deviation is the same in models with other numbers of experts is assumed."""


class Routing(NamedTuple):
    """The busiest device over the mean that a plan counts with, the worst that it names, and where they are from."""

    typical: Fraction
    worst: Fraction
    sources: tuple[str, ...] = ()


def real_routing(tape: Tape, ep: int, tokens: int, layers: int) -> Routing:
    """What real routers do to the busiest of `ep` devices, from published load violations of experts.

    A violation is the largest of E experts' deviations, so that one expert's standard deviation is MaxVio over the
    expected largest of E normal values. A device's is that over the root of its experts, beside the noise of
    uniformly random picks; the busiest of ep devices deviates by the expected largest of ep. Deviations are experts'
    own, which differ from layer to layer: what a rank keeps of `layers` layers averages them. The worst case takes the
    largest published violation, an auxiliary loss's for a bias too, which has not settled early on, in every layer of
    one device.

    Args:
        tokens: of one micro-batch on one device.
        layers: with experts, on the rank that has fewest of them.
    """
    weights = [w for w in tape.weights() if w.stack]
    if ep == 1 or not weights:
        return Routing(Fraction(1), Fraction(1))
    active = next(w.active.size for w in weights if w.active is not None)
    experts = weights[0].stack[0].size
    balance: Balance = "bias" if any(w.role == "router_bias" for w in tape.weights()) else "loss"
    own = sorted(v for v in VIOLATIONS if v.balance == balance)
    middle, most = own[len(own) // 2], max(VIOLATIONS, key=lambda v: v.maxvio)
    noise = expected_imbalance(experts, active, ep, tokens) - 1
    typical, worst = (
        1 + sqrt(device_violation(v, experts // ep, ep) ** 2 / n + noise**2) for v, n in ((middle, layers), (most, 1))
    )
    return Routing(
        Fraction(str(round(typical, 4))),
        Fraction(str(round(worst, 4))),
        (
            f"typical: the busiest expert gets {1 + middle.maxvio:g} times the mean ({middle.source}), on a device of"
            f" its own in each of {layers} layers of a rank",
            f"worst: {1 + most.maxvio:g} times ({most.source}), on one device in all its layers",
        ),
    )


def device_violation(v: Violation, held: int, ep: int) -> float:
    """How much more than the mean the busiest of `ep` devices with `held` experts each gets in one layer."""
    return expected_maximum(ep) * v.maxvio / expected_maximum(v.experts) / sqrt(held)


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


@lru_cache
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
