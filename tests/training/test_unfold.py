"""What a rank's worst moment is made of, against the folds that gave its bytes."""

from __future__ import annotations

from itertools import groupby

import pytest

from archcalc.training.load import load_plan
from archcalc.training.memory import training_memory
from archcalc.training.unfold import REST, held_tensors, transient_parts
from tests.training.plans import k2_plan, run_of

MTP = ("parallel.world=2048", "parallel.ep=64")
PLANS = {
    "k2": ("kimi-k2", ()),
    "no offload": ("kimi-k2", ("activations.offload=none",)),
    "offload by name": ("kimi-k2", ("activations.offload=[core_attn, router, expert_fc1]",)),
    "offload by name, a head behind layers": (
        "llama-3.1-8b",
        (
            *("parallel.ep=1", "parallel.pp=4", "activations.fp8=[]", "activations.recompute=[]"),
            "activations.offload=[core_attn, attn_norm]",
        ),
    ),
    "no savers": ("kimi-k2", ("activations.offload=none", "activations.recompute=[]", "activations.fp8=[]")),
    "full": ("kimi-k2", ("activations.recompute=[full]", "schedule.extra_warmup=0")),
    "eager": ("kimi-k2", ("activations.kernels=eager", "activations.cross_entropy=eager", "activations.offload=none")),
    "chunked loss": ("kimi-k2", ("activations.cross_entropy=chunked",)),
    "te loss": ("kimi-k2", ("activations.cross_entropy=te",)),
    "tp sp": ("kimi-k2", ("parallel.tp=2", "parallel.sp=true")),
    "cp ring": ("kimi-k2", ("parallel.cp=2",)),
    "cp ulysses": ("kimi-k2", ("parallel.cp=2", "parallel.cp_comm=a2a")),
    "zero 3": ("kimi-k2", ("parallel.zero=3",)),
    "zb-h1": ("kimi-k2", ("schedule.kind=zb-h1", "parallel.vpp=1", "schedule.extra_warmup=0")),
    "one device in the pipe": (
        "kimi-k2",
        ("parallel.pp=1", "parallel.vpp=1", "schedule.kind=1f1b", "schedule.extra_warmup=0"),
    ),
    "prediction module": ("deepseek-v3", MTP),
    "prediction module, no savers": (
        "deepseek-v3",
        (*MTP, "activations.offload=none", "activations.recompute=[]", "activations.fp8=[]"),
    ),
    "windows": ("gemma-3-27b", ("parallel.ep=1", "activations.fp8=[]", "activations.recompute=[]")),
    "states": ("qwen3-coder-next", ("activations.recompute=[layernorm]",)),
}


@pytest.mark.parametrize("name", PLANS)
def test_tensors_add_up_to_the_activations_of_every_rank(name: str) -> None:
    model, overrides = PLANS[name]
    run = run_of(model, k2_plan(*overrides))
    for rank in training_memory(run):
        assert sum(each.here * each.row.nbytes for each in held_tensors(run, rank)) == rank.activation


@pytest.mark.parametrize("name", PLANS)
def test_every_part_of_the_transient_bytes_has_a_name(name: str) -> None:
    model, overrides = PLANS[name]
    run = run_of(model, k2_plan(*overrides))
    for rank in training_memory(run):
        parts = transient_parts(run, rank)
        assert sum(parts.values()) == rank.transient
        assert REST not in parts, (rank.rank, parts)


@pytest.mark.parametrize("recompute", ["[]", "[full]"])
def test_the_loaders_mask_is_told_apart(recompute: str) -> None:
    """A byte for each of 4096 x 4096 pairs, on the ranks with embedding and head. Eight layers a rank, of which the
    first keeps it where they are recomputed whole, once for each micro-batch alive."""
    stages = ("parallel.pp=4", "parallel.vpp=1", "schedule.kind=1f1b", "schedule.extra_warmup=0", "parallel.ep=1")
    plain = ("activations.offload=none", "activations.fp8=[]", f"activations.recompute={recompute}")
    run = run_of("llama-3.1-8b", k2_plan(*stages, *plain, "activations.attention_mask=loader"))
    for rank in training_memory(run):
        assert rank.state is not None
        parts = transient_parts(run, rank)
        assert sum(parts.values()) == rank.transient
        assert REST not in parts
        ends, forward, whole = rank.rank in (0, 3), rank.state.op.kind == "F", recompute == "[full]"
        assert whole or parts.get("loader's mask", 0) == 4096 * 4096 * (ends and forward)
        kept = sum(each.here * each.row.nbytes for each in held_tensors(run, rank))
        assert rank.activation - kept == 4096 * 4096 * rank.state.live[0] * (ends and whole)


