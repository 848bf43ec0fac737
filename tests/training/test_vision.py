"""Pictures in a plan: Kimi K2.5 with images and videos, phase by phase.

By hand, MoonViT-3D and its projector under fused kernels. An image of 896x896 is 64 x 64 = 4096 patches of 14x14
pixels, merged 2x2: 1024 tokens. Kept of a patch [bytes]:

    pixels              3·14·14·2                                                        =   1,176
    a block             two norms: input 2·1152, mean 4, rstd 4, output 2·1152, each     =   9,232
                        qkv, whole for the sake of v 6·1152; rotated q and k 4·1152;
                        attention's output 2·1152 and logsumexp 4·16                     =  13,888
                        what goes into GELU and what comes out 2·2·4304                  =  17,216
                        in all                                                           =  40,336
    the last norm       2·1152 + 8 (its output, merged, is the projector's input)        =   2,312
    the projector       input 2·1152, mean, rstd, output 2·1152, GELU's both 2·2·1152    =   9,224

The last two terms of the projector are of 4608 features for each token of four patches.

Parameters: a layer has qkv and the output's matrix, both with biases, two of the feed-forward, and two norms; before
27 of them the embedding of 14x14 patches of three colours and 64x64 positions, behind them a norm. The projector has a
norm of a patch, and two matrices on the 4608 features of four.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.documents.train import run_of, train, train_report, training_tape
from archcalc.documents.train_vision import tower_of
from archcalc.errors import InputError, SpecError
from archcalc.files.loader import bundled_dir
from archcalc.tape import product
from archcalc.training.images import sight
from archcalc.training.load import load_plan
from archcalc.training.memory import RankMemory, segment_of, training_memory, worst
from archcalc.training.phases import passage, tower_chunk
from archcalc.training.schedule import SCHEDULES, Pipeline, State, all_states, ended_states, get_schedule
from archcalc.workload import Workload
from tests.support import run
from tests.training.plans import k2_plan, spec

PATCHES, TOKENS, HIDDEN = 64 * 64, 32 * 32, 7168
BLOCK, ENDS, PROJECTOR = 40_336, 1_176 + 2_312, 9_224
KEPT = PATCHES * (ENDS + 27 * BLOCK + PROJECTOR)
OUTPUT = TOKENS * HIDDEN * 2
IMAGE = "batch.images={size: 896x896, per_sequence: 1}"
ONE_CHUNK = ("parallel.vpp=1", "schedule.kind=1f1b", "parallel.world=2048", "activations.offload=none")
WIDE, INNER, FOUR = 1152, 4304, 4 * 1152
LAYER_WEIGHTS = 4 * (WIDE * WIDE + WIDE) + 2 * WIDE * INNER + INNER + WIDE + 2 * 2 * WIDE
TOWER_WEIGHTS = 27 * LAYER_WEIGHTS + 3 * 14 * 14 * WIDE + WIDE + 64 * 64 * WIDE + 2 * WIDE
PROJECTOR_WEIGHTS = 2 * WIDE + FOUR * FOUR + FOUR + FOUR * HIDDEN + HIDDEN
UNFUSED = ("memory.gradient_accumulation_fusion=false",)


def k25(*overrides: str, name: str = "k25") -> list[RankMemory]:
    return training_memory(run_of(spec(name), k2_plan(*overrides)))


def phase(memory: RankMemory, name: str) -> Any:
    (found,) = (moment for moment in memory.moments if moment.phase == name)
    return found


# -------------------------------------------------------------------------------------------------- in the first stage


def test_a_tower_in_the_first_stage_keeps_its_activations_for_every_live_micro_batch() -> None:
    # 1F1B, one warm-up more: rank 0 of 16 holds 17 micro-batches
    assert KEPT == 4096 * 1_101_784 == 4_512_907_264
    with_images, without = (
        k25(*ONE_CHUNK, IMAGE, "vision.process=first-stage"),
        k25(*ONE_CHUNK, "vision.process=first-stage"),
    )
    assert with_images[0].live_chunks == 17
    assert with_images[0].activation - without[0].activation == 17 * KEPT
    assert [r.peak for r in with_images[1:]] == [r.peak for r in without[1:]], "no other rank has any of it"


@pytest.mark.parametrize("micro_batches", [1, 2, 5, 16, 40])
def test_the_first_stage_keeps_more_with_every_live_micro_batch(
    micro_batches: int,
) -> None:
    sizes = (*ONE_CHUNK, "vision.process=first-stage", f"batch.global_tokens={128 * 4096 * micro_batches}")
    got = k25(*sizes, IMAGE)[0].activation - k25(*sizes)[0].activation
    assert got == min(17, micro_batches) * KEPT


def test_two_sequences_at_a_time_bring_the_images_of_both() -> None:
    tower = ("vision.process=first-stage", "batch.micro_batch=2")
    got = k25(*ONE_CHUNK, *tower, IMAGE)[0].activation - k25(*ONE_CHUNK, *tower)[0].activation
    assert got == 17 * 2 * KEPT


# ----------------------------------------------------------------------------------------------------------- decoupled


def test_the_phases_of_a_decoupled_tower() -> None:
    # 67,108,864 tokens are 16,384 sequences, an image each: 64 images for each of 256 GPUs, and, over 16 data-parallel
    # groups, 1024 micro-batches of one sequence whose outputs go to a first stage.
    share, gathered = 64 * OUTPUT, 1024 * OUTPUT
    assert (share, gathered) == (939_524_096, 15_032_385_536)
    ranks = k25(IMAGE)
    forward, backward = phase(ranks[0], "vision forward"), phase(ranks[0], "vision backward")
    assert forward.activation == share + gathered
    # at GELU: the pixels, the residual, what goes in and what comes out
    assert forward.transient == PATCHES * (1_176 + 2 * 1152 + 2 * 2 * 4304)
    assert backward.activation == KEPT + share + gathered
    # at the projector's last linear: gradients of its output and of its input
    assert backward.transient == OUTPUT + TOKENS * 4608 * 2
    other = ranks[1]
    assert phase(other, "vision forward").activation == share
    assert phase(other, "vision backward").activation == KEPT + share
    assert phase(other, "pipeline").activation == k25()[1].activation, "the backbone is as on text"


def test_a_towers_weights_have_gradients_too_where_they_are_not_fused() -> None:
    """The projector's last linear, 4608 x 7168 and its bias in bf16, runs backward when the phase is at its worst."""
    made, fused = (phase(k25(IMAGE, *how)[1], "vision backward") for how in (UNFUSED, ()))
    assert made.transient - fused.transient == 2 * (4608 + 1) * 7168


