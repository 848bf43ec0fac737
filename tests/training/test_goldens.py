"""Megatron-LM's functional tests: every row is predicted, or names what is missing; medians as the project asks.

tests/published/megatron-goldens.yaml says where the figures are from, docs/validation.md what each row is off.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest

from archcalc.training.rank import left
from archcalc.training.schedule import Pipeline, get_schedule
from tests.training.goldens.rows import Golden, rows, table
from tests.training.goldens.table import (
    MARKS,
    PAGE,
    WITHIN_ACTIVATION,
    WITHIN_RESTING,
    Predicted,
    generated,
    group,
    split,
)
from tests.training.goldens.translate import MISSING, core, layout, missing, vocabulary
from tests.training.goldens.workspaces import fixed

ROWS = rows()
PREDICTED, LISTED = split(ROWS)
KNOWN = [each for each in PREDICTED if each.row.world is not None]
MIB = 2**20


def named(name: str, **changes: Any) -> Golden:
    """A row by its name; `changes` are of its settings."""
    found = next(row for row in ROWS if row.id.endswith(name))
    return Golden(**{**vars(found), "run": {**found.run, **changes}})


def test_rows_are_named_once_and_say_where_they_are_from() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS) == 176
    for row in ROWS:
        assert row.container in ("dev", "lts"), row.id
        assert row.device in ("a100", "h100", "gb200"), row.id
        assert len(row.commit) == 10, row.id
        assert row.date.startswith("202"), row.id
        assert max(row.resting, row.first or 0) <= row.peak, row.id


def test_every_row_is_predicted_or_names_what_is_missing_from_a_closed_list() -> None:
    assert len(PREDICTED) + len(LISTED) == len(ROWS)
    for row, lacks in LISTED:
        assert set() < set(lacks) <= MISSING.keys(), row.id
    for each in PREDICTED:
        assert each.rank.peak >= each.resting > 0, each.row.id


def test_at_least_seventy_rows_of_known_world_are_predicted_within_the_medians_asked_for() -> None:
    assert len(KNOWN) >= 70
    assert median(abs(each.resting_error) for each in KNOWN) <= WITHIN_RESTING
    assert median(abs(each.activation_error) for each in KNOWN) <= WITHIN_ACTIVATION


@pytest.mark.parametrize("name", sorted({group(each.row) for each in KNOWN}))
def test_each_kind_of_rows_is_within_the_medians_without_those_that_taught(name: str) -> None:
    some = [each for each in KNOWN if group(each.row) == name and not each.row.taught]
    assert median(abs(each.resting_error) for each in some) <= WITHIN_RESTING
    assert median(abs(each.activation_error) for each in some) <= WITHIN_ACTIVATION


def test_a_world_that_no_recipe_names_is_inferred_only_where_nothing_depends_on_it() -> None:
    for each in PREDICTED:
        assert each.row.world is not None or not each.row["dist_optimizer"], each.row.id


def test_a_plain_run_is_predicted_to_a_fraction_of_a_mebibyte() -> None:
    # parameters 64,109,568 at 6 + 12/8 bytes; two workspaces of 32 MiB, and TransformerEngine's 4 MiB
    plain = Predicted(named("tp1_pp1_dist_optimizer_no_mmap_bin_files lts a100"))
    assert plain.resting == 64_109_568 * 15 // 2 + 68 * MIB
    assert abs(plain.resting - plain.row.resting) < 4096
    # 12 layers of 34 sbh + 5 as²b and their statistics, the norm and head, 6 TV, the embedding's mask, the loader's
    assert plain.rank.peak == pytest.approx(plain.row.peak, abs=MIB)


def test_the_page_has_what_the_rows_give_now() -> None:
    text = PAGE.read_text()
    assert text[text.index(MARKS[0]) : text.index(MARKS[1]) + len(MARKS[1])] == generated(ROWS), (
        "python -m tests.training.goldens --write"
    )


# --------------------------------------------------------------------------------------- translation


def test_attention_is_the_kernel_that_transformer_engine_takes() -> None:
    auto = "frozen_resume_torch_dist_dist_optimizer"
    assert [core(named(f"tp1_pp1_{auto} {where}")) for where in ("dev a100", "dev h100", "lts a100")] == [
        "flash-attn",
        "flash",
        "unfused",
    ]
    nondeterministic = named("tp2_pp2_resume_torch_dist_reshard_1x4xNone dev gb200")
    assert core(nondeterministic) == "flash"
    assert core(named("tp2_pp2_resume_torch_dist_ddp_average_in_collective dev gb200")) == "flash-attn"


def test_layers_of_stages_are_read_off_layouts_and_split_options() -> None:
    assert layout(named("uneven_pipeline dev h100")) == [2, 4, 4, 2]
    assert layout(named("account_for_embedding_loss_in_pipeline_split dev h100")) == [0, 1, 1, 1, 1, 1, 1, 0]
    assert layout(named("fine_grained_offloading dev h100")) == [3, 2, 2, 2, 2, 2, 2, 0]


def test_a_vocabulary_is_padded_to_the_multiple_of_the_launcher() -> None:
    assert vocabulary(named("tp1_pp4_vp1 dev h100")) == 50_304
    assert vocabulary(named("ep4_etp1_memory_speed dev h100")) == 51_712  # 8 x 3232 x 2


def test_a_plan_says_what_its_stack_does_not() -> None:
    deterministic = named("tp1_pp1_dist_optimizer_no_mmap_bin_files dev gb200")
    assert fixed(deterministic) == 2 * (32 * MIB - 8320 * 1024)  # 8 x 4 MiB asked for, 8,320 KiB in the stack
    assert fixed(named("tp1_pp1_dist_optimizer_no_mmap_bin_files dev h100")) == 0
    # tokens of 8 ranks gathered: 8 x 4 x 1024 of width 512 in 16 bit
    assert fixed(named("gpt3_moe_mcore_te_ep8_resume_torch_dist_dist_optimizer dev h100")) == 2 * 8 * 4 * 1024 * 512
    # local layers: two workspaces and the scores, 4 x 8 x 1024 x 1024
    local = named("gpt3_mcore_tp1_pp1_resume_torch_dist_dist_optimizer_overlap_grad_reduce_param_gather dev h100")
    assert fixed(local) == 64 * MIB + 2 * 4 * 8 * 1024 * 1024


def test_a_table_of_rows_is_read_like_the_file(tmp_path: Any) -> None:
    row = named("tp1_pp4_vp1 lts a100")
    settings = {key: value for key, value in row.run.items() if value is not None}
    line = {
        "test": row.test,
        "family": "gpt",
        "platform": "lts_dgx_a100",
        "world": "8",
        "golden_commit": row.commit,
        "golden_date": row.date,
        "steady_allocated_bytes": row.resting,
        "peak_bytes": row.peak,
        "peak_iteration_1_bytes": row.first,
        **{key: value if not isinstance(value, bool) else "yes" if value else "no" for key, value in settings.items()},
    }
    file = tmp_path / "rows.csv"
    file.write_text(",".join(line) + "\n" + ",".join(str(value) for value in line.values()) + "\n")
    (again,) = table(file)
    assert (again.id, again.resting, again.world) == (row.id, row.resting, 8)
    assert missing(again) == ()
    assert Predicted(again).resting == Predicted(row).resting
    assert Predicted(again).rank.peak == Predicted(row).rank.peak


# --------------------------------------------------------------------------------------- what stays between steps


@pytest.mark.parametrize(
    ("kind", "vpp", "expected"),
    [("1f1b", 1, [0, 2, 2, 2]), ("interleaved-1f1b", 3, [4, 6, 6, 6])],
)
def test_each_chunk_that_is_given_an_input_holds_it_and_its_gradient(kind: str, vpp: int, expected: list[int]) -> None:
    pipeline = Pipeline(pp=4, vpp=vpp, micro_batches=8)
    assert [left(get_schedule(kind), pipeline, rank, 1) for rank in range(4)] == expected
    assert left(get_schedule("1f1b"), Pipeline(pp=1, vpp=1, micro_batches=8), 0, 1) == 0


def test_copies_of_16_bit_gradients_stay_until_the_next_step() -> None:
    row = named("gpt3_mcore_tp1_pp1_resume_torch_dist_dist_optimizer_overlap_grad_reduce_param_gather dev h100")
    half, whole = Predicted(row), Predicted(named(row.id, precision="bf16"))
    assert half.rank.static.copied == 4 * 64_109_568 // 8
    assert whole.rank.static.copied == 0
    assert whole.resting - half.resting == 2 * 64_109_568 - half.rank.static.copied
