"""Dropout, rotation without a kernel and 16-bit gradients in a plan: by hand over TINY, of h 8, 4 heads and 2 key-value
heads of 3, T = 64 tokens."""

from __future__ import annotations

import pytest

from archcalc.calc.activations import saved_rows
from archcalc.calc.liveness import backward_alive
from archcalc.calc.sharding import Shards
from archcalc.tape import Dim, Storage, Tape, Tensor
from archcalc.training.chunk import segment_memory
from archcalc.training.run import Run
from archcalc.training.savers import savers
from archcalc.workload import Workload
from tests.training.test_small_models import model, planned

T, H, HEADS, KV, D, TURNED = 64, 8, 4, 2, 3, 2
FUSED = ("activations.kernels=fused", "activations.router_probs=act")


def saved(run: Run, path: str) -> int:
    n = next(n for n, s in enumerate(run.tape.segments) if s.path.endswith(path))
    return segment_memory(run.tape, n, run.shards, run.savers).saved


def more(path: str, *overrides: str) -> int:
    """Bytes that a segment keeps more with these overrides."""
    spec = model()
    return saved(planned(spec, *FUSED, *overrides), path) - saved(planned(spec, *FUSED), path)


HIDDEN = "activations.hidden_dropout=0.1"


def test_hidden_dropout_keeps_a_byte_for_each_element_of_two_branches_and_of_the_embedding() -> None:
    assert more("layers.{i}", HIDDEN) == 2 * T * H
    assert more("embed_tokens", HIDDEN) == T * H
    assert more("lm_head", HIDDEN) == 0


def test_a_prediction_module_drops_its_embedding_and_both_branches() -> None:
    spec = model(num_nextn_predict_layers=1)
    plain, dropped = (planned(spec, *FUSED, *more) for more in ((), (HIDDEN,)))
    n = next(n for n, s in enumerate(plain.tape.segments) if s.part == "mtp")
    kept = [segment_memory(run.tape, n, run.shards, run.savers).saved for run in (plain, dropped)]
    assert kept[1] - kept[0] == 3 * T * H


@pytest.mark.parametrize(("sp", "parts"), [(False, 1), (True, 2)])
def test_masks_are_whole_on_every_device_but_for_sequence_parallel_ones(sp: bool, parts: int) -> None:
    spec, mesh = model(), Shards(tp=2, sp=sp)
    tape = spec.trace(Workload(phase="train", seq=T))
    n = next(n for n, s in enumerate(tape.segments) if s.indices)
    names = {"kernels": "fused", "router_probs": "act", "cross_entropy": "te"}
    plain, dropped = (
        segment_memory(tape, n, mesh, savers(**names, hidden_dropout=chance)).saved  # type: ignore[arg-type]
        for chance in (0.0, 0.1)
    )
    assert dropped - plain == 2 * T * H // parts


def test_a_whole_layer_that_is_recomputed_keeps_no_mask() -> None:
    """The state of the generator stands for them (Megatron-LM, tensor_parallel/random.py, CheckpointFunction)."""
    again = "activations.recompute=[full]"
    spec = model()
    assert saved(planned(spec, *FUSED, again, HIDDEN), "layers.{i}") == 2 * T * H
    assert saved(planned(spec, *FUSED, again), "layers.{i}") == 2 * T * H


def test_attention_dropout_matters_where_scores_are_written_out_alone() -> None:
    chance, unfused = "activations.attention_dropout=0.1", "activations.core=unfused"
    assert more("layers.{i}", chance) == 0
    # keys and values of every head, 2 bytes a score, no log-sum-exp; then a mask and the dropped softmax
    repeated = 2 * 2 * (HEADS - KV) * D * T
    assert more("layers.{i}", unfused) == repeated + 2 * HEADS * T * T - 4 * HEADS * T
    assert more("layers.{i}", unfused, chance) - more("layers.{i}", unfused) == (1 + 2) * HEADS * T * T


DROPPED = savers(kernels="fused", router_probs="act", cross_entropy="te", hidden_dropout=0.1)


def test_the_gradient_of_a_dropped_branch_is_a_tensor_beside_the_residuals() -> None:
    """x + f(x), f through a small tensor and a large one. The most is at what makes f's result: the large one's
    gradient and the sum's, which without dropout is f's too; then the small one's is made beside the large one's and
    x's."""
    rows = (Dim("batch", 1), Dim("seq", 4, "seq"))
    wide, small, large = Dim("wide", 10), Dim("small", 1), Dim("large", 30)
    tape = Tape(Workload(phase="train"))
    with tape.segment("layer", "backbone", Tensor(rows, (wide,), Storage(rows, (wide,), "bfloat16"))) as x:
        inner = tape.copy((tape.copy((x,), "a", (small,), site="rope"),), "b", (large,), site="rope")
        tape.add(x, tape.copy((inner,), "c", (wide,), site="rope"), "sum", site="residual", drops=True)
    w, s, b = (2 * 4 * d.size for d in (wide, small, large))
    assert backward_alive(tape.segments[0], Shards(), {}).total == w + b + s
    assert backward_alive(tape.segments[0], Shards(), {}, DROPPED.variants).total == 2 * w + b
    mask = [row.nbytes for row in saved_rows(tape.segments[0], Shards(), DROPPED)]
    assert mask == [4 * 10]


def test_rotation_without_a_kernel_keeps_cos_and_sin_of_queries_and_keys_whatever_the_batch() -> None:
    """2 tensors of 2 tables, 2 bytes for each position and feature that turns; every device has them whole."""
    unfused = "activations.rope=unfused"
    spec = model()
    assert more("layers.{i}", unfused) == 2 * 2 * 2 * T * TURNED
    batched = (*FUSED, "batch.micro_batch=2", "batch.global_tokens=8192")
    assert saved(planned(spec, *batched, unfused), "layers.{i}") - saved(planned(spec, *batched), "layers.{i}") == (
        2 * 2 * 2 * T * TURNED
    )


def test_a_checkpoint_of_the_core_keeps_the_projection_that_the_values_are_a_view_of() -> None:
    """Beside q, k and v the projections of queries and keys, (n + g)·d wide, and no log-sum-exp; eager code's
    projections are three tensors."""
    again = "activations.recompute=[core_attn]"
    assert more("layers.{i}", again) == 2 * (HEADS + KV) * D * T - 4 * HEADS * T
    assert (
        saved(planned(model(), again, "activations.kernels=eager"), "layers.{i}")
        - saved(planned(model(), "activations.kernels=eager"), "layers.{i}")
        == -4 * HEADS * T
    )


def test_fp16_weights_and_gradients_take_two_bytes_each() -> None:
    spec = model()
    half, brain = (planned(spec, f"precision.params={name}", f"precision.grads={name}") for name in ("fp16", "bf16"))
    assert half.item_bytes == brain.item_bytes == (2, 2)
    assert half.ranks[0].static == brain.ranks[0].static