def test_the_first_stage_holds_outputs_and_their_gradients_beside_the_pipelines() -> None:
    # M = 128 micro-batches; 17 are alive in the worst states, and when they are so for the last time the gradients of
    # the other 111 are there
    got, text = k25(*ONE_CHUNK, IMAGE)[0], k25(*ONE_CHUNK)[0]
    assert got.activation - text.activation == (128 + 111) * OUTPUT
    assert got.moment.endswith("vision outputs of 128 micro-batches, gradients of 111")
    assert (got.transient, got.live_chunks) == (text.transient, 17)


def test_a_decoupled_tower_that_rests_has_no_backward_and_its_outputs_no_gradients() -> None:
    """With its projector: the backbone's worst moment as on text, beside the outputs of all 1024 micro-batches."""
    resting = k25(IMAGE, "train={vision: frozen, projector: frozen}")[0]
    assert [moment.phase for moment in resting.moments] == ["vision forward", "pipeline", "optimizer step"]
    assert phase(resting, "pipeline").total - phase(k25()[0], "pipeline").total == 1024 * OUTPUT
    learning = k25(IMAGE, "train={vision: frozen}")[0]
    assert "vision backward" in [moment.phase for moment in learning.moments]


def test_a_rank_is_at_its_worst_in_its_worst_phase() -> None:
    for memory in k25(IMAGE, "parallel.world=2048"):
        assert memory.activation + memory.transient == max(moment.total for moment in memory.moments)
        phases = [moment.phase for moment in memory.moments]
        assert phases == ["vision forward", "pipeline", "vision backward", "optimizer step"]
    # four images a sequence: with all of the backbone's activations on the host, the tower's backward is the worst
    four = k25("batch.images={size: 896x896, per_sequence: 4}")[1]
    assert four.moment.startswith("vision recomputation and backward")


