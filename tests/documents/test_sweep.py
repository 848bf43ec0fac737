"""The numbers behind plots: they are the calculators' own, and limits, crossings and marks stand where they say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from archcalc.documents.flops import flops_quantities
from archcalc.documents.kv import kv_report
from archcalc.documents.sweep.cases import Range, cases, models, span
from archcalc.documents.sweep.figure import Figure
from archcalc.documents.sweep.flops import flops_figure
from archcalc.documents.sweep.kv import kv_figure
from archcalc.documents.sweep.memory import Setup, memory_figure, setup_of
from archcalc.documents.sweep.training import train_figure, training_memory_figure, trainings
from archcalc.documents.train import train_report
from archcalc.documents.weights import what_if
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.hardware import load_hardware
from archcalc.serving.engine import load_engine
from archcalc.serving.memory import Load, serve
from archcalc.workload import Workload
from tests.support import text

RANGE = Range(4096, 262144)
ENGINE = load_engine()


def on(gpu: str | None, tp: int, dp: int = 1) -> Setup:
    return setup_of(gpu, tp * dp, tp)


def rows(figure: Figure) -> list[dict[str, Any]]:
    assert figure.report.rows is not None
    return [dict(row) for row in figure.report.rows.rows]


# ----------------------------------------------------------------------------------------------- ranges


def test_a_range_lists_every_power_of_two_and_both_ends() -> None:
    assert span(4096, 262144).points() == (4096, 8192, 16384, 32768, 65536, 131072, 262144)
    assert span(5000, 20000).points() == (5000, 8192, 16384, 20000)
    assert span(1, 2).points() == (1, 2)


def test_curves_are_drawn_through_every_listed_point() -> None:
    for over in (span(4096, 262144), span(5000, 20000), span(1, 3), span(1000, 1 << 30)):
        drawn = over.drawn()
        assert set(over.points()) <= set(drawn)
        assert list(drawn) == sorted(set(drawn))
        assert (drawn[0], drawn[-1]) == over
        # Eight steps a doubling: from 1024 on no two neighbours are further apart than 2^(1/8), but for the rounding.
        assert all(b / a < 1.1 for a, b in pairwise(drawn) if a >= 1024)


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(4096, 4096, "is empty"), (8192, 4096, "runs backwards"), (0, 4096, "must start at 1"), (1, 1 << 31, "1G")],
)
def test_a_range_that_can_not_be_drawn_is_refused(low: int, high: int, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        span(low, high)
    assert caught.value.hint


def test_specs_named_alike_are_told_apart_by_their_argument(tmp_path: Path) -> None:
    copy = tmp_path / "k25.yaml"
    copy.write_text(text("k25"))
    found = models(["k25", str(copy), "kimi-k2", "k25"])
    assert [model.key for model in found] == ["k25", str(copy), "kimi-k2"]
    assert [model.label for model in found] == ["Kimi K2.5 (k25)", f"Kimi K2.5 ({copy})", "Kimi K2"]


# ------------------------------------------------------------------------------- rows, table and picture

TERMS = {
    "kv": ("bytes_per_device",),
    "flops": ("linear", "attention_core"),
    "memory": ("weights_bytes", "overhead_bytes", "kv_bytes"),
    "train": tuple(
        f"{name}_bytes"
        for name in ["params", "buffers", "grads", "optimizer", "activation", "transient", "fixed", "fragmentation"]
    ),
}
"""What is drawn of each kind, as columns of its table."""


@pytest.mark.parametrize("kind", TERMS)
def test_the_table_lists_the_heights_that_are_drawn(kind: str) -> None:
    found = cases(models(["k25", "llama-3.1-405b"]), ["" if kind == "flops" else "bf16"], [1, 3])
    figure = {
        "kv": lambda: kv_figure(found, RANGE, tp=8),
        "flops": lambda: flops_figure(found, RANGE),
        "memory": lambda: memory_figure(found, RANGE, on("h200", 8)),
        "train": lambda: train_figure(trainings(models(["k25", "kimi-k2"]), ["k2-pretrain"], ())),
    }[kind]()
    drawn = [
        sum(curve.values[panel.xs.index(x)] for curve in panel.curves) for panel in figure.panels for x in panel.points
    ]
    listed = [sum(row[key] for key in TERMS[kind]) for row in rows(figure)]
    if figure.shape == "lines":  # all cases are on one panel
        points = len(figure.panels[0].points)
        listed = [sum(listed[n::points]) for n in range(points)]
    assert drawn == listed


def test_columns_that_no_row_has_are_left_out() -> None:
    table = memory_figure(cases(models(["k25"]), ["bf16"], [1]), RANGE, on(None, 1)).report.rows
    assert table is not None
    assert not {"limit_bytes", "fits", "plan"} & {column.key for column in table.columns}
    assert [column.key for column in table.columns[:4]] == ["spec", "kv_dtype", "batch", "context"]


# ------------------------------------------------------------------------------------------------ cache


def test_kv_cache_of_k25_at_4k_is_70272_bytes_times_4096() -> None:
    # 61 layers x (kv_lora_rank 512 + qk_rope_head_dim 64) x 2 bytes = 70,272 bytes a token; fp8 half of it.
    figure = kv_figure(cases(models(["k25"]), ["bf16", "fp8"], [1, 8]), RANGE)
    bf16, bf16_8, fp8, fp8_8 = figure.panels[0].curves
    assert bf16.values[0] == 70_272 * 4096
    assert bf16_8.values[0] == 8 * 70_272 * 4096
    assert fp8.values[-1] == 35_136 * 262_144
    assert fp8_8.values[-1] == 8 * 35_136 * 262_144
    assert [curve.label for curve in figure.panels[0].curves] == [
        "bf16 cache, 1 sequence",
        "bf16 cache, 8 sequences",
        "fp8 cache, 1 sequence",
        "fp8 cache, 8 sequences",
    ]


def test_kv_cache_of_each_device_is_what_archcalc_kv_says() -> None:
    # 126 layers x 2 (key, value) x 8 heads x 128 x 2 bytes = 516,096 bytes a token; an eighth on each of 8 devices.
    figure = kv_figure(cases(models(["llama-3.1-405b"]), ["bf16"], [3]), RANGE, tp=8)
    spec = load_spec("llama-3.1-405b")
    for row in rows(figure):
        assert row["bytes_per_device"] == 3 * 64_512 * row["context"]
        workload = Workload(batch=3, context=row["context"])
        told = kv_report(spec, workload, mesh=on(None, 8).where.mesh(1)).quantities
        assert row["bytes_per_device"] == told["kv.bytes_per_device"]
        assert row["total_bytes"] == told["kv.total_bytes"]


def test_lines_of_one_colour_differ_in_nothing_but_the_cache_dtype() -> None:
    figure = kv_figure(cases(models(["k25", "llama-3.1-70b"]), ["bf16", "fp8"], [1]), RANGE)
    assert [(c.hue, c.dash) for c in figure.panels[0].curves] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_more_lines_than_can_be_told_apart_are_refused() -> None:
    with pytest.raises(InputError, match="13 lines are more than one picture can show"):
        kv_figure(cases(models(["k25"]), ["bf16"], list(range(1, 14))), RANGE)


def test_an_error_names_the_spec_that_it_is_about() -> None:
    found = cases(models(["k25", "llama-3.1-70b"]), ["fp8_ds_mla"], [1])
    with pytest.raises(InputError, match=r"Llama 3\.1 70B: .*self_attn keeps key"):
        kv_figure(found, RANGE)


# ----------------------------------------------------------------------------------------------- memory


def test_one_device_without_a_gpu_holds_the_whole_checkpoint_and_has_no_limit() -> None:
    figure = memory_figure(cases(models(["k25"]), ["bf16"], [1]), RANGE, on(None, 1))
    first = rows(figure)[0]
    # tests/published/checkpoints.yaml: the checkpoint of K2.5, tensor data of its 64 shards.
    assert first["weights_bytes"] == 595_148_192_736
    # specs/engines/vllm.yaml: 8192 tokens x 213,742 + CUDA graphs 1,556,925,644 + non-torch of one device 75,161,927.
    assert first["overhead_bytes"] == 8192 * 213_742 + 1_556_925_644 + 75_161_927
    assert first["kv_bytes"] == 70_272 * 4096
    assert first["total_bytes"] == sum(first[key] for key in ("weights_bytes", "overhead_bytes", "kv_bytes"))
    assert figure.panels[0].limit is None
    assert not figure.panels[0].marks
    assert "fits" not in first


@pytest.mark.parametrize(("tp", "dp", "batch"), [(8, 1, 8), (8, 2, 5), (4, 2, 64)])
def test_every_listed_memory_is_what_archcalc_serve_says(tp: int, dp: int, batch: int) -> None:
    setup = on("h200", tp, dp)
    figure = memory_figure(cases(models(["deepseek-v3"]), ["fp8"], [batch]), Range(5000, 100_000), setup)
    spec, hardware = load_spec("deepseek-v3"), load_hardware("h200")
    assert [row["context"] for row in rows(figure)] == [5000, 8192, 16384, 32768, 65536, 100_000]
    for row in rows(figure):
        load = Load(context=row["context"], batch=batch, kv_dtype="fp8")
        told = serve(spec.trace(Workload()), what_if(spec, "released"), hardware, ENGINE, setup.where, load)
        assert row["weights_bytes"] == told.weights_bytes
        assert row["overhead_bytes"] == told.overhead_bytes
        assert row["kv_bytes"] == told.kv_bytes
        assert row["limit_bytes"] == told.usable
        assert row["fits"] == told.fits


@pytest.mark.parametrize(("tp", "dp", "batch"), [(8, 1, 1), (8, 1, 8), (8, 2, 5)])
def test_the_marked_context_is_the_last_that_fits(tp: int, dp: int, batch: int) -> None:
    setup = on("h200", tp, dp)
    found = cases(models(["k25"]), ["bf16"], [batch])
    panel = memory_figure(found, Range(1024, 1 << 24), setup).panels[0]
    (mark,) = panel.marks
    assert mark.text == f"fits up to {mark.x:,} tokens"
    assert panel.limit is not None
    assert mark.y == panel.limit.value
    spec = load_spec("k25")

    def fits(context: int) -> bool:
        load = Load(context=context, batch=batch)
        scheme, gpu = what_if(spec, "released"), load_hardware("h200")
        return serve(spec.trace(Workload()), scheme, gpu, ENGINE, setup.where, load).fits

    assert fits(mark.x)
    assert not fits(mark.x + 1)


@pytest.mark.parametrize(
    ("batch", "over", "says"),
    [
        (1, RANGE, "past this range"),
        (64, Range(131_072, 262_144), "before this range"),
    ],
)
def test_a_crossing_outside_the_range_is_told_but_not_marked(batch: int, over: Range, says: str) -> None:
    panel = memory_figure(cases(models(["k25"]), ["bf16"], [batch]), over, on("h200", 8)).panels[0]
    assert not panel.marks
    assert panel.verdict.endswith(says)


def test_weights_that_are_too_large_alone_are_said_to_be() -> None:
    panel = memory_figure(cases(models(["k25"]), ["bf16"], [1]), RANGE, on("h200", 1)).panels[0]
    assert panel.verdict == "weights and workspace alone do not fit"


def test_up_to_six_cases_are_stacks_and_more_are_lines_of_the_same_heights() -> None:
    setup = on("h200", 8)
    six = memory_figure(cases(models(["k25"]), ["bf16", "fp8"], [1, 2, 4]), RANGE, setup)
    eight = memory_figure(cases(models(["k25"]), ["bf16", "fp8"], [1, 2, 4, 8]), RANGE, setup)
    assert (six.shape, len(six.panels)) == ("areas", 6)
    assert (eight.shape, len(eight.panels)) == ("lines", 1)
    assert six.panels[2].title == "bf16 cache, 4 sequences"
    assert eight.panels[0].curves[2].values == six.panels[2].totals()


def test_the_models_own_limit_is_shown_where_the_range_passes_it() -> None:
    # Llama 3.1 405B: max_position_embeddings 131072.
    found = cases(models(["k25", "llama-3.1-405b"]), ["bf16"], [1])
    figure = memory_figure(found, RANGE, on("h200", 8))
    assert [panel.edge for panel in figure.panels] == [None, 131_072]
    (note,) = figure.report.notes
    assert note.startswith("warning: Llama 3.1 405B: 262,144 tokens are more than")


# ------------------------------------------------------------------------------------------------ FLOPs


def test_flops_of_llama_70b_are_two_a_weight_and_half_the_scores() -> None:
    # Linears: 80 x (2 x 8192^2 + 2 x 8192 x 1024 + 3 x 8192 x 28672) + 8192 x 128256 weights, 2 FLOPs each and token.
    weights = 80 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672) + 8192 * 128256
    # Attention: scores and values, 2 FLOPs, half of n^2 pairs, 64 heads x 128, 80 layers.
    pair = 2 * 2 * 64 * 128 * 80
    figure = flops_figure(cases(models(["llama-3.1-70b"]), [""], [1, 2]), Range(4096, 131_072))
    for row in rows(figure):
        n, batch = row["seq"], row["batch"]
        assert row["linear"] == batch * 2 * weights * n
        assert row["attention_core"] == batch * pair * n * n // 2
        assert row["forward"] == row["linear"] + row["attention_core"]
    # Attention passes the linears where 2 x weights x n = pair x n^2 / 2.
    crossing = -(-4 * weights // pair)
    assert [mark.x for mark in figure.panels[0].marks] == [crossing, crossing]


def test_flops_are_what_archcalc_flops_says() -> None:
    spec = load_spec("k25")
    for row in rows(flops_figure(cases(models(["k25"]), [""], [2]), Range(1000, 9000))):
        told = flops_quantities(spec, Workload(batch=2, seq=row["seq"]))
        assert row["forward"] == told["flops.forward"]
        assert row["linear"] == told["flops.linear"]
        assert row["attention_core"] == told["flops.attention_core"]


def test_no_crossing_is_marked_where_attention_stays_below() -> None:
    assert not flops_figure(cases(models(["k25"]), [""], [1]), Range(1024, 8192)).panels[0].marks


# --------------------------------------------------------------------------------------------- training


def test_every_rank_is_what_archcalc_train_says_and_its_layers_add_up_to_the_peak() -> None:
    (training,) = trainings(models(["kimi-k2"]), ["k2-pretrain"], ())
    figure = train_figure([training])
    told = train_report(training.model.spec, training.plan)
    assert told.rows is not None
    peaks = [row["peak_bytes"] for row in told.rows.rows]
    assert list(figure.panels[0].totals()) == peaks
    for row, expected in zip(rows(figure), told.rows.rows, strict=True):
        assert {key: row[key] for key in expected if key not in ("path", "moment")} == {
            key: value for key, value in expected.items() if key not in ("path", "moment")
        }
        assert row["fits"] == (row["peak_bytes"] <= row["limit_bytes"])
    (mark,) = figure.panels[0].marks
    assert (mark.x, mark.y) == (told.quantities["train.worst_rank"], max(peaks))
    assert ("fits" in mark.text) == told.quantities["train.fits"]


def test_training_against_length_passes_through_the_plans_own_peak() -> None:
    found = trainings(models(["kimi-k2"]), ["k2-pretrain"], ())
    figure = training_memory_figure(found, Range(2048, 8192))
    peaks = {row["seq"]: row["peak_bytes"] for row in rows(figure)}
    for seq, peak in peaks.items():
        (at,) = trainings(models(["kimi-k2"]), ["k2-pretrain"], (f"batch.seq={seq}",))
        assert peak == train_report(at.model.spec, at.plan).quantities["train.peak_bytes"]
    assert list(figure.panels[0].totals()) == list(peaks.values())


def test_lengths_that_the_plan_can_not_divide_are_left_out_and_named() -> None:
    # 67,108,864 tokens a step over 256 / 16 = 16 pipelines: 16 sequences of 262,144 each, or 8 of 524,288, which are
    # too few for 16 stages.
    found = trainings(models(["kimi-k2"]), ["k2-pretrain"], ())
    figure = training_memory_figure(found, Range(262_144, 524_288))
    assert figure.panels[0].xs == (262_144,)
    assert any("524,288 tokens are left out" in note for note in figure.report.notes)
    with pytest.raises(InputError):
        training_memory_figure(found, Range(524_288, 1_048_576))


def test_overrides_reach_every_panel_and_are_named() -> None:
    (plain,) = trainings(models(["kimi-k2"]), ["k2-pretrain"], ())
    changed = trainings(models(["kimi-k2"]), ["k2-pretrain"], ("memory.fixed=0GB",))
    assert "memory.fixed=0GB" in train_figure(changed).setting
    # 4 GB of fixed memory less; the plan has 4GB (specs/plans/k2-pretrain.yaml).
    before, after = (rows(train_figure([training]))[0]["fixed_bytes"] for training in (plain, changed[0]))
    assert before - after == 4_000_000_000
