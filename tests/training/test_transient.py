"""What lives only while a layer or the head runs; sums by hand at Kimi K2's dimensions, T = 4096."""

from fractions import Fraction

import pytest

from archcalc.calc.activations import Savers, saved_rows
from archcalc.calc.liveness import backward_alive, forward_alive
from archcalc.calc.sharding import Shards
from archcalc.tape import Dim, Segment, Storage, Tape, Tensor
from archcalc.training.chunk import SegmentMemory, chunk_memory, segment_memory
from archcalc.training.parts import Train, trained_tape
from archcalc.training.savers import savers
from archcalc.training.transient import gathered_head_input, head_transient, routed_copies
from archcalc.workload import Workload
from tests.training.plans import chunk, traced

T, H, V, K = 4096, 7168, 163_840, 8
TH = 2 * T * H  # one hidden state, bf16
RH = K * TH  # the routed copies of a rank: 469,762,048


@pytest.fixture
def tape() -> Tape:
    return traced("kimi-k2", 1, T)


def place(tape: Tape, kind: str) -> int:
    return next(n for n, s in enumerate(tape.segments) if s.indices and any(op.kind == kind for op in s.ops))


def head(tape: Tape) -> Segment:
    return next(s for s in tape.segments if any(op.site == "head" for op in s.ops))


def how(loss: str = "te", *recompute: str, probs: str = "act") -> Savers:
    return savers(kernels="fused", router_probs=probs, recompute=recompute, fp8=(), cross_entropy=loss)


def test_a_moe_forward_ends_beside_four_copies_of_its_routed_tokens(tape: Tape) -> None:
    """Sorted for sending, received, outputs sorted for return, returned; the sum and the shared expert's
    output."""
    moe = tape.segments[place(tape, "dispatch")]
    assert routed_copies(moe, Shards(ep=16), set()) == 4 * RH + 2 * TH


def test_uneven_routing_grows_what_is_received_only(tape: Tape) -> None:
    moe = tape.segments[place(tape, "dispatch")]
    # three copies of what came (received, outputs in both orders) beside one of what was sent
    assert routed_copies(moe, Shards(ep=16, imbalance=Fraction(4)), set()) == RH + 3 * 4 * RH + TH


def test_without_exchange_or_sorting_there_are_fewer_copies(tape: Tape) -> None:
    moe = tape.segments[place(tape, "dispatch")]
    assert routed_copies(moe, Shards(), set()) == 2 * RH + TH
    assert routed_copies(moe, Shards(ep=384), set()) == 3 * RH + TH


def test_outputs_that_the_combine_keeps_are_not_counted_again(tape: Tape) -> None:
    moe = tape.segments[place(tape, "dispatch")]
    kept = {row.storage for row in saved_rows(moe, Shards(ep=16), how(probs="out"))}
    assert routed_copies(moe, Shards(ep=16), kept) == 3 * RH + 2 * TH


def test_a_dense_layer_routes_nothing(tape: Tape) -> None:
    dense = next(s for s in tape.segments if s.indices == (0,))
    assert routed_copies(dense, Shards(), set()) == 0


@pytest.mark.parametrize(
    ("loss", "forward", "backward"),
    [
        ("eager", 10 * T * V, 10 * T * V),  # 14 bytes, 4 of them kept
        ("fused", 2 * T * V, 2 * T * V),  # bf16 logits; the bf16 gradient
        ("te", 0, TH),  # the gradient of the head's input
        ("chunked", 14 * 1024 * V, 14 * 1024 * V),
    ],
)
def test_logits_and_loss(tape: Tape, loss: str, forward: int, backward: int) -> None:
    assert head_transient(head(tape), Shards(), how(loss)) == (forward, backward)


@pytest.mark.parametrize(
    ("loss", "forward"),
    [
        ("eager", 14 * T * V),  # bf16 logits, fp32 ones, log-probabilities, their gradient: 2 + 4 + 4 + 4
        ("fused", 6 * T * V),  # bf16 logits, and fp32 ones that the loss is made in
        ("te", 2 * T * V),  # the gradient is written over the bf16 logits
    ],
)
def test_what_a_head_that_rests_would_save_lives_in_its_forward_alone(tape: Tape, loss: str, forward: int) -> None:
    resting = trained_tape(tape, Train(backbone="frozen"))
    assert head_transient(head(resting), Shards(), how(loss)) == (forward, 0)