def test_more_images_at_a_time_are_kept_together() -> None:
    one, three = (k25(IMAGE, f"vision.micro_batch={n}")[1] for n in (1, 3))
    backward = phase(three, "vision backward")
    assert backward.activation - phase(one, "vision backward").activation == 2 * KEPT
    assert phase(three, "vision forward").transient == 3 * phase(one, "vision forward").transient
    # a device gets 64 images: no more run together
    all_of_them, more = (k25(IMAGE, f"vision.micro_batch={n}")[1] for n in (64, 100))
    assert all_of_them.moments == more.moments


def test_the_largest_of_different_images_count() -> None:
    small = "batch.images=[{size: 896x896, per_sequence: 1}, {size: 56x56, per_sequence: 3}]"
    held = phase(k25(small)[1], "vision backward")
    # 56x56 is 16 patches, 4 tokens: 3 x 64 of them a device, their outputs beside those of the large ones
    assert held.activation == KEPT + 64 * OUTPUT + 192 * 4 * HIDDEN * 2


def test_shares_are_whole_images_rounded_up() -> None:
    # 16,384 + 1 sequences can't be; 2048 GPUs of 256 sequences in all have at least one image each
    few = k25(*ONE_CHUNK, IMAGE, f"batch.global_tokens={256 * 4096}")[1]
    assert phase(few, "vision forward").activation == OUTPUT


