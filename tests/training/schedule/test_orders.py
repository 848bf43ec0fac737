"""Orders written out by hand."""

from archcalc.training.schedule import Op, Pipeline, get_schedule, patterns


def written(kind: str, rank: int, pipeline: Pipeline) -> str:
    """F01 is the forward of chunk 0, micro-batch 1."""
    get_schedule(kind).validate(pipeline)
    order = get_schedule(kind).order(pipeline, rank)
    return " ".join(f"{op.kind}{op.chunk}{op.micro_batch}" for op in order)


def test_gpipe_runs_all_forwards_first():
    assert written("gpipe", 1, Pipeline(pp=2, micro_batches=3)) == "F00 F01 F02 B00 B01 B02"


def test_1f1b_warms_up_by_the_distance_to_the_last_rank():
    pipeline = Pipeline(pp=3, micro_batches=4)
    assert written("1f1b", 0, pipeline) == "F00 F01 F02 B00 F03 B01 B02 B03"
    assert written("1f1b", 2, pipeline) == "F00 B00 F01 B01 F02 B02 F03 B03"


# From Megatron-LM's table: groups of G micro-batches on chunk 0, then on chunk 1; backwards the same with the
# chunks turned round. Warm-up of the last rank (VPP-1)G = 2, then one forward, one backward.
def test_interleaved_1f1b_takes_a_group_through_one_chunk_and_then_the_next():
    assert written("interleaved-1f1b", 1, Pipeline(pp=2, vpp=2, micro_batches=4)) == (
        "F00 F01 F10 B10 F11 B11 F02 B00 F03 B01 F12 B12 F13 B13 B02 B03"
    )


def test_interleaved_1f1b_takes_two_steps_of_warmup_for_each_rank_to_come():
    assert written("interleaved-1f1b", 0, Pipeline(pp=2, vpp=2, micro_batches=4)).startswith(
        "F00 F01 F10 F11 F02 B10 F03 B11"
    )


def test_the_last_group_may_be_smaller():
    # 5 micro-batches in groups of 3: 0 1 2, then 3 4. Warm-up of the last rank 3, overlapped 4.
    pipeline = Pipeline(pp=2, vpp=2, micro_batches=5, group=3, extra_warmup=1)
    assert written("interleaved-1f1b", 1, pipeline) == (
        "F00 F01 F02 F10 F11 B10 F12 B11 F03 B12 F04 B00 F13 B01 F14 B02 B13 B14 B03 B04"
    )


def test_zb_h1_holds_weight_gradients_back_by_the_rank():
    pipeline = Pipeline(pp=3, micro_batches=4)
    assert written("zb-h1", 0, pipeline) == "F00 F01 F02 I00 W00 F03 I01 W01 I02 W02 I03 W03"
    assert written("zb-h1", 2, pipeline) == "F00 I00 F01 I01 F02 I02 W00 F03 I03 W01 W02 W03"


def test_zb_h2_doubles_warmup_and_delay():
    pipeline = Pipeline(pp=2, micro_batches=4)
    assert written("zb-h2", 0, pipeline) == "F00 F01 F02 I00 W00 F03 I01 W01 I02 W02 I03 W03"
    assert written("zb-h2", 1, pipeline) == "F00 I00 F01 I01 F02 I02 W00 F03 I03 W01 W02 W03"


def test_dualpipe_on_two_ranks():
    # Its phases with one rank each way (github.com/deepseek-ai/DualPipe): F0F1 once, F0B1F1B0 once, B1B0 once
    # with the second split, W once. Micro-batches 0 and 2 enter at rank 0, 1 and 3 at rank 1.
    assert written("dualpipe", 0, Pipeline(pp=2, micro_batches=4)) == "F00 F11 F02 B11 F13 B00 B13 I02 W02"
    assert written("dualpipe", 1, Pipeline(pp=2, micro_batches=4)) == "F11 F00 F13 B00 F02 B11 B02 I13 W13"


def test_an_operation_is_a_plain_tuple():
    assert Op("F", 0, 1) == ("F", 0, 1)


def test_phases_without_the_last_micro_batches_keep_gaps_where_those_ran():
    # Of 3 micro-batches chunk 1 has run one before, so that its turn is empty the third time.
    phases = patterns.written((1, "F1"), (3, "F0 F1"), (2, "F1"))
    assert patterns.up_to(phases, 3) == patterns.written((1, "F1"), (2, "F0 F1"), (1, "F0"))
