"""The ledger of savers and what uneven routing costs."""

import pytest

from archcalc.training.ledger import cost_of, imbalances, ledger, recompute_share
from archcalc.training.memory import one_layer_extra
from archcalc.training.routing import expected_imbalance, expected_maximum, worst_imbalance
from tests.training.plans import k2_plan, ranks, run_of


def test_the_ledger_starts_without_savers_and_ends_at_the_plan() -> None:
    plan = k2_plan()
    rows = ledger(run_of("kimi-k2", plan))
    assert [row["lever"] for row in rows] == [
        "no savers",
        "recompute layernorm",
        "recompute swiglu",
        "recompute mla_up_proj",
        "recompute moe_down_proj",
        "fp8 moe_up_proj_input",
        "fp8 swiglu_input",
        "offload all",
    ]
    bare = ranks("kimi-k2", "activations.recompute=[]", "activations.fp8=[]", "activations.offload=none")
    assert rows[0]["peak_bytes"] == max(r.peak for r in bare)
    assert rows[-1]["peak_bytes"] == max(r.peak for r in ranks("kimi-k2"))
    assert rows[0]["peak_bytes"] - sum(row["saved_bytes"] for row in rows) == rows[-1]["peak_bytes"]


RECOMPUTED, STORED = ["layernorm", "swiglu", "mla_up_proj", "moe_down_proj"], ["moe_up_proj_input", "swiglu_input"]
LEFT_OUT = {
    **{f"recompute {x}": f"activations.recompute=[{', '.join(y for y in RECOMPUTED if y != x)}]" for x in RECOMPUTED},
    **{f"fp8 {x}": f"activations.fp8=[{', '.join(y for y in STORED if y != x)}]" for x in STORED},
    "offload all": "activations.offload=none",
}


def test_without_a_lever_is_the_plan_that_does_not_name_it() -> None:
    rows = ledger(run_of("kimi-k2", k2_plan()))
    planned = max(r.peak for r in ranks("kimi-k2"))
    assert (rows[0]["without_bytes"], rows[0]["without_peak_bytes"]) == (None, None)
    for row in rows[1:]:
        without = max(r.peak for r in ranks("kimi-k2", LEFT_OUT[row["lever"]]))
        assert row["without_peak_bytes"] == without, row["lever"]
        assert row["without_bytes"] == without - planned


def test_leaving_out_the_last_lever_costs_what_it_saved() -> None:
    last = ledger(run_of("kimi-k2", k2_plan()))[-1]
    assert last["without_bytes"] == last["saved_bytes"] > 0


def test_under_offload_leaving_out_a_recomputation_costs_only_the_layers_in_hand() -> None:
    """Without moe_down_proj each layer keeps the experts' output, 2·8·7168 bytes a token: the three whose offloaded
    tensors are on the device, of which the one that runs forward holds it anyway; the allocator's 0.94 is in. Beside
    the levers above it alone it frees 46 chunks of two layers, less what a backward makes again."""
    row = next(r for r in ledger(run_of("kimi-k2", k2_plan())) if r["lever"] == "recompute moe_down_proj")
    output = 4096 * 2 * 8 * 7168
    assert abs(row["without_bytes"] * 0.94 - (3 - 1) * output) < 1
    assert abs(row["saved_bytes"] * 0.94 - (46 * 2 - 1) * output) < 2


def test_a_list_of_no_groups_offloads_nothing_and_is_no_lever() -> None:
    nothing, none = (run_of("kimi-k2", k2_plan(f"activations.offload={each}")) for each in ("[]", "none"))
    assert nothing.levers == none.levers
    assert ledger(nothing)[-1]["lever"] == "fp8 swiglu_input"


def test_each_lever_buys_its_activations_on_the_worst_rank() -> None:
    """46 live chunks of two MoE layers: moe_down_proj frees the experts' output, 2·8·7168 bytes a token."""
    plan = k2_plan()
    rows = {row["lever"]: row for row in ledger(run_of("kimi-k2", plan))}
    before, after = rows["recompute mla_up_proj"], rows["recompute moe_down_proj"]
    assert before["activation_bytes"] - after["activation_bytes"] == 46 * 2 * 4096 * 2 * 8 * 7168