def test_context_and_sequence_parallel_devices_divide_the_outputs_of_the_first_stage() -> None:
    plain = tower_of(spec("k25"), k2_plan(IMAGE))
    divided = tower_of(spec("k25"), k2_plan(IMAGE, "parallel.cp=2", "parallel.tp=2", "parallel.sp=true"))
    assert plain is not None
    assert divided is not None
    assert (plain.outputs, divided.outputs) == (OUTPUT, OUTPUT // 4)
    assert plain.share == divided.share, "every GPU of the world is dealt its share"


def test_both_ends_of_a_dualpipe_take_half_of_the_micro_batches() -> None:
    sizes = ("schedule.kind=dualpipe", "schedule.extra_warmup=0", "parallel.vpp=1", "parallel.world=2048")
    ranks = k25(*sizes, IMAGE)
    held = [phase(memory, "vision forward").activation - 8 * OUTPUT for memory in ranks]
    assert held == [64 * OUTPUT, *[0] * 14, 64 * OUTPUT]


# -------------------------------------------------------------------------------------------------------------- videos


def test_a_video_runs_in_chunks_of_four_frames() -> None:
    # 16 frames of 896x896 (4096 patches each, the limit of a frame): 4 chunks of 4·4096 patches that attend to one
    # another and become 1024 tokens each; frames are averaged before the projector
    video = "batch.videos={size: 16x896x896, per_sequence: 1}"
    backward = phase(k25(video)[1], "vision backward")
    chunk = 4 * PATCHES * (ENDS + 27 * BLOCK) + PATCHES * PROJECTOR
    assert backward.activation == chunk + 64 * 4 * OUTPUT
    tape = training_tape(spec("k25"), k2_plan(video))
    assert tape.vision_tokens == 4096, "a sequence that is nothing but a video"
    assert tape.workload.seq == 0


def test_the_rest_of_a_video_is_a_smaller_chunk() -> None:
    seen = sight(spec("k25").vision, k2_plan("batch.videos={size: 5x448x448, per_sequence: 2}"))
    assert [(tuple(group), n) for group, n in seen.groups] == [((4, 32, 32), 2), ((1, 32, 32), 2)]
    assert seen.tokens == 2 * 2 * 256


# -------------------------------------------------------------------------------------------------------------- frozen


def test_a_frozen_tower_has_weights_and_nothing_else() -> None:
    frozen, first = k25("vision.process=frozen", *ONE_CHUNK)[0], k25("vision.process=first-stage", *ONE_CHUNK)[0]
    assert frozen.static.params == first.static.params
    assert first.static.grads - frozen.static.grads == 4 * TOWER_WEIGHTS
    text = training_memory(run_of(spec("kimi-k2"), k2_plan(*ONE_CHUNK)))[0]
    assert frozen.static.params - text.static.params == 2 * (TOWER_WEIGHTS + PROJECTOR_WEIGHTS)
    assert frozen.static.grads - text.static.grads == 4 * PROJECTOR_WEIGHTS


def test_a_frozen_tower_keeps_nothing_but_its_projectors_activations() -> None:
    frozen = ("vision.process=frozen", *ONE_CHUNK)
    assert k25(*frozen, IMAGE)[0].activation - k25(*frozen)[0].activation == 17 * PATCHES * PROJECTOR


def test_states_of_a_frozen_tower_are_not_there() -> None:
    how = ("precision.optimizer=adamw", "parallel.zero=0", *ONE_CHUNK)
    frozen, first = (k25(f"vision.process={process}", *how)[0].static for process in ("frozen", "first-stage"))
    assert first.optimizer - frozen.optimizer == 12 * TOWER_WEIGHTS


def test_a_frozen_tower_passes_with_its_pixels() -> None:
    compiled = run_of(spec("k25"), k2_plan("vision.process=frozen", IMAGE))
    tower = [n for n, s in enumerate(compiled.tape.segments) if s.part == "vision" and s.count == 27]
    assert passage(compiled.tape, tower[0], compiled.shards) == PATCHES * (1_176 + 2 * 1152 + 2 * 2 * 4304)


def test_segments_of_a_frozen_tower_have_the_names_of_a_trained_one() -> None:
    """Layers by their numbers, and no end of the tower among them."""
    frozen, first = (run_of(spec("k25"), k2_plan(f"vision.process={way}", IMAGE)) for way in ("frozen", "first-stage"))
    tower = [n for n, s in enumerate(frozen.tape.segments) if s.part == "vision"]
    still, trained = ([segment_of(run, n) for n in tower] for run in (frozen, first))
    assert [(s.path, s.layer) for s in still] == [(s.path, s.layer) for s in trained]
    assert [s.path.rpartition(".")[2] for s in still if s.layer] == ["0-26"]


def test_a_slice_of_a_frozen_tower_stands_on_each_device_under_zero_3() -> None:
    how = ("parallel.zero=3", *ONE_CHUNK)
    frozen, first = (k25(f"vision.process={process}", *how)[0].static for process in ("frozen", "first-stage"))
    # 128 devices share each weight; slices of the two parts are rounded up apart
    assert frozen.params - first.params in (0, 1)
    # while layers run: one and the next, in 2 bytes, and the gradient of a trained one in 4
    assert first.gathered - frozen.gathered == (2 * 2 + 4 - 2 * 2) * LAYER_WEIGHTS


# ------------------------------------------------------------------------------------------ tokens instead of pictures


def test_tokens_stand_for_square_images() -> None:
    told, meant = k25(IMAGE), k25(f"batch.images={{tokens_per_sequence: {TOKENS}}}")
    assert [r.moments for r in told] == [r.moments for r in meant]


@pytest.mark.parametrize(
    ("tokens", "sides"),
    [
        (1, [28]),
        (1000, [31 * 28, 6 * 28, 28, 28, 28]),
        (4096, [1792]),
        (4097, [1792, 28]),
        (9000, [1792, 1792, 28 * 28]),
    ],
)
def test_the_largest_square_first_and_then_what_is_left(tokens: int, sides: list[int]) -> None:
    # a token is 28x28 pixels, an image 64x64 tokens at most: 1000 = 31² + 6² + 3, 9000 = 2·4096 + 28² + 24
    seen = sight(spec("k25").vision, k2_plan("batch.seq=16384", f"batch.images={{tokens_per_sequence: {tokens}}}"))
    assert [side for side, _ in seen.workload.images][: len(sides)] == sides
    assert seen.tokens == tokens
    assert sum(group.patches * n for group, n in seen.groups) == 4 * tokens


def test_tokens_of_videos_are_of_whole_chunks() -> None:
    seen = sight(spec("k25").vision, k2_plan("batch.videos={tokens_per_sequence: 1024}"))
    assert seen.workload.videos == ((4, 896, 896),)
    assert sum(group.patches * n for group, n in seen.groups) == 4 * 4 * 1024


def test_what_a_processor_can_not_make_is_left_to_the_text_and_said() -> None:
    # Qwen3-VL makes 64 tokens of the smallest picture (65,536 pixels, 32x32 a token): 700 = 26² + 24
    plan = k2_plan("batch.images={tokens_per_sequence: 700}")
    seen = sight(spec("qwen3-vl-235b").vision, plan)
    assert (seen.tokens, seen.workload.seq) == (676, 4096 - 676)
    assert seen.assumed[0].endswith("1 of 832x832, 676 tokens: less than the smallest picture makes is left out")


# -------------------------------------------------------------------------------------------------------- other towers


def test_features_of_earlier_layers_are_outputs_too() -> None:
    # Qwen3-VL hands on three earlier layers: four rows of 4096 features a token
    load = tower_of(spec("qwen3-vl-235b"), k2_plan("batch.images={size: 896x896, per_sequence: 1}"))
    assert load is not None
    assert load.outputs == 28 * 28 * 4 * 4096 * 2


# ---------------------------------------------------------------------------------------------------------------- laws


def test_without_pictures_nothing_is_new() -> None:
    plan = k2_plan()
    assert sight(spec("k25").vision, plan).workload == Workload(phase="train", batch=1, seq=4096)
    report = train_report(spec("k25"), plan)
    assert "phases" not in [table.name for table in report.tables]
    assert not any("vision" in line for line in report.assumptions)
    empty = train_report(spec("k25"), k2_plan("batch.images=[]", "batch.videos=null"))
    assert (empty.rows, empty.quantities) == (report.rows, report.quantities)


@given(
    images=st.integers(0, 3),
    side=st.sampled_from([28, 300, 448]),
    process=st.sampled_from(["decoupled", "first-stage", "frozen"]),
    offload=st.sampled_from(["none", "all"]),
)
@settings(max_examples=12, deadline=None)
def test_more_images_never_take_less(images: int, side: int, process: str, offload: str) -> None:
    how = (f"vision.process={process}", f"activations.offload={offload}", "parallel.world=2048")

    def peaks(n: int) -> list[int]:
        given = [f"batch.images={{size: {side}x{side}, per_sequence: {n}}}"] if n else []
        return [memory.peak for memory in k25(*how, *given)]

    assert all(more >= less for less, more in zip(peaks(images), peaks(images + 1), strict=True))


def test_the_backbones_rows_are_the_whole_sequence() -> None:
    tape = training_tape(spec("k25"), k2_plan(IMAGE))
    entry = next(s.entry for s in tape.segments if s.part == "backbone" and s.entry is not None)
    assert (tape.vision_tokens, product(entry.rows), tape.workload.seq) == (1024, 4096, 3072)


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
@given(data=st.data(), micro_batches=st.sampled_from([8, 32, 60, 100]))
@settings(max_examples=10, deadline=None)
def test_how_far_a_state_has_come_is_what_a_replay_of_the_whole_run_says(
    data: Any, kind: str, micro_batches: int
) -> None:
    """Gradients of outputs add up while chunks are freed. Here the whole order is replayed: its states when they are
    reached for the last time, and the largest sum of what is alive and the gradients by then."""
    schedule = get_schedule(kind)
    vpp = schedule.virtual_stages or 2
    pipeline = Pipeline(pp=4, vpp=vpp, micro_batches=micro_batches)
    rank = data.draw(st.integers(0, 3))
    chunks = schedule.chunks_per_rank(vpp)
    chunk = data.draw(st.integers(0, chunks - 1))
    sizes = data.draw(st.lists(st.integers(0, 50), min_size=chunks, max_size=chunks))
    output = data.draw(st.integers(0, 60))
    live, held, ended, most = [0] * chunks, [0] * chunks, 0, 0
    last: dict[Any, int] = {}
    for op in schedule.order(pipeline, rank):
        if op.kind == "F":
            live[op.chunk] += 1
            held[op.chunk] += 1
        last[op.kind, op.chunk, tuple(live), tuple(h - n for h, n in zip(held, live, strict=True))] = ended
        alive = sum(size * (2 * n + (h - n)) for size, n, h in zip(sizes, live, held, strict=True))
        most = max(most, alive + ended * output)
        if op.kind in "BI":
            live[op.chunk] -= 1
            ended += op.chunk == chunk
        if op.kind in "BW":
            held[op.chunk] -= 1
    found = ended_states(schedule, pipeline, rank, chunk)
    walked = {(state.op.kind, state.op.chunk, state.live, state.waiting): done for state, done in found}
    assert walked.items() <= last.items()
    assert most == max(
        sum(size * (2 * n + w) for size, n, w in zip(sizes, state.live, state.waiting, strict=True)) + done * output
        for state, done in found
    )


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_states_beside_pictures_know_what_comes_back_from_the_host(kind: str) -> None:
    """As without pictures: what is fetched for the next backward is on the device beside the one that runs."""
    schedule = get_schedule(kind)
    pipeline = Pipeline(pp=4, vpp=schedule.virtual_stages or 2, micro_batches=32)
    found = {state for state, _ in ended_states(schedule, pipeline, 1, 0, ahead=True)}

    def places(states: Iterable[State]) -> set[Any]:
        return {(s.op.kind, s.op.chunk, s.live, s.waiting, s.following) for s in states}

    assert places(found) == places(all_states(schedule, pipeline, 1))
    assert any(s.following is not None for s in found)


@pytest.mark.parametrize("offload", ["none", "all"])
def test_pictures_leave_a_forward_beside_a_backward(offload: str) -> None:
    """M = 1024 micro-batches. While a forward runs beside a backward 32 of the first chunk are alive, so that the last
    time the outputs' gradients of 1024 - 32 are there."""
    how = ("schedule.ep_overlap=true", f"activations.offload={offload}")
    got, text = phase(k25(IMAGE, *how)[0], "pipeline"), phase(k25(*how)[0], "pipeline")
    assert got.total - text.total == (1024 + 992) * OUTPUT
    assert (got.state.live, got.state.beside is None) == (text.state.live, False)


# -------------------------------------------------------------------------------------------------------------- report


def test_the_report_lists_the_phases_of_rank_0_or_of_the_rank_asked_for() -> None:
    report = train_report(spec("k25"), k2_plan(IMAGE), overrides=(IMAGE,))
    (table,) = (table for table in report.tables if table.name == "phases")
    assert [row["path"] for row in table.rows] == ["vision forward", "pipeline", "vision backward", "optimizer step"]
    first = k25(IMAGE)[0]
    assert max(row["peak_bytes"] for row in table.rows) == first.peak
    by_name = {row["phase"]: row for row in table.rows}
    assert by_name["vision forward"]["activation_bytes"] == (64 + 1024) * OUTPUT
    (asked,) = (table for table in train_report(spec("k25"), k2_plan(IMAGE), rank=3).tables if table.name == "phases")
    assert asked.title.startswith("rank 3")


def test_what_is_not_known_is_assumed() -> None:
    lines = train_report(spec("k25"), k2_plan("batch.images={tokens_per_sequence: 410}")).assumptions
    assert "vision.micro_batch = 1 (default)" in lines
    stands = "batch.images: 410 vision tokens a sequence stand for square images: 1 of 560x560, 1 of 84x84, 1 of 28x28"
    assert stands in lines  # 20² + 3² + 1


def test_unique_counts_a_frozen_tower_without_gradients() -> None:
    found = {
        process: train_report(spec("k25"), k2_plan(f"vision.process={process}")).quantities
        for process in ("frozen", "first-stage")
    }
    unique = "train.params_grads_bytes_unique"
    assert found["first-stage"][unique] - found["frozen"][unique] == 4 * TOWER_WEIGHTS


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("{size: 896, per_sequence: 1}", '"896" is no size'),
        ("{size: 896x, per_sequence: 1}", '"896x" is no size'),
        ("{size: 16x896x896, per_sequence: 1}", '"16x896x896" is no size'),
        ("{size: 896x0, per_sequence: 1}", '"896x0" is out of range'),
        ("{size: [896], per_sequence: 1}", "size must have at least 2 items"),
        ("{size: [896, -1], per_sequence: 1}", "must be greater than 0"),
        ("{size: 896x896}", "per_sequence is missing"),
        ("{per_sequence: 2}", "size is missing"),
        ("{}", "size and per_sequence are missing"),
        ("{size: 896x896, per_sequence: 1, tokens_per_sequence: 9}", "give either"),
        ("{size: 896x896, per_sequence: 0}", "per_sequence must be greater than 0"),
        ("{sizes: 896x896, per_sequence: 1}", "unknown key `sizes`"),
        ("{tokens_per_sequence: 4097}", "4097 vision tokens do not fit into sequences of 4096"),
        ("[{tokens_per_sequence: 4000}, {tokens_per_sequence: 97}]", "4097 vision tokens do not fit"),
        ("1024", "images must be a mapping or a list"),
    ],
)
def test_pictures_that_can_not_be_say_why(images: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        k2_plan(f"batch.images={images}")
    assert message in str(error.value)
    assert len(error.value.problems) == 1


def test_more_vision_tokens_than_the_sequence_has_are_refused_at_their_line(tmp_path: Path) -> None:
    text = (bundled_dir() / "plans" / "k2-pretrain.yaml").read_text()
    path = tmp_path / "plan.yaml"
    path.write_text(text.replace("  micro_batch: 1", "  images: {size: 896x896, per_sequence: 5}\n  micro_batch: 1"))
    line = 1 + next(i for i, row in enumerate(path.read_text().splitlines()) if "images" in row)
    with pytest.raises(InputError, match=r"make 5,120 tokens, and batch\.seq is 4,096") as error:
        train(spec("k25"), plan=str(path))
    assert (error.value.source, error.value.line, error.value.column) == (str(path), line, 3)
    with pytest.raises(InputError) as error:
        train(spec("k25"), plan=str(path), set=("batch.images={size: 896x896, per_sequence: 6}",))
    assert error.value.source == "--set batch.images={size: 896x896, per_sequence: 6}"


def test_tokens_that_do_not_fit_have_a_place_in_the_file_too(tmp_path: Path) -> None:
    text = (bundled_dir() / "plans" / "k2-pretrain.yaml").read_text()
    path = tmp_path / "plan.yaml"
    path.write_text(text.replace("  micro_batch: 1", "  videos: {tokens_per_sequence: 5000}\n  micro_batch: 1"))
    line = 1 + next(i for i, row in enumerate(path.read_text().splitlines()) if "videos" in row)
    with pytest.raises(SpecError, match="5000 vision tokens") as error:
        train(spec("k25"), plan=str(path))
    assert error.value.line == line


def test_a_model_without_a_tower_takes_no_pictures() -> None:
    with pytest.raises(InputError, match="the model has no vision tower") as error:
        train(spec("kimi-k2"), plan="k2-pretrain", set=(IMAGE,))
    assert "leave out batch.images" in str(error.value.hint)


def test_fewer_tokens_than_the_smallest_picture_makes_are_refused() -> None:
    with pytest.raises(InputError, match="the processor makes 64 of the smallest picture"):
        train(spec("qwen3-vl-235b"), plan="k2-pretrain", set=("batch.images={tokens_per_sequence: 10}",))


def test_the_command_takes_images_as_one_word() -> None:
    ran = run("train", "k25", "--plan", "k2-pretrain", "--set", IMAGE)
    assert ran.code == 0
    assert "rank 0, phase by phase" in ran.out


def test_a_field_of_pictures_that_are_not_there_is_set_with_all_of_them() -> None:
    with pytest.raises(InputError, match="names no field") as error:
        k2_plan("batch.images.per_sequence=2")
    assert "write --set 'batch.images={...}'" in str(error.value.hint)


def test_a_field_of_a_files_pictures_can_be_set_alone(tmp_path: Path) -> None:
    text = (bundled_dir() / "plans" / "k2-pretrain.yaml").read_text()
    path = tmp_path / "plan.yaml"
    path.write_text(text.replace("  micro_batch: 1", "  images: {size: 896x896, per_sequence: 1}\n  micro_batch: 1"))
    assert load_plan(str(path), ("batch.images.per_sequence=2",)).batch.pictures[0][1].per_sequence == 2


def test_the_worst_rank_knows_its_moment() -> None:
    top = worst(k25(IMAGE))
    assert (top.rank, top.moment.count("vision outputs")) == (0, 1)


# --------------------------------------------------------------------------------------------------------------- twin


@pytest.mark.twin
def test_torchs_autograd_keeps_of_an_image_what_the_backward_phase_has() -> None:
    pytest.importorskip("torch")
    from archcalc.reference.saved import measure

    found = measure(spec("k25").model_dump(), seq=2, patches=PATCHES, kernels="fused")
    tower = {path: kept for path, kept in found.items() if path.startswith(("vision_tower", "mm_projector"))}
    assert sum(kept * (27 if "blocks" in path else 1) for path, kept in tower.items()) == KEPT


def test_under_fsdp_a_decoupled_tower_gathers_its_weights_too() -> None:
    """Eight devices, a picture each at a time. Forward is worst at the projector: pixels, its input and its norm's
    output of each patch, beside its weights in bf16 and the buffer that they were copied out of. Backward ends no
    lower than at a block that has been gathered, beside what it takes by itself."""
    plan = ("vision.process=decoupled", IMAGE, "batch.seq=4096", "batch.micro_batch=1", "batch.global_tokens=32768")
    compiled = run_of(spec("k25"), load_plan("llama-3-8b-fsdp2", plan))
    (rank,) = training_memory(compiled)
    patches = PATCHES * (1_176 + 2 * 2 * WIDE)
    assert phase(rank, "vision forward").transient == patches + 2 * 2 * PROJECTOR_WEIGHTS
    assert compiled.tower is not None
    tape, savers, grads = compiled.tower.tape, compiled.savers, compiled.weight_grads
    alone = tower_chunk(tape, compiled.shards, savers, grads)
    assert phase(rank, "vision backward").transient >= max(alone.forward, alone.backward) + 2 * LAYER_WEIGHTS
