"""Saved activations: sums by hand, to the byte, and laws that every combination of savers obeys.

Dimensions of Kimi K2: h 7168, n 64 heads of 128 + 64 and 128, latents 1536 and 512 (+ 64 rotary), dense
18432, experts 2048 wide, 384 of them, 8 a token and 1 shared. T = 4096 tokens.
"""

from fractions import Fraction
from functools import lru_cache
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.calc.activations import Savers, saved_bytes, saved_rows
from archcalc.calc.liveness import backward_alive, forward_alive
from archcalc.calc.sharding import Shards
from archcalc.files.loader import load_spec
from archcalc.tape import Dim, Segment, Storage, Tape, Tensor
from archcalc.training.savers import FP8, FULL, RECOMPUTE, savers
from archcalc.workload import Workload

T = 4096
ONE = Shards()

# One MoE layer and token, fused kernels, probabilities inside the activation [bytes]:
NORMS = 2 * (4 * 7168) + 2 * 4  # twice input and output in bf16, and rstd
MLA = (
    2 * (64 * 192 + 64 * 192 + 64 * 128 + 64 * 128)  # q, k, v, out: 24,576 + 24,576 + 16,384 + 16,384
    + 4 * 64  # log-sum-exp
    + 2 * (1536 + 512 + 64)  # q_a out, kv_a out
    + 2 * (1536 + 512)  # their norms' outputs
    + 2 * 4  # rstd of both
)
ROUTER = 4 * 384 + 8 * 8 + 4 * 8 + 4 + 2 * 8 * 8  # scores, indices, weights, their sum; row map and sort order
EXPERTS = 2 * 8 * 7168 + 4 * 8 * 2048 + 2 * 8 * 2048 + 4 * 8  # fc1's input, gate and up, product, probabilities
SHARED = 6 * 2048
MOE = NORMS + MLA + ROUTER + EXPERTS + SHARED
DENSE = NORMS + MLA + 6 * 18432
LAYERNORM = 2 * (2 * 7168 + 4)  # what recomputing both norms frees: outputs and rstd
MLA_UP = 2 * (64 * 192 * 2 + 64 * 128) + 2 * (1536 + 512) + 2 * 4  # q, k, v, the latents' norms


def test_the_hand_sums_are_the_published_ones() -> None:
    assert (NORMS, MLA, ROUTER, EXPERTS) == (57_352, 90_504, 1_764, 114_688 + 65_536 + 32_768 + 32)
    assert (MOE, DENSE) == (374_932, 258_448)


@lru_cache
def traced(batch: int, seq: int) -> Tape:
    return load_spec("kimi-k2").trace(Workload(phase="train", batch=batch, seq=seq))


@pytest.fixture
def tape() -> Tape:
    return traced(1, T)


def layer(tape: Tape, kind: str) -> Segment:
    layers = [s for s in tape.segments if s.part == "backbone" and s.indices]
    return next(s for s in layers if any(op.kind == "dispatch" for op in s.ops) == (kind == "moe"))


def how(*recompute: str, fp8: tuple[str, ...] = (), kernels: str = "fused", probs: str = "act") -> Savers:
    return savers(kernels=kernels, router_probs=probs, recompute=recompute, fp8=fp8, cross_entropy="fused")


K2 = ("layernorm", "swiglu", "mla_up_proj", "moe_down_proj")
BOTH = ("moe_up_proj_input", "swiglu_input")


