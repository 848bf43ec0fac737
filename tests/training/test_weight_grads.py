"""Weights' own gradients while a backward runs, by hand on small models and against Megatron-LM's rules."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from archcalc.calc.activations import saved_bytes
from archcalc.calc.sharding import Shards
from archcalc.tape import Tape
from archcalc.training.chunk import segment_memory
from archcalc.training.parts import Train, trained_tape
from archcalc.training.run import weight_grads_of
from archcalc.training.weight_grads import WeightGrads, after_operands, beside_operands, head_gradient, waiting
from tests.training.plans import k2_plan, ranks, traced

LLAMA = traced("llama-3.1-8b", 1, 128)  # 4096 wide, 32 and 8 heads of 128, feed-forward 14,336, vocabulary 128,256
LAYER = next(n for n, s in enumerate(LLAMA.segments) if s.indices)
HEAD = len(LLAMA.segments) - 1
SAVERS = k2_plan("activations.cross_entropy=te").activations.levers()[0].savers
MADE, BLANK, FUSED = WeightGrads(2, "made"), WeightGrads(2, "blank"), WeightGrads(2, "fused")


def by_path(found: dict[int, int], n: int = LAYER) -> dict[str, int]:
    return {LLAMA.segments[n].ops[i].path.rpartition(".")[2]: size for i, size in found.items()}


def test_a_fused_weights_gradient_is_one_tensor() -> None:
    """Query, key and value: (32 + 8 + 8)·128 rows of 4096 in bf16; gate and up: 2·14,336 rows."""
    made = by_path(beside_operands(LLAMA.segments[LAYER], Shards(), MADE, one_gemm=True))
    assert made["q_proj"] == made["k_proj"] == made["v_proj"] == 2 * 48 * 128 * 4096
    assert made["gate_proj"] == made["up_proj"] == 2 * 2 * 14_336 * 4096
    assert made["input_layernorm"] == 2 * 4096


def test_linears_on_their_own_make_gradients_of_their_own() -> None:
    made = by_path(beside_operands(LLAMA.segments[LAYER], Shards(tp=2), MADE, one_gemm=False))
    assert (made["q_proj"], made["k_proj"]) == (32 * 128 * 4096, 8 * 128 * 4096)


def test_nothing_is_made_where_products_are_added_into_the_buffer() -> None:
    segment = LLAMA.segments[LAYER]
    assert beside_operands(segment, Shards(), FUSED, one_gemm=True) == {}
    assert after_operands(segment, Shards(), FUSED) == {}
    assert head_gradient(LLAMA.segments[HEAD], Shards(), FUSED) == 0


def test_an_embeddings_gradient_is_as_large_as_its_table_whatever_is_fused() -> None:
    for how in (FUSED, BLANK, MADE):
        made = by_path(beside_operands(LLAMA.segments[0], Shards(tp=2), how, one_gemm=True), 0)
        assert made["embed_tokens"] == sum(made.values()) == 128_256 * 4096  # 2 bytes, over 2 devices


def test_empty_gradients_come_when_operands_are_gone() -> None:
    """The largest of a layer: gate and up, whose input, T x 4096, has gone by then: it is the norm's output, and fused
    norms keep their input."""
    made, blank, fused = (
        segment_memory(
            LLAMA,
            LAYER,
            Shards(),
            SAVERS,
            frozenset(),
            how,
        ).backward
        for how in (MADE, BLANK, FUSED)
    )
    assert fused < blank
    assert made - blank == 2 * 128 * 4096


def test_the_heads_gradient_is_counted_with_its_linear() -> None:
    """TransformerEngine's loss keeps the logits' gradient in the logits: beside it the head's backward makes its
    input's gradient, T x h, and its weight's, V x h."""
    how = [segment_memory(LLAMA, HEAD, Shards(), SAVERS, frozenset(), g).backward for g in (FUSED, MADE)]
    assert how == [2 * 128 * 4096, 2 * 128 * 4096 + 2 * 128_256 * 4096]


def test_a_sequence_parallel_head_has_its_inputs_gradient_whole_beside_its_weights() -> None:
    """On 2 devices: T x h whole and the half that is scattered, and the gradient of half the words."""
    shards = Shards(tp=2, sp=True)
    made = segment_memory(LLAMA, HEAD, shards, SAVERS, frozenset(), MADE).backward
    assert made == 2 * 128 * 4096 * 3 // 2 + 128_256 * 4096


def test_frozen_weights_make_no_gradients() -> None:
    """Beside adapters neither norms nor matrices do."""
    tape = trained_tape(LLAMA, Train(backbone="lora(8)"))
    for segment in tape.segments:
        sizes = beside_operands(segment, Shards(), MADE, one_gemm=False)
        made = {segment.ops[i].path.rpartition("layers.")[2] for i, size in sizes.items() if size}
        assert all(".lora_" in path for path in made), made
        assert len(made) == (2 * 7 if segment.indices else 0)  # A and B of q, k, v, o, gate, up, down


def test_a_shared_weights_first_gradient_waits_for_the_second() -> None:
    """Qwen3 4B's like: the head multiplies by the embedding; autograd adds both gradients up at the embedding."""
    tied = traced("gemma-3-27b", 1, 128)
    every, head = range(len(tied.segments)), len(tied.segments) - 1
    size = head_gradient(tied.segments[head], Shards(), MADE)
    assert size == 2 * 262_208 * 5376
    until_then = dict.fromkeys(range(head), size)
    assert waits(tied, every, MADE) == waits(tied, every, BLANK) == until_then
    assert waits(tied, range(1, head + 1), MADE) == {}  # another stage has the embedding
    assert waits(tied, every, FUSED) == {}
    assert waits(LLAMA, range(HEAD + 1), MADE) == {}


