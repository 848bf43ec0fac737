"""Which layers a rank holds, and the static bytes that follow; figures by hand from Kimi K2's parameter
counts.

A MoE layer without its experts 147,931,136 (router bias apart), an expert 44,040,192, the dense layer
497,500,160, embedding and head 1,174,405,120 each (the head's norm 7,168), vision tower and projector of K2.5
471,143,920.
"""

import pytest

from archcalc.documents.train import train_quantities
from archcalc.errors import InputError
from archcalc.training.placement import stage_layers
from tests.training.plans import k2_plan, ranks, run_of, spec

MLA = 7168 * 1536 + 1536 + 1536 * 64 * 192 + 7168 * 576 + 512 + 512 * 64 * 256 + 64 * 128 * 7168
MOE = MLA + 2 * 7168 + 3 * 7168 * 2048 + 7168 * 384
DENSE = MLA + 2 * 7168 + 3 * 7168 * 18432
EXPERT = 3 * 7168 * 2048
EMBED = 163_840 * 7168
HEAD = EMBED + 7168
VISION = 471_143_920
HELD = 24 * EXPERT  # experts of one layer on one of 16 devices


def test_the_parts_have_their_published_sizes() -> None:
    assert (MLA, DENSE, MOE + 384, EXPERT) == (101_124_096, 497_500_160, 147_931_520, 44_040_192)


DENSE_PARAMS = [EMBED + DENSE + 2 * MOE] + [4 * MOE] * 13 + [3 * MOE, 3 * MOE + HEAD]
EXPERT_PARAMS = [2 * HELD] + [4 * HELD] * 13 + [3 * HELD, 3 * HELD]


def test_every_rank_of_k2_holds_its_weights_and_gradients() -> None:
    """6 bytes a parameter; 24,490,180,608 on rank 0, 28,917,497,856 on rank 1, 21.69 and 28.73 GB on the last
    two."""
    held = [r.static.params + r.static.grads for r in ranks("kimi-k2")]
    assert held == [6 * (d + e) for d, e in zip(DENSE_PARAMS, EXPERT_PARAMS, strict=True)]
    assert held[:2] == [24_490_180_608, 28_917_497_856]
    assert [round(n / 1e9, 2) for n in held[14:]] == [21.69, 28.73]


def test_k25_holds_its_tower_on_every_rank() -> None:
    text, vision = ranks("kimi-k2"), ranks("k25")
    added = [
        v.static.params + v.static.grads - t.static.params - t.static.grads for t, v in zip(text, vision, strict=True)
    ]
    assert added == [6 * VISION] * 16
    assert vision[1].static.params + vision[1].static.grads == 31_744_361_376
    assert vision[0].static.params + vision[0].static.grads == 27_317_044_128


def test_a_tower_in_the_first_stage_stands_there_only() -> None:
    first, text = ranks("k25", "vision.process=first-stage"), ranks("kimi-k2")
    added = [f.static.params - t.static.params for t, f in zip(text, first, strict=True)]
    assert added == [2 * VISION] + [0] * 15


def test_unique_counts_each_weight_once_and_resident_every_copy() -> None:
    plan = k2_plan()
    found = train_quantities(run_of("kimi-k2", plan), list(ranks("kimi-k2")))
    assert found["train.params_grads_bytes_unique"] == 6 * 1_026_408_209_408 == 6_158_449_256_448
    # 16 devices a stage hold a sixteenth of the experts and all the rest
    resident = 6 * 16 * (sum(DENSE_PARAMS) + sum(EXPERT_PARAMS))
    assert found["train.params_grads_bytes_resident"] == resident == 7_213_445_971_968


def test_buffers_are_fp32_correction_biases_and_have_neither_gradient_nor_state() -> None:
    # 384 of them a MoE layer, on every device of a stage
    assert [r.static.buffers for r in ranks("kimi-k2")] == [2 * 384 * 4] + [4 * 384 * 4] * 13 + [3 * 384 * 4] * 2


@pytest.mark.parametrize(
    ("slots", "want"),
    [
        (16, [3, *[4] * 13, 3, 3]),
        (32, [1, *[2] * 29, 1, 1]),
        (64, [1] * 61 + [0] * 3),
        (1, [61]),
        (61, [1] * 61),
    ],
)
def test_auto_layout_is_even_and_short_at_the_ends(slots: int, want: list[int]) -> None:
    assert stage_layers(61, slots, "auto") == want
    assert sum(want) == 61


def test_a_listed_layout_is_taken_as_it_is() -> None:
    layout = "parallel.layout=[" + ", ".join(map(str, [0, 2, *[2] * 29, 1])) + "]"
    held = [r.static.params for r in ranks("kimi-k2", layout)]
    # slot 0 holds the embedding only, slot 16 (rank 0's other chunk) two MoE layers
    assert held[0] == 2 * (EMBED + 2 * MOE + 2 * HELD)
    assert held[15] == 2 * (3 * MOE + HEAD + 3 * HELD)


@pytest.mark.parametrize("layout", ["[61]", "[60, 1, 1]", "[61, 0]"])
def test_a_layout_of_another_length_is_refused_before_there_is_a_model(layout: str) -> None:
    with pytest.raises(InputError, match=r"the plan has 32 stages$"):
        k2_plan(f"parallel.layout={layout}")


def test_a_layout_of_another_sum_says_both() -> None:
    plan = k2_plan(f"parallel.layout={[1] * 31 + [29]}")
    with pytest.raises(InputError, match="32 stages with 60 layers; the plan has 32 stages, the model 61 layers"):
        run_of("kimi-k2", plan)