def test_layers_that_make_nothing_take_nothing_beside_what_they_keep() -> None:
    memory = chunk_memory([(SegmentMemory("layer", 10, 0, 0, 0, 0), 2)])
    assert (memory.saved, memory.forward, memory.backward, memory.input_gradient) == (20, 0, 0, 0)


def test_a_sequence_parallel_head_has_its_input_and_its_gradient_whole(tape: Tape) -> None:
    shards = Shards(tp=8, sp=True)
    assert gathered_head_input(head(tape), shards) == TH
    assert head_transient(head(tape), shards, how()) == (0, TH + TH // 8)  # whole, and the part that is scattered
    assert gathered_head_input(head(tape), Shards(tp=8)) == 0


def test_what_is_recomputed_is_there_again_in_backward(tape: Tape) -> None:
    """A layer recomputed whole takes in backward what a plain one takes, less its input, which it kept."""
    n = place(tape, "dispatch")
    plain, full = how(), how("te", "full")
    one, other = (segment_memory(tape, n, Shards(ep=16), each) for each in (plain, full))
    assert one.saved + one.backward == other.saved + other.backward
    assert other.saved == TH


def test_a_chunk_is_worst_where_later_layers_have_freed_least(tape: Tape) -> None:
    """Two MoE layers: forward at the last one, all kept; backward at the last one too, before anything is
    freed."""
    n = place(tape, "dispatch")
    one, two = (chunk(tape, ((n, count),), Shards(ep=16), how(), None) for count in (1, 2))
    assert two.saved == 2 * one.saved == 2 * T * 374_932
    assert (two.forward, two.backward) == (one.forward, one.backward)
    assert two.offloadable == two.saved


def test_layers_before_a_head_run_backward_after_it_has_freed_its_own(tape: Tape) -> None:
    n = place(tape, "dispatch")
    last = tape.segments.index(head(tape))
    alone = chunk(tape, ((n, 1),), Shards(ep=16), how(), None)
    both = chunk(tape, ((n, 1), (last, 1)), Shards(ep=16), how(), None)
    logits = T * (2 * V + 4 * H + 4)
    assert both.saved == alone.saved + logits
    assert both.backward == max(TH, alone.backward - logits)


def test_only_inputs_of_linears_wait_for_weight_gradients(tape: Tape) -> None:
    """Norm outputs, both latents after their norms, attention's output, fc1's input, both products: 2 bytes
    each."""
    n = place(tape, "dispatch")
    waiting = 2 * (2 * H + 1536 + 512 + 64 * 128 + K * H + K * 2048 + 2048)
    memory = chunk(tape, ((n, 1),), Shards(), how())
    assert memory.waiting == T * waiting
    assert memory.offloadable == 0
    assert round(memory.waiting / memory.saved, 2) == 0.54


def test_unfused_attention_keeps_wide_operands_and_the_whole_matrix_of_probabilities(tape: Tape) -> None:
    """64 heads: queries and keys of 192, values of 128, in fp32, and T x T probabilities, in place of the same in bf16
    and a log-sum-exp; attention's output is kept either way, for the projection behind it."""
    flash, unfused = (kept_by_core(tape, "eager", core) for core in ("flash", "unfused"))
    operands = 64 * (192 + 192 + 128)
    assert unfused.saved - flash.saved == T * operands * (4 - 2) - T * 64 * 4 + 64 * T * T * 4
    # a dropped element: a byte of mask and an fp32 of the dropped softmax
    dropped = kept_by_core(tape, "eager", "unfused", attention_dropout=0.1)
    assert dropped.saved - unfused.saved == 64 * T * T * (1 + 4)


def test_unfused_attention_of_fused_kernels_keeps_its_probabilities_in_16_bit_with_mask_and_dropped_ones(
    tape: Tape,
) -> None:
    """arXiv:2205.05198, section 4.1: 2, 1 and 2 bytes a score, and no log-sum-exp; q, k, v and the output as flash."""
    flash, unfused = (kept_by_core(tape, "fused", core) for core in ("flash", "unfused"))
    assert unfused.saved - flash.saved == 2 * 64 * T * T - T * 64 * 4
    dropped = kept_by_core(tape, "fused", "unfused", attention_dropout=0.1)
    assert dropped.saved - unfused.saved == (1 + 2) * 64 * T * T
    assert kept_by_core(tape, "fused", "flash", attention_dropout=0.1) == flash


def kept_by_core(tape: Tape, kernels: str, core: str, *, attention_dropout: float = 0.0) -> SegmentMemory:
    """A MoE layer."""
    ways = {"kernels": kernels, "core": core, "router_probs": "act", "cross_entropy": "te"}
    how = savers(**ways, attention_dropout=attention_dropout)  # type: ignore[arg-type]
    return segment_memory(tape, place(tape, "dispatch"), Shards(ep=16), how)


def test_gradients_of_scores_stand_beside_the_softmax_while_unfused_attention_runs_backward() -> None:
    """One attention alone: b·n scores of s x s on n = 2 heads of d = 4, s = 64 tokens, bf16.

    With dropout 5 bytes a score are kept; backward their gradient, 2 bytes, before any but v's: at the last product
    q, k, v, the output's gradient and v's stand too. Forward the scores (2 bytes) and the product before it is
    reordered stand beside what is kept, the output among it only where somebody keeps that.
    """
    s, n, d = 64, 2, 4
    rows, heads, dim = (Dim("batch", 1), Dim("seq", s, "seq")), Dim("heads", n, "heads"), Dim("dim", d)
    tape = Tape(Workload(phase="train", seq=s))
    with tape.segment("layer", "backbone", Tensor(rows, (heads, dim), Storage(rows, (heads, dim), "bfloat16"))) as x:
        q, k, v = (tape.copy((x,), name, (heads, dim), site="rope") for name in "qkv")
        tape.attention(q, k, v, "core", heads=heads, qk_dim=dim, v_dim=dim, pairs=())
    operand, score = 2 * s * n * d, n * s * s
    for chance, held in ((0.0, 2), (0.1, 5)):
        how = savers(kernels="fused", core="unfused", router_probs="act", cross_entropy="te", attention_dropout=chance)
        kept = {row.storage: row.nbytes for row in saved_rows(tape.segments[0], Shards(), how)}
        assert sum(kept.values()) == 3 * operand + held * score
        assert (
            backward_alive(tape.segments[0], Shards(), kept, variants=how.variants).total
            == 5 * operand + (held + 2) * score
        )
        again = forward_alive(tape.segments[0], Shards(), set(kept), variants=how.variants).total
        assert again == operand + 2 * score  # what nobody keeps: the output stands for itself after the reordering


def test_zero_3_gathers_while_it_runs(tape: Tape) -> None:
    n = place(tape, "dispatch")
    plain, gathered = (chunk(tape, ((n, 1),), Shards(), how(), None, g) for g in (0, 10**9))
    assert (gathered.forward, gathered.backward) == (plain.forward + 10**9, plain.backward + 10**9)


def test_a_ring_passes_two_buffers_of_keys_and_values(tape: Tape) -> None:
    n = place(tape, "dispatch")
    ring = segment_memory(tape, n, Shards(cp=4), how()).backward
    ulysses = segment_memory(tape, n, Shards(cp=4, ulysses=True), how()).backward
    assert ring - ulysses == 2 * 2 * (T // 4) * 64 * (192 + 128)


def test_multi_token_prediction_runs_the_head_once_more() -> None:
    tape = traced("deepseek-v3", 1, T)
    n = next(n for n, s in enumerate(tape.segments) if s.part == "mtp")
    memory = chunk(tape, ((n, 1),), Shards(), how(), None)
    rows = saved_rows(tape.segments[n], Shards(), how())
    layer = sum(row.nbytes for row in rows if row.site not in ("head", "loss"))
    assert memory.saved - layer == T * (2 * H + 2 * 129_280)  # the head's input, its logits