def test_what_recomputing_costs() -> None:
    plan = k2_plan()
    run = run_of("kimi-k2", plan)
    assert cost_of(recompute_share(run, "layernorm")) == "elementwise work only, no GEMM"
    # of a MoE layer's forward, causal, a token: down projections 2·8·2048·7168 FLOPs of
    # 2·(101,122,048 + 7168·384 + 9·3·7168·2048) + 64·(192 + 128)·4096
    down, layer = 2 * 8 * 2048 * 7168, 2 * (101_122_048 + 7168 * 384 + 27 * 7168 * 2048) + 64 * 320 * 4096
    assert cost_of(recompute_share(run, "moe_down_proj")) == f"{100 * down / layer:.1f} % more forward FLOPs"
    assert cost_of(recompute_share(run, "full")) == "100.0 % more forward FLOPs"
    shares = {row["lever"]: row["recompute_flops_share"] for row in ledger(run)}
    assert shares["recompute moe_down_proj"] == down / layer
    assert [shares[each] for each in ("no savers", "recompute layernorm", "fp8 swiglu_input", "offload all")] == [0] * 4


def test_the_expected_maximum_of_normal_values() -> None:
    # two: 1/sqrt(pi) = 0.56419; three: 1.5/sqrt(pi) = 0.84628; sixteen: 1.76599 (Harter, Biometrika 1961, table 1)
    assert [round(expected_maximum(n), 5) for n in (1, 2, 3, 16)] == [0, 0.56419, 0.84628, 1.76599]


def test_a_uniformly_random_router_is_almost_even() -> None:
    """384 experts, 8 a token, 16 devices of 4096 tokens: mean 32,768 rows, standard deviation 173.7, so 0.94
    % over."""
    assert expected_imbalance(384, 8, 16, 4096) == pytest.approx(1.0094, abs=0.0001)
    assert expected_imbalance(384, 8, 1, 4096) == 1


def test_the_worst_case_is_every_token_at_one_device() -> None:
    assert worst_imbalance(384, 8, 16) == 16  # 16·min(8, 24)/8
    assert worst_imbalance(384, 8, 96) == 48  # only 4 experts there: 96·4/8
    assert worst_imbalance(384, 8, 1) == 1


def test_imbalance_rows() -> None:
    plan = k2_plan()
    rows = imbalances(run_of("kimi-k2", plan))
    assert len({row["path"] for row in rows}) == len(rows) == 6
    assert [row["imbalance"] for row in rows] == [1.0, pytest.approx(1.0094, abs=1e-4), 1.25, 2.0, 16, 16]
    peaks = [row["peak_bytes"] for row in rows]
    assert peaks[:5] == sorted(peaks[:5])
    assert peaks[0] < peaks[5] < peaks[4]  # once in one layer is less than always in all


def test_one_layer_at_the_worst_case_is_what_crashes_a_run() -> None:
    """16 x 32,768 rows at 0.21 MB: 14 GB kept under probs@act alone (4096·(57,344·4 + ...) bytes a unit of
    load)."""
    plan = k2_plan("activations.router_probs=act", "activations.recompute=[]", "activations.fp8=[]")
    run = run_of("kimi-k2", plan)
    kept_per_unit = 4096 * 8 * (2 * 7168 + 4 * 2048 + 2 * 2048 + 4 + 16)
    assert round(16 * kept_per_unit / 1e9) == 14
    assert one_layer_extra(run, 16) > 15 * kept_per_unit
    assert one_layer_extra(run, 1) == 0


def test_whole_layers_are_recomputed_and_the_head_is_not() -> None:
    """Llama 3.1 8B on one stage, a token: 32 layers of 218,103,808 weights and 32 heads' scores and values, 128 wide
    each, over half of 4096 tokens; the head's 128,256 x 4096 runs once."""
    stage = ("parallel.ep=1", "parallel.pp=1", "parallel.vpp=1", "schedule.kind=1f1b", "schedule.extra_warmup=0")
    run = run_of("llama-3.1-8b", k2_plan(*stage, "activations.fp8=[]", "activations.recompute=[full]"))
    weights = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    layers, head = 32 * (2 * weights + 32 * 2 * 128 * 4096), 2 * 128_256 * 4096
    assert weights == 218_103_808
    assert recompute_share(run, "full") == pytest.approx(layers / (layers + head), rel=1e-4)
