"""Memory of every pipeline rank: Kimi K2's activations by schedule and savers, and laws between the terms.

Bytes of a MoE layer and token as in tests/calc/test_activations.py; T = 4096, PP 16, one warm-up more than
1F1B needs, M = 128.
"""

import cProfile
import pstats
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.training.memory import training_memory, worst
from archcalc.training.rank import messages
from archcalc.training.run import compiled
from archcalc.training.schedule import Pipeline, get_schedule
from tests.training.plans import k2_plan, ranks, run_of, tape_of
from tests.training.replay import replayed
from tests.training.schedule.simulated import states_of

T = 4096
BARE = ("parallel.world=2048", "activations.offload=none", "activations.cross_entropy=chunked")
ONE_CHUNK = ("parallel.vpp=1", "schedule.kind=1f1b")
NONE = ("activations.recompute=[]", "activations.fp8=[]")
ACT, OUT = "activations.router_probs=act", "activations.router_probs=out"
LN = ("activations.recompute=[layernorm]", "activations.fp8=[]", ACT)
LN_SWIGLU = ("activations.recompute=[layernorm, swiglu]", "activations.fp8=[]", ACT)
UP = ("activations.fp8=[]", ACT)


@pytest.mark.parametrize(
    ("vpp", "options", "want"),
    [
        # ranks 0, 1, 7, 14, 15 [GB]: sum over live chunks of their layers' bytes
        # (rank 15 with the head's norm as eager code keeps it, 8·7168 + 4 bytes a token, not 4·7168 + 4: 18.6 for 18.4)
        (1, ("activations.kernels=eager", *NONE, OUT), (127.9, 193.4, 120.9, 27.2, 18.6)),
        (1, (*NONE, OUT), (86.2, 128.4, 80.2, 18.0, 12.3)),
        (1, (*NONE, ACT), (70.2, 98.3, 61.4, 13.8, 9.4)),
        (1, UP, (42.0, 62.8, 39.3, 8.8, 6.1)),
        (1, (ACT,), (29.3, 38.9, 24.3, 5.5, 3.9)),
        (2, ("activations.kernels=eager", *NONE, OUT), (144.0, 278.1, 205.5, 120.9, 108.8)),
        (2, (*NONE, OUT), (98.1, 184.5, 136.4, 80.2, 72.2)),
        (2, (*NONE, ACT), (83.0, 141.3, 104.4, 61.4, 55.3)),
        (2, LN, (75.5, 130.5, 96.4, 56.7, 51.1)),
        (2, LN_SWIGLU, (65.8, 116.6, 86.2, 50.7, 45.6)),
        (2, UP, (47.6, 90.3, 66.8, 39.3, 35.4)),
        (2, (ACT,), (35.6, 56.0, 41.4, 24.3, 21.9)),
        (4, (*NONE, ACT), (107.6, 119.8, 101.4, 79.9, 76.8)),
        (4, UP, (63.3, 76.6, 64.8, 51.1, 49.1)),
        (4, (ACT,), (45.4, 47.4, 40.1, 31.6, 30.4)),
    ],
)
def test_live_activations_of_k2(vpp: int, options: tuple[str, ...], want: tuple[float, ...]) -> None:
    setting = ONE_CHUNK if vpp == 1 else (f"parallel.vpp={vpp}",)
    got = ranks("kimi-k2", *BARE, *setting, *options)
    assert [round(got[r].activation / 1e9, 1) for r in (0, 1, 7, 14, 15)] == pytest.approx(want, abs=0.051)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adam-8bit", "muon"])
def test_a_peak_is_no_less_than_what_is_allocated_between_steps(optimizer: str) -> None:
    """With no gradients to copy and few tokens the step is the worst moment: the messages of the last one stand by."""
    for grads in ("bf16", "fp32"):
        options = ("batch.seq=64", f"precision.optimizer={optimizer}", f"precision.grads={grads}")
        found = ranks("kimi-k2", *options)
        assert any(r.moment == "optimizer step" for r in found) or optimizer != "muon"
        assert all(r.peak >= r.resting for r in found)


