"""The numbers behind plots: they are the calculators' own, and limits, crossings and marks stand where they say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from archcalc.calc.kv_cache import Mesh
from archcalc.documents.flops import flops_quantities
from archcalc.documents.kv import kv_report
from archcalc.documents.serve import serve
from archcalc.documents.sweep.cases import Range, cases, models, span
from archcalc.documents.sweep.figure import Figure
from archcalc.documents.sweep.flops import flops_figure
from archcalc.documents.sweep.kv import kv_figure
from archcalc.documents.sweep.memory import memory_figure
from archcalc.documents.sweep.training import train_figure, training_memory_figure, trainings
from archcalc.documents.train import train_report
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.workload import Workload
from tests.support import ROOT, text

RANGE = Range(4096, 262144)


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
        "kv": lambda: kv_figure(found, RANGE, Mesh(tp=8)),
        "flops": lambda: flops_figure(found, RANGE),
        "memory": lambda: memory_figure(found, RANGE, ["h200"], tp=8),
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
    table = memory_figure(cases(models(["k25"]), ["bf16"], [1]), RANGE).report.rows
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
    figure = kv_figure(cases(models(["llama-3.1-405b"]), ["bf16"], [3]), RANGE, Mesh(tp=8))
    spec = load_spec("llama-3.1-405b")
    for row in rows(figure):
        assert row["bytes_per_device"] == 3 * 64_512 * row["context"]
        workload = Workload(batch=3, context=row["context"])
        told = kv_report(spec, workload, mesh=Mesh(tp=8)).quantities
        assert row["bytes_per_device"] == told["kv.bytes_per_device"]
        assert row["total_bytes"] == told["kv.total_bytes"]


def test_lines_of_one_colour_differ_in_nothing_but_the_cache_dtype() -> None:
    figure = kv_figure(cases(models(["k25", "llama-3.1-70b"]), ["bf16", "fp8"], [1]), RANGE)
    assert [(c.hue, c.dash) for c in figure.panels[0].curves] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_more_lines_than_can_be_told_apart_are_refused() -> None:
    with pytest.raises(InputError, match="13 lines of one picture: the limit `lines` is 12"):
        kv_figure(cases(models(["k25"]), ["bf16"], list(range(1, 14))), RANGE)


def test_an_error_names_the_spec_that_it_is_about() -> None:
    found = cases(models(["k25", "llama-3.1-70b"]), ["fp8_ds_mla"], [1])
    with pytest.raises(InputError, match=r"Llama 3\.1 70B: .*self_attn keeps key"):
        kv_figure(found, RANGE)


# ----------------------------------------------------------------------------------------------- memory


def test_one_device_without_a_gpu_holds_the_whole_checkpoint_and_has_no_limit() -> None:
    figure = memory_figure(cases(models(["k25"]), ["bf16"], [1]), RANGE)
    first = rows(figure)[0]
    # tests/published/checkpoints.yaml: the checkpoint of K2.5, tensor data of its 64 shards.
    assert first["weights_bytes"] == 595_148_192_736
    # What `serve` says of a device that is large enough.
    assert 0 < first["overhead_bytes"] < 1 << 33
    assert first["kv_bytes"] == 70_272 * 4096
    assert first["total_bytes"] == sum(first[key] for key in ("weights_bytes", "overhead_bytes", "kv_bytes"))
    assert figure.panels[0].limit is None
    assert not figure.panels[0].marks
    assert "fits" not in first


LAYOUTS: list[dict[str, Any]] = [
    {"tp": 8},
    {"tp": 8, "dcp": 8},
    {"tp": 1, "dp": 8, "ep": "all"},
    {"tp": 8, "pp": 2},
    {"tp": 8, "dp": 2, "lora_rank": 16, "mtp": True, "kv_dtype": "fp8", "batch": 5},
    {"tp": 8, "engine": "sglang", "overhead": 8 << 30},
    {"tp": 16, "engine": "vllm-v0", "batched_tokens": None},
    {"tp": 8, "draft": "gemma-3-27b", "language_only": True, "offload_experts": 7},
]


@pytest.mark.parametrize("flags", LAYOUTS, ids=lambda flags: " ".join(f"{k} {v}" for k, v in flags.items()))
@pytest.mark.parametrize("gpu", ["h200", "rtx-pro-6000"])
def test_every_listed_memory_is_what_archcalc_serve_says(flags: dict[str, Any], gpu: str) -> None:
    spec = "deepseek-v3"
    case = {"kv_dtype": flags.get("kv_dtype", "bf16"), "batch": flags.get("batch", 8)}
    asked = {name: value for name, value in flags.items() if name not in case}
    found = cases(models([spec]), [case["kv_dtype"]], [case["batch"]])
    # 2,000 tokens: fewer than an eighth of vLLM's workspace for latents, so that overhead is less there, too.
    figure = memory_figure(found, Range(2000, 100_000), [gpu], **asked)
    assert [row["context"] for row in rows(figure)] == [2000, 2048, 4096, 8192, 16384, 32768, 65536, 100_000]
    for row in rows(figure):
        told = serve(load_spec(spec), gpu=gpu, context=row["context"], **case, **asked)
        q = told.quantities
        for key in ("weights_bytes", "overhead_bytes", "kv_bytes", "margin_bytes", "gpus", "fits"):
            assert row[key] == q[f"serve.{key}"], (key, row["context"])
        assert row["limit_bytes"] - row["total_bytes"] == row["margin_bytes"]
        assert told.rows is not None
        (free,) = (each for each in told.rows.rows if each["path"] == "free")
        assert (row["margin_bytes_low"], row["margin_bytes_high"]) == (free["low"], free["high"])
        assert row["verdict"].startswith(told.extra["verdict"])


def test_the_layout_is_what_serve_finds_for_the_longest_context() -> None:
    found = cases(models(["k25", "llama-3.1-70b"]), ["bf16"], [8])
    figure = memory_figure(found, Range(4096, 131_072), ["h200", "h100"])
    last = [row for row in rows(figure) if row["context"] == 131_072]
    for row, gpu, spec in zip(last, ["h200", "h100"] * 2, ["k25"] * 2 + ["llama-3.1-70b"] * 2, strict=True):
        told = serve(load_spec(spec), gpu=gpu, context=131_072, batch=8)
        assert (row["gpu"], row["spec"]) == (gpu, spec)
        assert row["gpus"] == told.quantities["serve.gpus"]
        assert told.rows is not None
        assert told.rows.title == f"each of {row['gpus']}, {row['layout']}"
        title = f"{row['gpus']} x {gpu}, {row['layout']}"
        assert [panel.title for panel in figure.panels if panel.title.endswith(title)]
        assert [note for note in figure.report.notes if f"{row['layout']}: layout found for 131,072 tokens" in note]
    # Each GPU has a line of its own, and is named by it.
    assert len({panel.limit for panel in figure.panels}) == 2


def test_a_layout_that_was_asked_for_is_not_said_to_be_found() -> None:
    for flags in ({"tp": 8}, {"tp": 8, "gpus": 8}, {"tp": 4, "dp": 2, "ep": 8, "gpus": 8}):
        figure = memory_figure(cases(models(["k25"]), ["bf16"], [1]), RANGE, ["h200"], **flags)
        assert not [note for note in figure.report.notes if "layout found" in note]
    for flags in ({"gpus": 8}, {"gpus": 16, "tp": 8}, {"tp": 4, "dp": 2}):
        figure = memory_figure(cases(models(["k25"]), ["bf16"], [1]), RANGE, ["h200"], **flags)
        assert [note for note in figure.report.notes if "layout found for 262,144 tokens" in note]
        assert not [note for note in figure.report.notes if "searched: ." in note]


def test_a_layout_that_does_not_fit_is_not_said_to_be_found_and_one_try_is_no_search() -> None:
    drawn = cases(models(["k25"]), ["bf16"], [1])
    (said,) = memory_figure(drawn, RANGE, ["h100"], gpus=8).report.notes
    assert said.endswith("no layout fits, this one lacks least for 262,144 tokens.")
    (said,) = memory_figure(drawn, RANGE, ["h200"], offload_experts="host").report.notes
    assert said.endswith("layout found for 262,144 tokens.")


def test_lines_of_several_gpus_have_the_limit_of_each() -> None:
    found = cases(models(["k25", "llama-3.1-70b"]), ["bf16", "fp8"], [1])
    figure = memory_figure(found, RANGE, ["h200", "b200"], gpus=8)
    (panel,) = figure.panels
    assert len(panel.curves) == 8
    assert ["usable of b200" in limit.label for limit in panel.limits] == [True, False]
    assert len({(curve.hue, curve.dash) for curve in panel.curves}) == 8
    # An engine that puts CUDA graphs on top of its share has a limit for each model: the lowest of a GPU is drawn.
    figure = memory_figure(found, RANGE, ["h200", "b200"], gpus=8, engine="sglang")
    lowest = {gpu: min(row["limit_bytes"] for row in rows(figure) if row["gpu"] == gpu) for gpu in ("b200", "h200")}
    assert [limit.value for limit in figure.panels[0].limits] == [lowest["b200"], lowest["h200"]]


@pytest.mark.parametrize(
    "flags", [{"tp": 8}, {"tp": 8, "dp": 2}, {"tp": 8, "pp": 2}, {"tp": 8, "dcp": 8, "engine": "vllm-0.8"}]
)
@pytest.mark.parametrize("batch", [3, 8])
def test_the_marked_context_is_the_last_that_fits(flags: dict[str, Any], batch: int) -> None:
    found = cases(models(["k25"]), ["bf16"], [batch])
    figure = memory_figure(found, Range(1024, 1 << 24), ["h200"], **flags)
    panel = figure.panels[0]
    (mark,) = panel.marks
    assert mark.text.startswith(f"fits up to {mark.x:,} tokens, tight from ")
    assert panel.limit is not None
    assert mark.y == panel.limit.value
    (crossing,) = figure.report.tables[0].rows

    def told(context: int) -> tuple[Any, Any]:
        report = serve(load_spec("k25"), gpu="h200", context=context, batch=batch, **flags)
        return report.quantities["serve.fits"], report.extra["verdict"]

    assert told(mark.x)[0]
    assert not told(mark.x + 1)[0]
    low, high = crossing["last_context_low"], crossing["last_context_high"]
    assert [told(n)[1] for n in (low, low + 1, high, high + 1)] == ["fits", "tight", "tight", "does not fit"]
    assert mark.text.endswith(f"tight from {low + 1:,}")


def test_whole_prompts_that_do_not_fit_are_told_though_longer_ones_do() -> None:
    # specs/engines/vllm-v0.yaml: prompts of up to 32k run in one step, longer ones are cut, and their overhead is less.
    found = cases(models(["k25"]), ["bf16"], [1])
    flags = {"tp": 8, "engine": "vllm-v0", "utilization": 0.58}
    figure = memory_figure(found, Range(4096, 49_152), ["h200"], **flags)
    assert [row["fits"] for row in rows(figure)] == [True, True, True, False, True]
    assert "not at every length before" in figure.panels[0].verdict


def test_a_limit_that_depends_on_the_fullest_stage_is_told() -> None:
    # SGLang's graphs come on top of its share, and stages of 10 and 11 layers have graphs of their own sizes.
    found = cases(models(["gemma-3-27b"]), ["bf16"], [8])
    figure = memory_figure(found, Range(4096, 131_072), ["rtx4090"], engine="sglang", tp=8, pp=6)
    limits = [row["limit_bytes"] for row in rows(figure)]
    assert len(set(limits)) == 2
    assert figure.panels[0].limit is not None
    assert figure.panels[0].limit.value == limits[-1]
    assert [note for note in figure.report.notes if "depends on the fullest stage" in note]


def test_devices_of_any_size_take_their_layout_from_the_flags() -> None:
    found = cases(models(["llama-3.1-405b"]), ["bf16"], [4])
    for flags, layout in (
        ({}, "tp 1"),
        ({"tp": 8}, "tp 8"),
        ({"gpus": 8}, "tp 8"),
        ({"dp": 4}, "tp 1 x dp 4"),
        ({"tp": 4, "pp": 3}, "tp 4 x pp 3"),
        ({"tp": 16, "dcp": 2}, "tp 16, dcp 2"),
    ):
        figure = memory_figure(found, RANGE, **flags)  # type: ignore[arg-type]
        assert {row["layout"] for row in rows(figure)} == {layout}
        assert not figure.panels[0].limits
        assert not [note for note in figure.report.notes if "layout" in note]


@pytest.mark.parametrize(
    ("batch", "over", "says"),
    [
        (1, RANGE, "past this range"),
        (64, Range(131_072, 262_144), "before this range"),
    ],
)
def test_a_crossing_outside_the_range_is_told_but_not_marked(batch: int, over: Range, says: str) -> None:
    panel = memory_figure(cases(models(["k25"]), ["bf16"], [batch]), over, ["h200"], tp=8).panels[0]
    assert not panel.marks
    assert panel.verdict.endswith(says)


def test_weights_that_are_too_large_alone_are_said_to_be() -> None:
    panel = memory_figure(cases(models(["k25"]), ["bf16"], [1]), RANGE, ["h200"], tp=1).panels[0]
    assert panel.verdict == "weights and overhead do not fit"


def test_up_to_six_cases_are_stacks_and_more_are_lines_of_the_same_heights() -> None:
    six = memory_figure(cases(models(["k25"]), ["bf16", "fp8"], [1, 2, 4]), RANGE, ["h200"], tp=8)
    eight = memory_figure(cases(models(["k25"]), ["bf16", "fp8"], [1, 2, 4, 8]), RANGE, ["h200"], tp=8)
    assert (six.shape, len(six.panels)) == ("areas", 6)
    assert (eight.shape, len(eight.panels)) == ("lines", 1)
    assert six.panels[2].title == "bf16 cache, 4 sequences"
    assert eight.panels[0].curves[2].values == six.panels[2].totals()


def test_the_models_own_limit_is_shown_where_the_range_passes_it() -> None:
    # Llama 3.1 405B: max_position_embeddings 131072.
    found = cases(models(["k25", "llama-3.1-405b"]), ["bf16"], [1])
    figure = memory_figure(found, RANGE, ["h200"], tp=8)
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
        drawn = {key: value for key, value in expected.items() if key not in ("path", "moment", "checkpoint_bytes")}
        assert {key: row[key] for key in drawn} == drawn
        assert row["fits"] == (row["peak_bytes"] <= row["limit_bytes"])
    (mark,) = figure.panels[0].marks
    assert (mark.x, mark.y) == (told.quantities["train.worst_rank"], max(peaks))
    assert ("fits" in mark.text) == told.quantities["train.fits"]


def test_gradients_that_are_still_to_be_made_are_not_drawn() -> None:
    """FSDP2 with one micro-batch a step: at the worst moment of a backward that starts there are none yet."""
    (training,) = trainings(models(["llama-3.1-8b"]), ["llama-3-8b-fsdp2"], ())
    told = train_report(training.model.spec, training.plan)
    assert told.rows is not None
    assert any("unmade_bytes" in row for row in told.rows.rows), "the case must have some"
    figure = train_figure([training])
    assert list(figure.panels[0].totals()) == [row["peak_bytes"] for row in told.rows.rows]


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


def second(tmp_path: Path, *changes: tuple[str, str]) -> str:
    """A copy of the bundled plan, named `second`, with words changed."""
    content = (ROOT / "specs" / "plans" / "k2-pretrain.yaml").read_text().replace("name: k2-pretrain", "name: second")
    for old, new in changes:
        assert old in content
        content = content.replace(old, new)
    path = tmp_path / "second.yaml"
    path.write_text(content)
    return str(path)


def test_panels_of_two_plans_keep_what_differs_between_them(tmp_path: Path) -> None:
    other = second(
        tmp_path, ("world: 256", "world: 512"), ("pp: 16 ", "pp: 32 "), ("vpp: 2 ", "vpp: 1 "),
        ("kind: interleaved-1f1b", "kind: 1f1b"), ("  extra_warmup: 1 ", "  # "), ("seq: 4096", "seq: 8192"),
        ("offload: all", "offload: none"),
    )  # fmt: skip
    found = trainings(models(["k25"]), ["k2-pretrain", other], ())
    figure = train_figure(found)
    h800, offload = "NVIDIA H800 SXM5 80GB", "activations.offload"
    assert [panel.title for panel in figure.panels] == [
        f"k2-pretrain, 256 x {h800}, pp 16, vpp 2, interleaved-1f1b, extra_warmup 1, seq 4,096, {offload} all",
        f"second, 512 x {h800}, pp 32, vpp 1, 1f1b, seq 8,192, {offload} none",
    ]
    assert figure.setting == ""
    # Against the sequence length, each plan's own is no difference.
    swept = training_memory_figure(found, Range(4096, 8192))
    assert [panel.title for panel in swept.panels] == [
        panel.title.replace(", seq 4,096", "").replace(", seq 8,192", "") for panel in figure.panels
    ]


def test_what_two_plans_have_in_common_is_said_once_and_alone(tmp_path: Path) -> None:
    figure = train_figure(trainings(models(["k25", "kimi-k2"]), ["k2-pretrain", second(tmp_path)], ()))
    assert [panel.title for panel in figure.panels] == [
        "Kimi K2.5, k2-pretrain", "Kimi K2.5, second", "Kimi K2, k2-pretrain", "Kimi K2, second",
    ]  # fmt: skip
    assert figure.setting == "256 x NVIDIA H800 SXM5 80GB, interleaved-1f1b"


def test_panels_of_two_gpus_keep_their_numbers_of_devices() -> None:
    figure = memory_figure(cases(models(["k25"]), ["bf16"], [1]), RANGE, ["h200", "h100"])
    numbers = {(row["gpu"], row["gpus"], row["layout"]) for row in rows(figure)}
    assert len({count for _, count, _ in numbers}) == 2
    assert {panel.title for panel in figure.panels} == {f"{n} x {gpu}, {layout}" for gpu, n, layout in numbers}
    assert [panel.limit and panel.limit.short for panel in figure.panels] == [
        ("usable", "of h200"), ("usable", "of h100"),
    ]  # fmt: skip