def test_a_rank_that_would_hold_nothing_is_an_error() -> None:
    layout = "parallel.layout=[" + ", ".join(map(str, [5, 0, *[4] * 14])) + "]"
    plan = k2_plan("parallel.vpp=1", "schedule.kind=1f1b", layout)
    with pytest.raises(InputError, match="pipeline rank 1 would hold nothing"):
        run_of("kimi-k2", plan)


def test_zero_divides_what_its_level_says() -> None:
    """World 2048: 128 devices share dense weights, 8 the experts."""
    dense, expert = 4 * MOE, 4 * HELD
    by_level = [
        ranks("kimi-k2", "parallel.world=2048", f"parallel.zero={z}", "precision.optimizer=adamw")[1].static
        for z in range(4)
    ]
    assert [s.optimizer for s in by_level] == [12 * (dense + expert), *[12 * dense // 128 + 12 * expert // 8] * 3]
    assert [s.grads for s in by_level] == [*[4 * (dense + expert)] * 2, *[4 * dense // 128 + 4 * expert // 8] * 2]
    assert [s.params for s in by_level] == [*[2 * (dense + expert)] * 3, 2 * dense // 128 + 2 * expert // 8]
    # level 3 gathers two layers' weights at a time and reduces one layer's gradients
    assert [s.gathered for s in by_level] == [0, 0, 0, (2 * 2 + 4) * (MOE + HELD)]


def test_tensor_parallelism_replicates_latent_projections_router_and_norms() -> None:
    rank = ranks("kimi-k2", "parallel.tp=4", "parallel.sp=true")[1]
    whole = 7168 * 1536 + 1536 + 7168 * 576 + 512 + 2 * 7168 + 7168 * 384
    assert rank.static.params == 2 * 4 * (whole + (MOE - whole) // 4 + HELD)


def test_context_parallelism_divides_no_weight_but_shares_states() -> None:
    one, two = (
        ranks("kimi-k2", "precision.optimizer=adamw")[1],
        ranks("kimi-k2", "precision.optimizer=adamw", "parallel.cp=2")[1],
    )
    assert two.static.params == one.static.params
    # dense states over dense_dp 8 x cp 2 = 16, as before: Megatron-LM's dp-cp group
    assert two.static.optimizer == one.static.optimizer


def test_expert_tensor_parallelism_halves_experts_only() -> None:
    assert ranks("kimi-k2", "parallel.ep=8", "parallel.etp=2")[1].static.params == 2 * 4 * (MOE + HELD)
    assert ranks("kimi-k2", "parallel.ep=8")[1].static.params == 2 * 4 * (MOE + 2 * HELD)


def test_dualpipe_holds_every_stage_twice() -> None:
    plain = ranks("kimi-k2", "parallel.vpp=1", "schedule.kind=1f1b", "schedule.extra_warmup=0")
    both = ranks("kimi-k2", "parallel.vpp=1", "schedule.kind=dualpipe", "schedule.extra_warmup=0")
    assert sum(r.static.params for r in both) == 2 * sum(r.static.params for r in plain)
    assert both[0].static.params == plain[0].static.params + plain[15].static.params


def test_multi_token_prediction_takes_embedding_and_head_along() -> None:
    """DeepSeek-V3: the module stands in the last stage, where the head is; the embedding is copied there."""
    held = ranks("deepseek-v3", "schedule.extra_warmup=0")
    mla = 7168 * 1536 + 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 + 512 * 128 * 256 + 128 * 128 * 7168
    layer = mla + 2 * 7168 + 3 * 7168 * 2048 + 7168 * 256 + 16 * EXPERT
    module = layer + 3 * 7168 + 2 * 7168 * 7168  # enorm, hnorm, shared_head.norm; eh_proj
    embed = 129_280 * 7168
    assert held[15].static.params == 2 * (3 * layer + 2 * embed + 7168 + module)


def test_what_joins_a_prediction_modules_inputs_is_divided_over_tp_and_has_a_placeholder() -> None:
    """Megatron-LM takes a column-parallel linear for eh_proj, 7168 x 14,336: a shape of its own among the cached ones.
    Ranks 14 and 15 hold the same kinds of layers; rank 15 the head's 129,280 rows too, and its gathered input."""
    (one, alone), (two, halves) = (
        [(r.cached, r) for r in ranks("deepseek-v3", "schedule.extra_warmup=0", *more)[14:]]
        for more in ((), ("parallel.tp=2", "parallel.sp=true", "parallel.etp=1", "parallel.world=512"))
    )
    assert alone[0] - one[0] == 2 * (129_280 * 7168 + 7168 * 14_336)
    gathered = 2 * 4096 * 7168
    assert halves[0] - two[0] == 129_280 * 7168 + 7168 * 14_336 + gathered


def test_tied_embeddings_stand_at_both_ends_of_a_pipeline() -> None:
    tied = spec("llama-3.1-70b")
    tied = tied.model_copy(update={"backbone": tied.backbone.model_copy(update={"tie_word_embeddings": True})})
    from archcalc.documents.train import training_tape
    from archcalc.training.memory import training_memory
    from archcalc.training.run import compiled

    changes = ("parallel.ep=1", "parallel.vpp=1", "schedule.kind=1f1b", "schedule.extra_warmup=0", "activations.fp8=[]")
    plan = k2_plan(*changes)
    tape = training_tape(tied, plan)
    got = training_memory(compiled(tape, plan))
    table = 128_256 * 8192
    assert sum(r.static.params for r in got) == 2 * (sum(w.elements for w in tape.weights()) + table)
    one = k2_plan(*changes, "parallel.pp=1", "parallel.world=16")
    assert training_memory(compiled(tape, one))[0].static.params == 2 * sum(w.elements for w in tape.weights())