LOADED = (
    "activations.attention_mask=loader",
    "activations.recompute=[full]",
    "activations.offload=none",
    "schedule.extra_warmup=0",
)


def test_a_mask_that_recomputed_layers_start_from_is_all_that_is_no_tensor_of_theirs() -> None:
    """A mask of 4096 x 4096 bytes: at most one for each chunk alive, and some where the embedding's chunk is."""
    run = run_of("kimi-k2", k2_plan(*LOADED))
    first, *others = training_memory(run)
    for rank in (first, *others):
        left = rank.activation - sum(each.here * each.row.nbytes for each in held_tensors(run, rank))
        assert left % 4096**2 == 0
        assert 0 <= left <= rank.live_chunks * 4096**2
        parts = transient_parts(run, rank)
        assert sum(parts.values()) == rank.transient
        assert REST not in parts, (rank.rank, parts)
    assert first.activation > sum(each.here * each.row.nbytes for each in held_tensors(run, first))


@pytest.mark.parametrize("savers", [(), ("activations.offload=none", "activations.fp8=[]", "activations.recompute=[]")])
def test_side_by_side_only_whole_micro_batches_are_told_apart(savers: tuple[str, ...]) -> None:
    """What a rank keeps is never less than the tensors of the micro-batches that do not run; of the two that run, a
    layer each takes what it takes alone."""
    run = run_of("kimi-k2", k2_plan("schedule.ep_overlap=true", *savers))
    beside = [r for r in training_memory(run) if r.state is not None and r.state.beside is not None]
    assert beside
    for rank in beside:
        held = held_tensors(run, rank)
        assert all(each.here >= 0 and each.outside >= 0 for each in held)
        assert 0 <= sum(each.here * each.row.nbytes for each in held) <= rank.activation
        parts = transient_parts(run, rank)
        assert sum(parts.values()) == rank.transient
        assert REST not in parts, (rank.rank, parts)


def test_copies_are_layers_times_micro_batches() -> None:
    """Rank 1 of K2 has 16 + 16 chunks of two layers alive in the last forward before its first backward: on the device
    are the layer that runs, the one before it on its way out, and the first to go backward, which is fetched."""
    run = run_of("kimi-k2", k2_plan())
    rank = training_memory(run)[1]
    assert rank.state is not None
    assert (rank.state.live, rank.state.op.kind) == ((16, 16), "F")
    held = held_tensors(run, rank)
    assert {each.here for each in held} == {3}
    assert {each.outside for each in held} == {2 * 32 - 3}


def test_the_largest_tensor_of_k2_is_what_experts_get() -> None:
    """4096 tokens to 8 experts: 32,768 rows of 7168 in FP8, and an fp32 scale for 128 elements of each row."""
    largest = held_tensors(run := run_of("kimi-k2", k2_plan()), training_memory(run)[1])[0]
    assert largest.row.site == "expert_fc1"
    assert largest.row.nbytes == 32_768 * (7168 + 4 * 56)


def test_the_optimizer_step_holds_no_activations() -> None:
    run = run_of("kimi-k2", k2_plan("batch.seq=64"))
    rank = training_memory(run)[5]
    assert (rank.moment, held_tensors(run, rank)) == ("optimizer step", [])
    messages = 2 * 2 * 64 * 7168 * 2  # of two chunks the last input and its gradient: 64 tokens of 7168, in bf16
    assert transient_parts(run, rank) == {"optimizer step": rank.static.step, "messages": messages}


def test_tensors_come_largest_first() -> None:
    held = held_tensors(run := run_of("kimi-k2", k2_plan()), training_memory(run)[0])
    sizes = [(each.here + each.outside) * each.row.nbytes for each in held]
    assert sizes == sorted(sizes, reverse=True)
    assert len(list(groupby(held, key=lambda each: (each.segment, id(each.row.storage), each.row.path)))) == len(held)


def test_where_one_backward_makes_all_gradients_the_worst_layer_is_the_one_with_most_there() -> None:
    """Two sizes of a sequence under FSDP2: at the head, and behind the first layers, once gradients are there."""
    for seq, micro_batch in ((8192, 2), (512, 1)):
        tokens = f"batch.global_tokens={8 * seq * micro_batch}"
        plan = load_plan("llama-3-8b-fsdp2", (f"batch.seq={seq}", f"batch.micro_batch={micro_batch}", tokens))
        run = run_of("llama-3.1-8b", plan)
        (rank,) = training_memory(run)
        parts = transient_parts(run, rank)
        assert sum(parts.values()) == rank.transient
        assert REST not in parts, parts