def waits(tape: Tape, places: Iterable[int], how: WeightGrads) -> dict[int, int]:
    return waiting(tape, [(n, tape.segments[n].count) for n in places], Shards(), how)


V3 = traced("deepseek-v3", 1, 128)
EMBEDS, DENSE, MIXED, LAST, AHEAD = range(5)


def test_the_heads_gradient_waits_for_that_of_a_prediction_module() -> None:
    """Which multiplies with the head too, and runs backward behind it."""
    assert waits(V3, (MIXED, AHEAD, LAST), MADE) == waits(V3, (MIXED, AHEAD, LAST), BLANK) == {1: 2 * 129_280 * 7168}
    assert waits(V3, (MIXED, AHEAD, LAST), FUSED) == {}


def test_an_embeddings_gradient_waits_from_a_prediction_module_to_the_first_stage() -> None:
    """No kernel adds rows into the buffer, so that it does under fusion as well."""
    assert waits(V3, (EMBEDS, DENSE, MIXED, AHEAD, LAST), FUSED) == dict.fromkeys(range(3), 2 * 129_280 * 7168)
    both = waits(V3, (EMBEDS, DENSE, MIXED, AHEAD, LAST), MADE)
    assert both == dict.fromkeys(range(4), 2 * 129_280 * 7168)


def test_of_two_prediction_modules_the_last_one_makes_the_gradient_that_waits_while_the_first_runs() -> None:
    chunk = [(EMBEDS, 1), (MIXED, 58), (AHEAD, 2), (LAST, 1)]
    assert waiting(V3, chunk, Shards(), FUSED) == dict.fromkeys(range(3), 2 * 129_280 * 7168)


def test_a_prediction_module_makes_the_embeddings_gradient() -> None:
    """It embeds tokens itself: at the end of its backward the table's gradient, V x h, stands beside those of what it
    joins, T x h each, when all it kept is gone. With 128 tokens nothing before is as large."""
    few = segment_memory(V3, AHEAD, Shards(ep=64), SAVERS, frozenset(), FUSED)
    kept = saved_bytes(V3.segments[AHEAD], Shards(ep=64), SAVERS)
    assert few.backward + kept == 2 * 129_280 * 7168 + 2 * 2 * 128 * 7168


@pytest.mark.parametrize(
    ("overrides", "linears"),
    [
        ((), "fused"),
        (("memory.placeholder_grads=false",), "blank"),  # autograd is handed an empty tensor each time
        (("memory.placeholder_grads=false", "activations.kernels=eager"), "fused"),
        (("memory.gradient_accumulation_fusion=false",), "made"),
    ],
)
def test_what_a_plan_says(overrides: tuple[str, ...], linears: str) -> None:
    assert weight_grads_of(k2_plan(*overrides)) == WeightGrads(2, linears)  # type: ignore[arg-type]


def test_without_fusion_no_placeholder_is_cached() -> None:
    assert ranks("kimi-k2", "memory.gradient_accumulation_fusion=false")[1].cached == 0


def test_the_heads_gradient_waits_until_the_embeddings_is_added_to_it() -> None:
    """On one stage with few tokens, so that the weight is larger than the logits: the worst of the backward is the
    embedding's, which makes V x h beside the head's V x h, from its output's gradient T x h, when of all that was kept
    its 8-byte ids are left. Of two weights each is dropped as soon as it is added up."""
    few = ("parallel.pp=1", "parallel.vpp=1", "parallel.ep=1", "schedule.kind=1f1b", "schedule.extra_warmup=0")
    sizes = ("batch.seq=128", "batch.global_tokens=131072", "activations.recompute=[]", "activations.fp8=[]")
    more = ("activations.offload=none", "parallel.layout=auto", "memory.gradient_accumulation_fusion=false")
    (tied,) = ranks("gemma-3-27b", *few, *sizes, *more)[0].chunk_memory
    (apart,) = ranks("llama-3.1-8b", *few, *sizes, *more)[0].chunk_memory
    assert (tied.backward_at, apart.backward_at) == ("model.embed_tokens", "lm_head")
    assert tied.backward + tied.saved - 8 * 128 == 2 * 2 * 262_208 * 5376 + 2 * 128 * 5376
    assert apart.backward < 2 * 2 * 128_256 * 4096
