"""FSDP2: by hand at Llama 3.1 8B's sizes, and beside torch's own code on a small model.

A layer of 8B has q and o 4096·4096, k and v 1024·4096, gate, up and down 14,336·4096 and two norms of 4096:
218,112,000 parameters. Embedding and head have 128,256·4096 each, the last norm 4096.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from archcalc.calc.sharding import Shards
from archcalc.documents.train import run_of, train_report
from archcalc.documents.weights import checkpoint_rows
from archcalc.errors import SpecError
from archcalc.files.model import Spec
from archcalc.tape import Dim, Tape, Weight
from archcalc.training.checkpoint import checkpoints
from archcalc.training.chunk import Working, chunk_memory, segment_memory
from archcalc.training.fsdp import Sharding, shard_elements, workings
from archcalc.training.load import load_plan
from archcalc.training.memory import RankMemory, training_memory
from archcalc.training.optimizer import OPTIMIZERS
from archcalc.training.parts import Train, trained_tape
from archcalc.training.plan import Plan
from archcalc.training.run import Run
from archcalc.training.static import static_sharded
from archcalc.training.unfold import transient_parts
from archcalc.training.weight_grads import WeightGrads
from tests.support import spec_of, tiny
from tests.training.plans import spec, traced

LAYER, VOCABULARY, H, LAYERS = 218_112_000, 128_256 * 4096, 4096, 32
HEAD = VOCABULARY + H
ALL = LAYERS * LAYER + VOCABULARY + HEAD


def plan(*overrides: str) -> Plan:
    return load_plan("llama-3-8b-fsdp2", overrides)


def llama(*overrides: str, name: str = "llama-3.1-8b") -> list[RankMemory]:
    return training_memory(run_of(spec(name), plan(*overrides)))


# ------------------------------------------------------------------------------------------------------------- at rest


def test_sixteen_bytes_a_parameter_stand_divided_over_eight() -> None:
    """fp32 parameters, gradients and two moments, without a master copy; every row count divides by 8."""
    (rank,) = llama()
    held = rank.static
    assert ALL == 8_030_261_248
    assert (held.params, held.grads, held.optimizer) == (4 * ALL // 8, 4 * ALL // 8, 8 * ALL // 8)
    assert held.params + held.grads + held.optimizer == 16 * ALL // 8
    assert held.gathered == 0


def test_a_checkpoint_is_written_as_it_is_divided() -> None:
    """fp32 weights and two moments; where the head alone trains it alone has moments."""
    assert checkpoints(run_of(spec("llama-3.1-8b"), plan())) == [(4 + 8) * ALL // 8]
    head = run_of(spec("llama-3.1-8b"), plan("train.backbone=frozen", "train.head=full"))
    assert checkpoints(head) == [4 * ALL // 8 + 8 * VOCABULARY // 8]
    assert head.ranks[0].static.states == head.ranks[0].static.optimizer


def test_each_parameter_is_divided_by_rows_and_its_last_rows_are_padded() -> None:
    """Over 7 devices: 586 rows of 4096, 147 of 1024, 2,048 of 14,336, 18,323 of 128,256; a norm's 4096 as rows of 1."""
    (rank,) = llama("parallel.world=7", "batch.global_tokens=114688")
    assert [-(-rows // 7) for rows in (4096, 1024, 14_336, 128_256)] == [586, 147, 2048, 18_323]
    layer = 586 * 4096 * 2 + 147 * 4096 * 2 + 2048 * 4096 * 2 + 586 * 14_336 + 2 * 586
    assert rank.static.params == 4 * (LAYERS * layer + 2 * 18_323 * 4096 + 586)
    assert rank.static.params > 4 * -(-ALL // 7)


def test_replicas_divide_the_group_and_context_parallel_devices_join_it() -> None:
    """HSDP: 16 devices as two replicas of 8. Context parallelism shards parameters too (torchtitan's dp_shard_cp)."""
    replicated = ("parallel.world=16", "fsdp.replicate=2", "batch.global_tokens=262144")
    with_context = ("parallel.world=16", "parallel.cp=2", "fsdp.replicate=2")
    for options in (replicated, with_context):
        (rank,) = llama(*options)
        assert rank.static.params == 4 * ALL // 8


def test_tensor_parallelism_comes_first() -> None:
    """tp 2 x 8: norms stay whole on each of the two, 65 of them."""
    (rank,) = llama("parallel.world=16", "parallel.tp=2", "parallel.sp=true")
    norms = 65 * H
    assert rank.static.params == 4 * ((ALL - norms) // 2 + norms) // 8


def test_experts_have_a_group_of_their_own() -> None:
    """8 experts over ep 4, 16 devices: two local experts over 4 devices, more than there are experts, so by the rows of
    their matrices; over two devices one expert each. A router's 8 rows over 16 devices are one on each of eight."""
    experts, width, hidden = Dim("experts", 8, "experts"), Dim("width", 10, "expert_ffn"), Dim("hidden", 6)
    weight = Weight(
        "e", "weight", (width,), (hidden,), stack=(experts,), role="routed_expert", part="backbone", dtype="bfloat16"
    )
    assert shard_elements(weight, Shards(ep=4), 4) == 2 * -(-10 // 4) * 6
    assert shard_elements(weight, Shards(ep=4), 2) == 10 * 6
    mixtral = plan("parallel.world=16", "parallel.ep=4", "batch.global_tokens=262144")
    (rank,) = training_memory(run_of(spec("mixtral-8x22b"), mixtral))
    stacked = sum(w.elements for w in traced("mixtral-8x22b", 2, 8192).weights() if w.stack)
    rest = sum(w.elements for w in traced("mixtral-8x22b", 2, 8192).weights() if not w.stack)
    routers = 56 * 8 * 6144
    assert rank.static.params == 4 * (stacked // 4 // 4 + (rest - routers) // 16 + routers // 8)


def test_moments_have_the_dtype_of_the_parameter_that_is_stepped() -> None:
    how = OPTIMIZERS["adamw-no-master"]
    assert (how.beside(4).moments, how.beside(2).moments, how.master, how.step) == (8, 4, 0, 0)
    (rank,) = llama("precision.params=bf16", "precision.grads=bf16")
    assert rank.static.params + rank.static.grads + rank.static.optimizer == (2 + 2 + 4) * ALL // 8


# ---------------------------------------------------------------------------------------------------- the working set


def gathers(tape: Tape | None = None, **changes: Any) -> tuple[Working, ...]:
    options: dict[str, Any] = {
        "dense": 8,
        "expert": 8,
        "reshard": True,
        "reshard_last": False,
        "prefetch": 1,
        "items": (4, 2, 4),
        "pipelined": False,
        "at_once": False,
    }
    tape = tape or traced("llama-3.1-8b", 2, 8192)
    chunk = tuple((n, s.count) for n, s in enumerate(tape.segments))
    (found,) = workings(tape, (chunk,), Shards(), Sharding(**options | changes))
    return found


def test_forward_holds_a_layer_twice_the_gathered_weights_and_what_they_were_copied_from() -> None:
    """In bf16; and three times while the buffer of the layer before is still there, which the copy ends."""
    found = gathers()
    assert found[5].forward == 2 * (2 * LAYER)
    assert found[5].entering == 3 * (2 * LAYER)
    assert found[1].entering == 2 * VOCABULARY + 2 * (2 * LAYER)


def test_backward_holds_the_next_layers_buffer_and_the_last_ones_sum_in_fp32() -> None:
    """Beside them its own gradients grow in bf16; they stand beside the fp32 ones that are summed when the weights have
    gone."""
    found, entry = gathers(), 2 * 2 * 8192 * H
    assert found[5].backward == 2 * LAYER + 2 * LAYER + 4 * LAYER
    assert found[5].leaving == 2 * LAYER + 2 * LAYER + 4 * LAYER + entry
    assert found[1].backward == 2 * LAYER + 2 * VOCABULARY + 4 * LAYER
    assert found[LAYERS].backward == 2 * LAYER + 2 * LAYER + 4 * HEAD
    assert found[-1].backward == 2 * HEAD + 2 * LAYER  # not gathered again: it never went


def test_weights_that_stay_add_up_and_are_not_gathered_again() -> None:
    found = gathers(reshard=False)
    assert found[5].forward == 2 * VOCABULARY + 5 * 2 * LAYER + 2 * LAYER
    assert found[5].backward == 2 * VOCABULARY + 5 * 2 * LAYER + 4 * LAYER


def test_longer_lists_hold_more_buffers() -> None:
    assert gathers(prefetch=3)[5].forward == (2 + 3) * 2 * LAYER
    assert gathers(prefetch=3)[5].backward == (1 + 3) * 2 * LAYER + 4 * LAYER


def test_one_device_gathers_nothing_and_casts_one_weight_at_a_time() -> None:
    """It has all rows: no buffer to copy from. Casting ends with a layer in bf16 and its largest weight once more."""
    layer = gathers(dense=1, expert=1)[5]
    assert layer.forward == 2 * LAYER
    assert layer.entering == 2 * LAYER + 2 * 14_336 * H


def test_layers_that_rest_take_nothing_backward() -> None:
    """Nothing before the head trains: no backward comes to them, of a pipeline either. The head's own sums up its
    matrix alone, in bf16 beside the fp32 of which a part is kept; the norm beside it rests."""
    resting = trained_tape(traced("llama-3.1-8b", 2, 8192), Train(backbone="frozen", head="full"))
    for pipelined in (False, True):
        found = gathers(resting, pipelined=pipelined)
        assert {(w.backward, w.starting, w.leaving) for w in found[:-1]} == {(0, 0, 0)}
    entry, before = 2 * 2 * 8192 * H, 2 * LAYER
    made = 2 * VOCABULARY + 4 * VOCABULARY // 8
    assert gathers(resting)[-1].leaving == before + made + 4 * VOCABULARY + entry


def test_the_gradient_of_a_tied_matrix_stays_from_the_heads_backward_on() -> None:
    """600 words of 128 and the last norm are gathered all the while, a layer of 246,016 only for its own turn."""
    tape, layer, shared = small_run(600, 8, 1, tied=True).tape, 246_016, 600 * 128 + 128
    found = gathers(tape)
    assert found[-1].backward == 2 * shared + 2 * layer  # and the buffer of the layer before
    assert found[4].backward == (2 + 2) * shared + 2 * layer + 2 * layer
    assert found[3].backward == found[4].backward + 4 * layer  # what the layer behind has to sum up


def test_a_steps_only_backward_makes_the_gradients() -> None:
    """With one micro-batch nothing of them is there in forward, and in backward those of the layers behind."""
    found = gathers(at_once=True)
    assert {w.unmade_forward for w in found} == {4 * ALL // 8}
    assert found[5].unmade_backward == 4 * (VOCABULARY + 5 * LAYER) // 8
    assert found[-1].unmade_backward == 4 * ALL // 8


def test_the_peak_of_torchtitans_recipe() -> None:
    """At the loss's backward: logits in bf16, in fp32 and their logarithms' gradient, 10 bytes a token and word, beside
    the head gathered, the last layer's buffer and what is saved: 1,042,284,544 a layer (test_selective.py),
    log-probabilities in fp32, the norm as eager code keeps it, ids and targets. Gradients aren't made yet."""
    (rank,) = llama()
    tokens = 2 * 8192
    saved = 32 * 1_042_284_544 + tokens * (4 * 128_256 + 8 + 8 + 8 * H + 4) + 4
    assert rank.activation == saved
    assert rank.transient == 10 * tokens * 128_256 + 2 * HEAD + 2 * LAYER
    assert rank.peak == (4 + 8) * ALL // 8 + saved + rank.transient
    assert rank.unmade == 4 * ALL // 8
    assert rank.moment == "backward of chunk 0, micro-batch 0 at lm_head; alive: 1 of chunk 0"
    parts = {"logits and loss": 10 * tokens * 128_256, "gathered weights": 2 * HEAD + 2 * LAYER}
    assert transient_parts(run_of(spec("llama-3.1-8b"), plan()), rank) == parts


@pytest.mark.parametrize("loss", ["eager", "fused", "te", "chunked"])
def test_the_worst_moment_is_the_one_with_most_there_whatever_gradients_are_still_to_come(loss: str) -> None:
    """Of 512 tokens a forward takes more beside what it keeps than a backward, but all gradients are missing from it:
    the backward's end, where they are there, is worse."""
    short = ("batch.seq=512", "batch.micro_batch=1", "batch.global_tokens=4096", f"activations.cross_entropy={loss}")
    (rank,) = llama(*short)
    (chunk,) = rank.chunk_memory
    forward, backward = chunk.forward - chunk.forward_unmade, chunk.backward - chunk.backward_unmade
    assert chunk.forward > chunk.backward
    assert rank.peak == 12 * ALL // 8 + 4 * ALL // 8 + chunk.saved + max(forward, backward)
    assert rank.moment.startswith("backward of chunk 0")


def test_gradients_of_earlier_micro_batches_are_there_all_the_time() -> None:
    """At the same moment a second micro-batch finds all of them."""
    (rank,), (twice,) = llama(), llama("batch.global_tokens=262144")
    assert (twice.unmade, twice.static) == (0, rank.static)
    assert twice.peak - rank.peak == 4 * ALL // 8


# ------------------------------------------------------------------------------------------------- pipeline parallelism


def test_a_pipeline_holds_weights_and_gradients_whole_for_a_step() -> None:
    """torch's schedules reduce once a step: 2 bytes gathered and 4 of the sum for each parameter of the stage."""
    options = ("parallel.pp=2", "parallel.world=16", "batch.global_tokens=1048576")
    first, last = llama(*options)
    stages = (16 * LAYER + VOCABULARY, 16 * LAYER + HEAD)
    for rank, own in zip((first, last), stages, strict=True):
        assert rank.static.params == 4 * own // 8 + 2 * own
        assert rank.static.grads == 4 * own
        assert rank.static.optimizer == 8 * own // 8
    resharded = llama(*options, "fsdp.reshard_after_forward=true")
    assert resharded[0].static.params == 4 * stages[0] // 8
    # at its worst moment, the last layer's backward: that layer and the buffer of the one before in place of all
    assert first.peak - resharded[0].peak == 2 * stages[0] - 2 * 2 * LAYER


def test_a_stage_that_keeps_its_weights_gathered_has_only_gradients_come_and_go() -> None:
    """`gathered_for_good` counts the weights: no layer gathers its own, before, in or after a pass. Backward the
    gradient of the layer's input stands there from the start, and its weights' in bf16 at the end."""
    layer, entry = gathers(pipelined=True, reshard=False)[5], 2 * 2 * 8192 * H
    assert (layer.forward, layer.entering, layer.backward) == (0, 0, 0)
    assert (layer.starting, layer.leaving) == (entry, entry + 2 * LAYER)


def test_a_stage_that_reshards_frees_a_layer_with_each_forward() -> None:
    """Of all that the backward before has left whole, the layer that runs and those to come are there, and what it was
    gathered into; its own eighth in bf16 goes before it runs."""
    layer, to_come = gathers(pipelined=True)[5], ALL - VOCABULARY - 4 * LAYER
    assert layer.forward == 2 * to_come + 2 * LAYER
    assert layer.entering == 2 * to_come + 2 * LAYER + 2 * LAYER // 8


def test_torch_keeps_three_stages_of_a_rank_gathered() -> None:
    """pp 2, vpp 4: of a rank's four stages of four layers; the first rank's with the embedding among them."""
    interleaved = ("parallel.vpp=4", "schedule.kind=interleaved-1f1b")
    rank = llama("parallel.pp=2", "parallel.world=16", "batch.global_tokens=1048576", *interleaved)[0]
    assert rank.static.params == 4 * (16 * LAYER + VOCABULARY) // 8 + 2 * (12 * LAYER + VOCABULARY)


# ------------------------------------------------------------------------------------------------------------ in plans


def test_a_plan_without_fsdp_keeps_its_working_set() -> None:
    """Two layers' weights and one layer's gradients whatever runs, counted over all layers of the rank."""
    from tests.training.plans import ranks

    (without, *_), (level, *_) = (
        ranks("kimi-k2", "activations.offload=none", f"parallel.zero={zero}") for zero in (1, 3)
    )
    assert without.static.gathered == 0 < level.static.gathered
    assert level.transient - without.transient == level.static.gathered


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("parallel.zero=1",), "fsdp divides weights, gradients and states: that is parallel.zero 3, not 1"),
        (("precision.grads=bf16",), "precision.grads must be fp32"),
        (("fsdp.replicate=3",), "8 data-parallel devices do not divide into 3 replicas"),
        (("parallel.ep=2", "fsdp.replicate=8"), "4 expert data-parallel devices do not divide into 8 replicas"),
        (("fsdp.prefetch=0",), "prefetch"),
        (("precision.fp8=blockwise", "activations.kernels=fused"), "FP8 with weights divided over devices"),
        (("memory.optimizer_offload=0.5",), "memory.optimizer_offload is counted as Megatron-LM does it"),
    ],
)
def test_what_a_plan_cannot_say(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan(*options)


def test_a_key_of_fsdp_brings_the_section_into_a_plan_without_it() -> None:
    whole = load_plan("k2-pretrain", ("parallel.zero=3", "precision.grads=bf16", "fsdp.prefetch=2"))
    assert whole.fsdp is not None
    assert (whole.fsdp.prefetch, whole.fsdp.replicate) == (2, 1)
    assert plan("fsdp=null").fsdp is None


def test_what_is_not_said_of_fsdp_is_torchs_own_order_and_one_replica() -> None:
    # FSDP2 gathers the next group while one runs (torch: FSDPParamGroup.pre_forward), reduces in fp32 as torchtitan
    # says, and shards over all devices: nothing is replicated
    said = load_plan(
        "k2-pretrain", ("parallel.zero=3", "precision.grads=bf16", "fsdp.prefetch=1", "fsdp.reduce_dtype=fp32")
    )
    unsaid = load_plan("k2-pretrain", ("parallel.zero=3", "precision.grads=bf16", "fsdp.param_dtype=bf16"))
    assert said.fsdp == unsaid.fsdp
    assert unsaid.fsdp is not None
    assert unsaid.fsdp.replicate == 1


def test_a_report_says_what_it_counts_and_that_reserved_memory_is_more() -> None:
    report = train_report(spec("llama-3.1-8b"), plan())
    assert any("reserved memory" in line for line in report.conventions)
    assert report.rows is not None
    (row,) = report.rows.rows
    assert row["unmade_bytes"] == 4 * ALL // 8
    terms = next(table for table in report.tables if table.name == "terms")
    assert sum(term["bytes"] for term in terms.rows) == row["peak_bytes"]
    without = train_report(spec("llama-3.1-8b"), plan("fsdp=null"))
    assert not any("reserved" in line for line in without.conventions)


def test_a_checkpoint_without_master_weights_has_the_weights_in_fp32() -> None:
    rows = checkpoint_rows(list(traced("llama-3.1-8b", 2, 8192).weights()), "adamw-no-master")
    assert {row["path"]: row["bytes"] for row in rows} == {
        "weights in fp32": 4 * ALL,
        "master weights": 0,
        "moments": 8 * ALL,
        "buffers in fp32": 0,
    }


def test_placeholder_gradients_are_another_stacks() -> None:
    (rank,) = llama("activations.kernels=fused")
    assert rank.cached == 0


# ------------------------------------------------------------------------------------------------------------ the twin

SIZES = (128, 4, 4, 2, 32, 512)
"""Hidden size, layers, heads, key-value heads, head width, feed-forward width: with two tokens, activations are next to
nothing beside 246,016 parameters a layer."""
SEQ = 2


def small(vocabulary: int, *, tied: bool = False) -> Spec:
    h, layers, heads, kv_heads, d, f = SIZES
    content = tiny(
        hidden_size=h,
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        tie_word_embeddings=tied,
        layers=[{"count": layers, "attention": "gqa", "ffn": "dense"}],
    )
    heads_of = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": d}
    content["backbone"]["attention"]["gqa"] |= heads_of
    content["backbone"]["ffn"] = {"dense": content["backbone"]["ffn"]["dense"] | {"intermediate_size": f}}
    return spec_of(content)


def small_run(vocabulary: int, devices: int, micro_batches: int, *options: str, tied: bool = False) -> Run:
    shape = ("batch.micro_batch=1", f"batch.seq={SEQ}", f"batch.global_tokens={SEQ * devices * micro_batches}")
    own = plan(f"parallel.world={devices}", *shape, "activations.selective=null", *options)
    return run_of(small(vocabulary, tied=tied), own)


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process group of as many devices whose collectives do nothing; this process is the first."""
    if find_spec("torch") is None:
        pytest.skip("needs the extra torch")
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for tiny tensors a second one only waits
    dist.init_process_group("fake", rank=0, world_size=request.param, store=FakeStore())
    yield request.param
    dist.destroy_process_group()
    torch.set_num_threads(threads)


@pytest.mark.twin
@pytest.mark.parametrize("group", [8, 7, 1], indirect=True)
def test_torch_divides_every_parameter_so(group: int) -> None:
    from torch import float32

    from tests.training.torch_llama import Model, sharded

    own = sharded(Model(601, *SIZES), group, layers=True, last=False, ahead=1, reduce=float32)
    held = sum(p.to_local().untyped_storage().nbytes() for p in own.parameters())
    (rank,) = training_memory(small_run(601, group, 1))
    assert rank.static.params == held


@pytest.mark.twin
@pytest.mark.parametrize(
    ("group", "vocabulary", "tied", "reshard", "ahead", "micro_batches", "replicas", "reduce"),
    [
        pytest.param(8, 600, False, None, 1, 1, 1, "fp32", id="torchtitan"),
        pytest.param(8, 600, False, None, 1, 2, 1, "fp32", id="two micro-batches"),
        pytest.param(8, 600, False, True, 1, 1, 1, "fp32", id="always resharded"),
        pytest.param(8, 600, False, False, 1, 1, 1, "fp32", id="never resharded"),
        pytest.param(8, 600, False, None, 2, 1, 1, "fp32", id="lists of two"),
        pytest.param(8, 600, False, None, 3, 2, 1, "fp32", id="lists of three"),
        pytest.param(8, 5000, False, None, 1, 1, 1, "fp32", id="large ends"),
        pytest.param(8, 5000, False, None, 1, 2, 1, "fp32", id="large ends, two micro-batches"),
        pytest.param(8, 600, False, None, 1, 2, 1, "bf16", id="summed in bf16"),
        pytest.param(7, 601, False, None, 1, 1, 1, "fp32", id="uneven"),
        pytest.param(1, 600, False, None, 1, 1, 1, "fp32", id="one device"),
        pytest.param(8, 600, True, None, 1, 1, 1, "fp32", id="tied"),
        pytest.param(8, 600, True, True, 1, 2, 1, "fp32", id="tied, always resharded, two micro-batches"),
        pytest.param(8, 600, False, None, 1, 1, 2, "fp32", id="two replicas"),
        pytest.param(8, 600, False, None, 1, 3, 4, "fp32", id="four replicas, three micro-batches"),
    ],
    indirect=["group"],
)
def test_torch_holds_as_much(
    group: int,
    vocabulary: int,
    tied: bool,
    reshard: bool | None,
    ahead: int,
    micro_batches: int,
    replicas: int,
    reduce: str,
) -> None:
    """torch.distributed.fsdp itself: the most that is alive in forward and in backward, within 0.2 %: two tokens'
    activations run through other operations."""
    import torch

    from tests.training.torch_llama import Model, sharded, stepped

    own = sharded(
        Model(vocabulary, *SIZES, tied=tied),
        group,
        layers=reshard is not False,
        last=bool(reshard),
        ahead=ahead,
        reduce={"fp32": torch.float32, "bf16": torch.bfloat16}[reduce],
        replicas=replicas,
    )
    measured = stepped(own, vocabulary, SEQ, micro_batches)
    policy = "null" if reshard is None else str(reshard).lower()
    options = (
        f"reshard_after_forward={policy}",
        f"prefetch={ahead}",
        f"replicate={replicas}",
        f"reduce_dtype={reduce}",
    )
    run = small_run(vocabulary, group, micro_batches, *(f"fsdp.{each}" for each in options), tied=tied)
    (rank,) = training_memory(run)
    (chunk,) = rank.chunk_memory
    resting = rank.static.params + rank.static.grads + chunk.saved
    assert resting + chunk.forward - chunk.forward_unmade == pytest.approx(measured["forward"], rel=0.002)
    assert resting + chunk.backward - chunk.backward_unmade == pytest.approx(measured["backward"], rel=0.002)


@pytest.mark.twin
@pytest.mark.parametrize("group", [8], indirect=True)
@pytest.mark.parametrize("reshard", [False, True])
def test_torch_holds_as_much_between_the_micro_batches_of_a_pipeline(group: int, reshard: bool) -> None:
    """What torch's pipeline stages set before each backward; two micro-batches alive."""
    import torch

    from tests.training.torch_llama import Allocated, Model, sharded

    own = sharded(Model(600, *SIZES), group, layers=reshard, last=reshard, ahead=1, reduce=torch.float32)
    followed = Allocated()
    followed.follow([p.to_local() for p in own.parameters()])
    with followed:
        ids = torch.zeros(1, SEQ, dtype=torch.int64)
        for label in ("first", "later"):
            losses = [torch.nn.functional.cross_entropy(own(ids).flatten(0, 1).float(), ids.flatten()) for _ in "ab"]
            followed.label = label
            for loss in losses:
                own.set_is_last_backward(False)
                own.set_reshard_after_backward(False)
                own.set_requires_gradient_sync(False)
                loss.backward()
            del losses, loss
    how = Sharding(
        dense=8,
        expert=8,
        reshard=reshard,
        reshard_last=reshard,
        prefetch=1,
        items=(4, 2, 4),
        pipelined=True,
        at_once=False,
    )
    run = small_run(600, group, 2)
    held = run.ranks[0].chunks
    weights = tuple((w, max(1, len(w.indices))) for w in run.tape.weights())
    static = static_sharded(run.tape, held, weights, Shards(), how, "adamw-no-master")
    (found,) = workings(run.tape, held, Shards(), how)
    places = [n for n, count in held[0] for _ in range(count)]
    grads = WeightGrads(2, "staying")
    sizes = [segment_memory(run.tape, n, Shards(), run.savers, grads=grads) for n in places]
    chunk = chunk_memory((size._replace(working=own), 1) for size, own in zip(sizes, found, strict=True))
    most = static.params + static.grads + 2 * chunk.saved + chunk.backward
    assert most == pytest.approx(followed.most["later"], rel=0.002)