def test_the_worst_rank_is_1_because_rank_0_has_the_light_first_chunk() -> None:
    """Rank 0 holds 32 of its first chunk (embedding, dense layer) and 16 of two MoE layers; rank 1 46 of two
    MoE layers."""
    got = ranks("kimi-k2", *BARE, *UP)
    assert worst(list(got)).rank == 1
    assert [got[0].live_chunks, got[1].live_chunks] == [48, 46]
    assert got[1].activation == 46 * 2 * T * 239_748
    assert got[0].activation == 32 * T * (123_264 + 8) + 16 * 2 * T * 239_748


def test_the_loss_on_the_last_rank_is_alive_twice_with_an_extra_warm_up() -> None:
    """VPP 2: 16 of two MoE layers and 2 of one with the head: its norm 4·7168 + 4, fp32 log-probabilities
    4·V, targets and mask 9 bytes a token."""
    fused = ranks("kimi-k2", *BARE[:2], *UP, "activations.cross_entropy=fused")[15]
    head = 4 * 7168 + 4 + 4 * 163_840 + 9
    assert fused.activation == T * (16 * 2 * 239_748 + 2 * (239_748 + head))
    assert fused.moment.startswith("forward of chunk 1, micro-batch 1 at lm_head; alive: 16 of chunk 0, 2 of chunk 1")


@pytest.mark.parametrize("name", ["kimi-k2", "k25"])
def test_terms_add_up_to_the_peak(name: str) -> None:
    run = run_of(name, k2_plan())
    for r in ranks(name):
        s = r.static
        total = s.params + s.grads + s.optimizer + s.buffers + r.activation + r.transient + r.fixed + r.cached
        assert r.total == total
        assert r.peak == -(-total * 100 // 94)
        assert r.peak == run.fragmented(total)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("activations.offload_in_flight=0",),
        ("activations.offload_in_flight=3",),
        ("activations.offload=[expert_fc1, moe_act]",),
        ("activations.offload=none",),
        ("parallel.vpp=4",),
        (*ONE_CHUNK,),
        ("schedule.kind=zb-v", "schedule.extra_warmup=0"),
        ("schedule.kind=zb-v", "schedule.extra_warmup=0", "activations.offload_in_flight=2"),
        ("schedule.kind=dualpipe-v", "schedule.extra_warmup=0"),
        (*ONE_CHUNK, "activations.offload=[core_attn, attn_proj, expert_fc1]", "activations.offload_in_flight=2"),
    ],
)
def test_the_capped_run_agrees_with_the_full_order(options: tuple[str, ...]) -> None:
    """Replay every operation of all 1024 micro-batches: the most bytes on any rank are those of the cut
    run."""
    plan = k2_plan("batch.global_tokens=8388608", *options)  # 128 micro-batches
    run = run_of("kimi-k2", plan)
    found = training_memory(run)
    for r in (0, 1, 9, 15):
        assert len({op.micro_batch for op in run.schedule.order(run.pipeline, r)}) == 128
        most, got = replayed(run, r, 2 * T * 7168), found[r]
        resting = got.static.params + got.static.grads + got.static.optimizer + got.static.buffers
        assert got.running == resting + got.fixed + got.cached + most.device
        assert got.offloaded == most.host


def test_the_host_holds_the_most_that_is_away_at_any_moment() -> None:
    """ZB-V has 2·16 chunks alive at most: on rank 1 31 of stage 1, which has two layers, and one of stage 30, which is
    one of the three short ones (61 layers over 32 stages). A backward of stage 1 starts with both of its layers on the
    device, the one that runs and the one that is next."""
    zb_v = ("schedule.kind=zb-v", "schedule.extra_warmup=0")
    assert ranks("kimi-k2", *zb_v)[1].offloaded == (31 * 2 + 1 - 2) * T * 148_484