@pytest.mark.parametrize(
    ("kind", "options", "per_token"),
    [
        ("moe", how(), MOE),
        ("moe", how(probs="out"), MOE + 2 * 8 * 7168),  # the experts' output too: 489,620
        ("moe", how("layernorm"), MOE - LAYERNORM),  # 346,252
        # the product of routed and shared experts, again in backward: 309,388
        ("moe", how("layernorm", "swiglu"), MOE - LAYERNORM - 2 * 8 * 2048 - 2 * 2048),
        ("moe", how("layernorm", "swiglu", "mla_up_proj"), MOE - LAYERNORM - 2 * 9 * 2048 - MLA_UP),  # 239,748
        ("moe", how(*K2), 239_748),  # under probs@act there is no experts' output to free
        ("moe", how(*K2, probs="out"), 239_748),  # under probs@out there is: the same remains
        # fc1's input, gate and up of routed and shared experts at 33/32 byte instead of 2 an element
        ("moe", how(*K2, fp8=BOTH), 239_748 - (8 * 7168 + 9 * 4096) * 31 // 32),
        ("dense", how(), DENSE),
        ("dense", how("layernorm"), DENSE - LAYERNORM),  # 229,768
        ("dense", how("layernorm", "swiglu"), DENSE - LAYERNORM - 2 * 18432),  # 192,904
        ("dense", how(*K2), 123_264),
        ("dense", how(*K2, fp8=BOTH), 123_264),  # FP8 is for MoE layers
        ("dense", how(kernels="eager"), 360_720),
        ("moe", how(FULL), 2 * 7168),
        ("dense", how(FULL), 2 * 7168),
        # whole regions keep their input only: attention's q, k, v stay, the experts' all goes
        ("moe", how("core_attn"), MOE - 4 * 64),  # out stays: it is o_proj's input
        ("moe", how("moe"), NORMS + MLA),
        ("moe", how("shared_experts"), MOE - SHARED),
        ("dense", how("mlp"), NORMS + MLA),
    ],
)
def test_a_layer_keeps_what_the_sums_say(tape: Tape, kind: str, options: Savers, per_token: int) -> None:
    assert saved_bytes(layer(tape, kind), ONE, options) == T * per_token


def test_an_eager_moe_layer_has_a_part_that_does_not_grow_with_tokens(tape: Tape) -> None:
    # 735,236 B a token; the fp32 copy of the router's weight 4·384·7168 and the grouped matmul's offsets 4·384
    assert saved_bytes(layer(tape, "moe"), ONE, how(kernels="eager", probs="out")) == T * 735_236 + 4 * 384 * 7169
    twice = traced(2, T)
    assert saved_bytes(layer(twice, "moe"), ONE, how(kernels="eager", probs="out")) == 2 * T * 735_236 + 4 * 384 * 7169


def test_k2_savers_end_at_148484_bytes_a_token(tape: Tape) -> None:
    left = {"x": 2 * 2 * 7168, "latents": 2 * (1536 + 576), "o, lse": 2 * 64 * 128 + 4 * 64}
    left |= {"fc1_in": 8 * 7168 * 33 // 32, "gate_up": 9 * 4096 * 33 // 32, "maps, probs": ROUTER + 4 * 8}
    assert sum(left.values()) == 148_484
    assert saved_bytes(layer(tape, "moe"), ONE, how(*K2, fp8=BOTH)) == T * 148_484


def test_head_and_loss(tape: Tape) -> None:
    head = next(s for s in tape.segments if any(op.site == "head" for op in s.ops))
    norm = 2 * 2 * 7168 + 4  # the final norm's input and output, rstd
    assert saved_bytes(head, ONE, how()) == T * (norm + 4 * 163_840 + 8 + 1)  # fp32 probabilities, targets, mask
    te = savers(kernels="fused", router_probs="act", recompute=(), fp8=(), cross_entropy="te")
    assert saved_bytes(head, ONE, te) == T * (norm + 2 * 163_840)  # the gradient stands where the logits were


def test_all_to_all_context_parallelism_keeps_attentions_output_twice(tape: Tape) -> None:
    # by heads for attention, by tokens for o_proj: 2·T/cp·n·dv more
    ring, ulysses = Shards(cp=4), Shards(cp=4, ulysses=True)
    more = saved_bytes(layer(tape, "dense"), ulysses, how()) - saved_bytes(layer(tape, "dense"), ring, how())
    assert more == 2 * (T // 4) * 64 * 128
    assert saved_bytes(layer(tape, "dense"), ring, how()) == T // 4 * DENSE


def test_tp_with_sp_divides_a_dense_layer_but_for_the_latents_views(tape: Tape) -> None:
    assert saved_bytes(layer(tape, "dense"), Shards(tp=4, sp=True), how()) == T * DENSE // 4
    # without sp: norms, latents and their statistics are replicated, heads and widths divided
    whole = NORMS + 2 * (1536 + 576) + 2 * (1536 + 512) + 8
    assert saved_bytes(layer(tape, "dense"), Shards(tp=4), how()) == T * (whole + (DENSE - whole) // 4)


def test_routed_rows_do_not_shrink_under_etp(tape: Tape) -> None:
    # etp 2: twice the rows, half the width: fc1's input doubles, gate, up and product stay
    more = saved_bytes(layer(tape, "moe"), Shards(etp=2), how()) - T * MOE
    assert more == T * (2 * 8 * 7168 + 2 * 8 * 8 + 4 * 8)  # input, row map and sort order, probabilities


OPTIONS = (*RECOMPUTE, *FP8)


@given(
    few=st.sets(st.sampled_from(sorted(OPTIONS))),
    more=st.sets(st.sampled_from(sorted(OPTIONS))),
    probs=st.sampled_from(["act", "out"]),
    kernels=st.sampled_from(["fused", "eager"]),
)
def test_more_savers_never_keep_more(few: set[str], more: set[str], probs: str, kernels: str) -> None:
    tape = traced(1, 64)

    def size(names: set[str]) -> int:
        chosen = [n for n in RECOMPUTE if n in names]
        fp8 = tuple(n for n in FP8 if n in names)
        return saved_bytes(layer(tape, "moe"), ONE, how(*chosen, fp8=fp8, probs=probs, kernels=kernels))

    assert size(few | more) <= size(few)


def test_a_micro_batch_of_two_keeps_twice_as_much(tape: Tape) -> None:
    twice = traced(2, T)
    for kind in ("moe", "dense"):
        assert saved_bytes(layer(twice, kind), ONE, how()) == 2 * saved_bytes(layer(tape, kind), ONE, how())


def test_every_storage_is_counted_once(tape: Tape) -> None:
    for options in (how(), how(kernels="eager", probs="out"), how(*K2, fp8=BOTH)):
        for segment in tape.segments:
            rows = saved_rows(segment, ONE, options)
            assert len({row.storage for row in rows}) == len(rows)


def test_uneven_routing_grows_only_routed_rows(tape: Tape) -> None:
    base, uneven = ONE, Shards(imbalance=Fraction(5, 4))
    more = saved_bytes(layer(tape, "moe"), uneven, how()) - saved_bytes(layer(tape, "moe"), base, how())
    assert more == T * (EXPERTS + 2 * 8 * 8) // 4  # experts' rows, row map and sort order


def test_a_dense_layers_backward_frees_as_it_goes(tape: Tape) -> None:
    """Highest at the activation: all kept but its product, gradients of product, gate and up, and of the
    residual."""
    segment = layer(tape, "dense")
    kept = {row.storage: row.nbytes for row in saved_rows(segment, ONE, how())}
    product = 2 * 18432
    assert backward_alive(segment, ONE, kept).total == T * (DENSE - product + product + 2 * product + 2 * 7168)


def test_a_backward_never_takes_less_than_what_is_kept(tape: Tape) -> None:
    for names in combinations(RECOMPUTE, 2):
        for segment in tape.segments:
            kept = {row.storage: row.nbytes for row in saved_rows(segment, ONE, how(*names))}
            assert backward_alive(segment, ONE, kept).total >= sum(kept.values())


def test_a_forward_holds_results_until_they_are_used(tape: Tape) -> None:
    segment = layer(tape, "dense")
    kept = {row.storage for row in saved_rows(segment, ONE, how())}
    # k is joined from kv_b's output (64·256) and v copied out of it: at the first, that output alone is held by no one
    assert forward_alive(segment, ONE, kept).total >= T * 2 * 64 * 256
    assert forward_alive(segment, ONE, kept).total < T * DENSE


def test_sequence_parallel_linears_gather_what_their_rows_divide() -> None:
    """Megatron-LM's layers under sp (arXiv:2205.05198): what is whole for a moment stands beside what is kept."""
    from archcalc.calc.liveness import backward_exchange, forward_exchange

    tape = load_spec("llama-3.1-70b").trace(Workload(phase="train", seq=4096))
    layer = next(s for s in tape.segments if s.indices)
    by_name = {op.path.rpartition(".")[2]: op for op in layer.ops}
    shards, hidden = Shards(tp=8, sp=True), 4096 * 8192 * 2  # a whole hidden state in bf16
    up, down, core = by_name["up_proj"], by_name["down_proj"], by_name["core"]
    assert [forward_exchange(op, shards) for op in (up, down, core)] == [hidden, hidden, 0]
    # column-parallel: the input again and its gradient before it is scattered; row-parallel: the output's gradient
    assert [backward_exchange(op, shards) for op in (up, down, core)] == [2 * hidden, hidden, 0]
    assert forward_exchange(up, Shards(tp=8)) == backward_exchange(up, Shards(tp=8)) == 0


def test_a_sum_s_terms_share_its_gradient_and_a_copy_s_do_not() -> None:
    """Backward of z = f(x + y): the gradient of the sum is that of both terms; of a join each has its own."""
    wide = (Dim("features", 8),)

    def peak(join: bool) -> int:
        tape = Tape(Workload(phase="train"))
        rows = (Dim("batch", 1), Dim("seq", 4))
        with tape.segment("layer", "backbone", Tensor(rows, wide, Storage(rows, wide, "bfloat16"))) as x:
            y = tape.copy((x,), "y", wide, site="rope")
            z = tape.copy((x, y), "z", wide, site="rope") if join else tape.add(x, y, "z", site="residual")
            tape.copy((z,), "out", wide, site="rope")
        return backward_alive(tape.segments[0], Shards(), {}).total

    one = 4 * 8 * 2
    assert peak(join=False) == 2 * one  # out's and z's; then z's is x's and y's, and y's contribution to x is added
    assert peak(join=True) == 3 * one  # z's beside those of x and y
