"""What real routers do to the busiest device: from published violations, by hand."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt

import pytest

from archcalc.errors import InputError, SpecError
from archcalc.training.ledger import UNIFORM, imbalances
from archcalc.training.memory import training_memory, worst
from archcalc.training.routing import VIOLATIONS, Routing, Violation, device_violation, expected_maximum, real_routing
from archcalc.training.run import routing_of
from tests.training.plans import k2_plan, run_of, tape_of, traced

TWO, FOUR, SIXTY_FOUR = 1 / sqrt(3.141592653589793), 1.0293754, 2.3437
"""Expected largest of so many standard normal values: 1/sqrt(pi) of two; the others are tabulated (Harter 1961)."""


def test_the_expected_largest_are_those_of_the_tables() -> None:
    assert expected_maximum(2) == pytest.approx(TWO, abs=1e-7)
    assert expected_maximum(4) == pytest.approx(FOUR, abs=1e-6)
    assert expected_maximum(64) == pytest.approx(SIXTY_FOUR, abs=1e-3)


def test_a_device_with_more_experts_deviates_less() -> None:
    """One expert's standard deviation is 0.72 over the expected largest of 64; the mean of 2 experts' is that over the
    root of 2; the busiest of 4 devices deviates by the expected largest of 4."""
    v = Violation("loss", 0.72, 64, "")
    assert device_violation(v, 2, 4) == pytest.approx(0.72 / SIXTY_FOUR / sqrt(2) * FOUR, abs=1e-3)
    assert device_violation(v, 8, 4) == pytest.approx(device_violation(v, 2, 4) / 2)
    assert device_violation(v, 1, 64) == pytest.approx(0.72)  # as published


def test_a_router_with_a_bias_is_more_even_than_one_with_a_loss() -> None:
    """DeepSeek-V3 selects with a bias, Mixtral has a loss. Both may be as uneven as the worst published one."""
    bias, loss = (real_routing(traced(name, 1, 4096), 8, 4096, 1) for name in ("deepseek-v3", "mixtral-8x22b"))
    assert "1.04 times" in bias.sources[0]
    assert "1.72 times" in loss.sources[0]
    assert 1 < bias.typical < loss.typical < loss.worst
    assert max(v.maxvio for v in VIOLATIONS) == 0.937
    assert all("1.937 times" in routing.sources[1] for routing in (bias, loss))


def test_layers_of_a_rank_average_what_their_experts_do() -> None:
    """But for the picks' own noise, which is small beside it, four layers halve it."""
    one, four = (real_routing(traced("mixtral-8x22b", 1, 4096), 4, 4096, n) for n in (1, 4))
    assert float(four.typical - 1) == pytest.approx(float(one.typical - 1) / 2, rel=0.01)
    assert four.worst == one.worst


def test_one_device_has_no_imbalance() -> None:
    none = Routing(Fraction(1), Fraction(1))
    assert real_routing(traced("mixtral-8x22b", 1, 4096), 1, 4096, 8) == none
    assert real_routing(traced("llama-3.1-8b", 1, 128), 8, 4096, 8) == none


def test_where_nothing_is_exchanged_neither_the_typical_nor_the_worst_is_uneven() -> None:
    dense, alone = (tape_of(name, k2_plan()) for name in ("llama-3.1-8b", "kimi-k2"))
    for tape, plan in ((dense, k2_plan()), (alone, k2_plan("parallel.ep=1"))):
        assert routing_of(plan, tape, (), 4096) == Routing(Fraction(1), Fraction(1))


def test_a_plan_counts_the_typical_and_names_the_worst() -> None:
    spread = k2_plan("activations.moe_imbalance={typical: 1.1, worst: 1.5}")
    run = run_of("kimi-k2", spread)
    found = {row["case"]: row for row in imbalances(run)}
    assert [found[case]["imbalance"] for case in ("as planned", "as planned, worst", UNIFORM)] == [1.1, 1.5, 1.0]
    for case, said in (("as planned", "1.1"), ("as planned, worst", "1.5"), (UNIFORM, "1.0")):
        plan = k2_plan(f"activations.moe_imbalance={said}")
        assert found[case]["peak_bytes"] == worst(training_memory(run_of("kimi-k2", plan))).peak, case


def test_real_takes_the_fewest_layers_with_experts_that_a_rank_has() -> None:
    plan = k2_plan("activations.moe_imbalance=real")
    run = run_of("kimi-k2", plan)
    mixed = {n for n, s in enumerate(run.tape.segments) if any(op.exchange == "send" for op in s.ops)}
    fewest = min(sum(c for chunk in rank.chunks for n, c in chunk if n in mixed) for rank in run.ranks)
    assert run.routing == real_routing(tape_of("kimi-k2", plan), 16, 4096, fewest)
    assert run.shards.imbalance == run.routing.typical


@pytest.mark.parametrize("said", ["16.5", "1e308", "{typical: 1.1, worst: 17}"])
def test_more_rows_than_there_are_is_refused(said: str) -> None:
    """K2's tokens pick 8 experts; with 24 on each of 16 devices all 8 may be one device's: 16 times the mean."""
    with pytest.raises(InputError, match="the busiest of 16 devices gets at most 16 times the mean"):
        run_of("kimi-k2", k2_plan(f"activations.moe_imbalance={said}"))
    run_of("kimi-k2", k2_plan("activations.moe_imbalance=16"))


def test_a_number_counts_only_where_several_devices_share_the_experts() -> None:
    alone = ("parallel.ep=1", "parallel.world=16")
    even, said = (k2_plan(*alone, f"activations.moe_imbalance={n}") for n in ("1.0", "1.4"))
    assert training_memory(run_of("kimi-k2", said)) == training_memory(run_of("kimi-k2", even))


def test_a_worst_below_the_typical_is_refused() -> None:
    with pytest.raises(SpecError, match=r"worst 1\.1 is less than typical 1\.5"):
        k2_plan("activations.moe_imbalance={typical: 1.5, worst: 1.1}")