def test_offload_keeps_three_layers_on_the_device() -> None:
    """The one in forward, the one before it on its way out, and the last one of the micro-batch that goes backward
    next: 148,484 bytes a token and layer."""
    assert ranks("kimi-k2")[1].activation == 3 * T * 148_484


def test_a_micro_batch_of_two_doubles_what_is_alive() -> None:
    one = ranks("kimi-k2", *BARE)
    two = ranks("kimi-k2", *BARE, "batch.micro_batch=2")
    assert [b.activation for b in two] == [2 * a.activation for a in one]


def test_overrides_commute() -> None:
    first = ("parallel.world=2048", "activations.fp8=[]", "batch.micro_batch=2")
    assert ranks("kimi-k2", *first) == ranks("kimi-k2", *reversed(first))


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.integers(100, 1600), st.integers(100, 1600)).map(sorted))
def test_more_uneven_routing_never_takes_less(hundredths: list[int]) -> None:
    less, more = (ranks("kimi-k2", f"activations.moe_imbalance={n / 100:.2f}") for n in hundredths)
    assert all(a.peak <= b.peak for a, b in zip(less, more, strict=True))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(["layernorm", "swiglu", "mla_up_proj", "moe_down_proj", "core_attn"]), unique=True),
    st.booleans(),
)
def test_a_plan_with_one_saver_more_has_no_more_alive(names: list[str], fp8: bool) -> None:
    def alive(chosen: list[str]) -> list[int]:
        stored = "[moe_up_proj_input, swiglu_input]" if fp8 else "[]"
        options = (f"activations.recompute=[{', '.join(chosen)}]", f"activations.fp8={stored}")
        return [r.activation for r in ranks("kimi-k2", *BARE, *options)]

    assert all(a <= b for a, b in zip(alive(names), alive(names[:-1]), strict=True))


def test_messages_between_stages() -> None:
    one, two = get_schedule("1f1b"), get_schedule("interleaved-1f1b")
    pipeline = Pipeline(pp=16, micro_batches=128)
    # 1F1B: forward beside the last gradient sent back and the last one received, backward beside the one sent back
    assert [messages(one, pipeline, r, 10) for r in (0, 7, 15)] == [(10, 0), (20, 10), (10, 10)]
    assert messages(two, replace(pipeline, vpp=2), 0, 10) == (40, 40)  # overlapped: two each way
    assert messages(one, replace(pipeline, pp=1), 0, 10) == (0, 0)


def test_cached_placeholders_are_one_of_each_weight_shape() -> None:
    """Rank 1 holds MoE layers only: low-rank and head projections, o_proj, the experts' two shapes (the
    shared expert's are the same), gate and up as one weight; bf16."""
    shapes = [(1536, 7168), (12_288, 1536), (576, 7168), (16_384, 512), (7168, 8192), (4096, 7168), (7168, 2048)]
    assert ranks("kimi-k2")[1].cached == 2 * sum(a * b for a, b in shapes)
    assert ranks("kimi-k2", "memory.placeholder_grads=false")[1].cached == 0
    assert ranks("kimi-k2", "activations.kernels=eager")[1].cached == 0


def test_the_heads_gathered_input_stays_whatever_placeholders_are_cached() -> None:
    """Rank 15 holds the head, whose input is T x 7168 in bf16 with the rows of all devices: Megatron-LM's global
    buffer, no placeholder."""
    sp = ("parallel.tp=2", "parallel.sp=true", "parallel.world=512", "activations.recompute=[]", "activations.fp8=[]")
    last = ranks("kimi-k2", *sp, "memory.placeholder_grads=false")[15]
    assert last.cached == 2 * T * 7168
    assert ranks("kimi-k2", *sp, "memory.placeholder_grads=false")[14].cached == 0
    assert ranks("kimi-k2", *sp, "activations.kernels=eager")[15].cached == 0


def test_query_key_and_value_are_one_weight_to_the_cache() -> None:
    """Llama 3.1 70B: (64 + 2·8)·128 x 8192 beside o_proj's 8192 x 8192 and gate-and-up, down; no head, no
    embedding."""
    options = ("parallel.ep=1", "activations.recompute=[]", "activations.fp8=[]")
    shapes = [(10_240, 8192), (8192, 8192), (57_344, 8192), (8192, 28_672)]
    assert ranks("llama-3.1-70b", *options)[1].cached == 2 * sum(a * b for a, b in shapes)


def test_chunks_with_as_many_alive_are_named_together() -> None:
    """4 ranks of 5 chunks: rank 0 warms up with 2·3 + 4·4 = 22 forwards, 4 of each chunk and 2 of chunk 0's next
    group. One more comes before each backward, so that beside the second, of chunk 4, there are 24 - 1: 8 of chunk 0,
    and 3 of chunk 4."""
    shape = ("parallel.pp=4", "parallel.vpp=5", "parallel.world=64", "parallel.ep=1", "schedule.extra_warmup=0")
    text = ranks("llama-3.1-70b", *shape, *BARE, *NONE)[0].moment
    assert text.partition("; alive: ")[2] == "8 of chunk 0, 4 of each of chunks 1-3, 3 of chunk 4"


def test_the_moment_is_named() -> None:
    """46 alive first at rank 1's 46th forward: 2·14 + 16 + 1 of warm-up, and one more. Chunk 0 takes its
    second group of 16 then, after 16 of chunk 1, so it is micro-batch 46 - 16 - 1 = 29."""
    text = ranks("kimi-k2", *BARE, *NONE, OUT)[1].moment
    assert text == "forward of chunk 0, micro-batch 29 at model.layers.1-60; alive: 30 of chunk 0, 16 of chunk 1"


def test_one_evaluation_makes_few_calls() -> None:
    """Two milliseconds at five and a half calls in a microsecond; a search asks for thousands of plans."""
    plan = k2_plan()
    tape = tape_of("k25", plan)
    training_memory(compiled(tape, plan))
    profile = cProfile.Profile()
    profile.runcall(lambda: training_memory(compiled(tape, plan)))
    assert pstats.Stats(profile).total_calls < 11_000  # type: ignore[attr-defined]


def test_live_states_of_the_test_itself_are_the_schedules() -> None:
    """The replay above and archcalc.training.schedule count chunks alike."""
    order = get_schedule("interleaved-1f1b").order(k2_plan().pipeline, 1)
    assert max(sum(s.live) for _, s in states_of(order, 2)) == 46
    assert Fraction(46, 1) == ranks("kimi-k2")[1].live_chunks


def test_iteration_1_runs_without_the_moments() -> None:
    """AdamW's moments are 8 of the 12 bytes that it keeps a parameter. With an efficiency of 1 nothing is rounded, and
    the worst moment of rank 1 is one of the pipeline."""
    options = ("precision.optimizer=adamw", "memory.allocator_efficiency=1")
    r = ranks("kimi-k2", *options, "parallel.world=2048", "activations.offload=none")[1]
    assert r.moment != "optimizer step"
    assert r.peak - r.peak_first == r.static.late
    few = ranks("kimi-k2", *options)[1]  # 256 devices: 34 GB of moments, more than what a pipeline keeps under offload
    messages = 2 * 2 * 4096 * 7168 * 2  # of two chunks the last input and its gradient, in bf16
    assert few.peak_first == few.total - few.activation - few.transient + messages
    assert abs(r.static.late - Fraction(8, 12) * r.static.optimizer) < 2  # dense and expert shards are rounded apart


def test_the_first_step_has_the_moments_that_it_makes() -> None:
    """FusedAdam that holds the master makes all its states in the step: what the step itself takes stands beside them,
    with nothing alive of the pipeline."""
    few = ("parallel.world=256", "batch.global_tokens=8388608", "activations.offload=all")
    r = ranks("kimi-k2", "precision.optimizer=adamw-precision-aware", "memory.allocator_efficiency=1", *few)[1]
    assert (r.moment, r.static.late) == ("optimizer step", r.static.optimizer)
    assert r.peak_first == r.peak == r.total
