"""What is alive at once while a segment runs: operations by hand, every sum beside its number [bytes].

T = 4 tokens in bf16, so a tensor of n features takes 8·n. Nothing is kept, unless a test says so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archcalc.calc.liveness import backward_alive, forward_alive
from archcalc.calc.sharding import Shards
from archcalc.tape import Dim, Segment, Storage, Tape, Tensor
from archcalc.workload import Workload

ROWS = (Dim("batch", 1), Dim("seq", 4, "seq"))
ROUTED = (Dim("routed", 12, "routed"),)
HIDDEN, FFN, SMALL = Dim("hidden", 10), Dim("ffn", 6, "ffn"), Dim("small", 1)
H, F, S = 8 * 10, 8 * 6, 8 * 1
SP = Shards(tp=2, sp=True)


def traced(run: Callable[[Tape, Tensor], object], features: Dim = HIDDEN) -> Segment:
    """One segment: what `run` records, from an input of these features on."""
    tape = Tape(Workload(phase="train"))
    with tape.segment("layer", "backbone", Tensor(ROWS, (features,), Storage(ROWS, (features,), "bfloat16"))) as x:
        run(tape, x)
    return tape.segments[0]


def copied(tape: Tape, x: Tensor, name: str, features: Dim = HIDDEN) -> Tensor:
    return tape.copy((x,), name, (features,), site="rope")


def linear(tape: Tape, x: Tensor, name: str, out: Dim) -> Tensor:
    return tape.linear(x, name, (out,), role="dense_ffn", site="dense_fc1")


# --------------------------------------------------------------------------------------------------- backward


def test_a_second_contribution_to_a_gradient_is_a_tensor_of_its_own_while_it_is_added() -> None:
    def forked(tape: Tape, x: Tensor) -> None:
        branches = tuple(copied(tape, x, name, SMALL) for name in ("a", "b"))
        tape.copy(branches, "joined", (SMALL,), site="rope")

    # joined's, a's and b's gradients 3S; then b's, a's and x's H + 2S; then a's, x's, and what a adds to it
    assert backward_alive(traced(forked), Shards(), {}).total == 2 * H + S


def test_linears_that_write_one_tensor_make_one_gradient_of_their_input() -> None:
    def gate_up(tape: Tape, x: Tensor) -> None:
        tape.gate_up(x, ("gate", "up"), FFN, role="dense_ffn", site="dense_fc1")

    assert backward_alive(traced(gate_up), Shards(), {}).total == 2 * F + H  # gate and up's, and the input's once


def test_a_sum_of_a_tensor_with_what_is_made_from_it_adds_one_contribution() -> None:
    """A residual: x + f(x). The sum's gradient is that of both terms, so f's is added to what x has already."""

    def residual(tape: Tape, x: Tensor) -> None:
        tape.add(x, copied(tape, copied(tape, x, "in", SMALL), "out"), "sum", site="residual")

    # at the sum one tensor H; at `out` that and `in`'s, H + S; at `in` S, and x's with what is added to it
    assert backward_alive(traced(residual), Shards(), {}).total == 2 * H + S


def test_what_an_operation_keeps_is_there_until_it_has_run_backward() -> None:
    def chain(tape: Tape, x: Tensor) -> None:
        linear(tape, linear(tape, x, "first", SMALL), "last", HIDDEN)

    segment = traced(chain)
    x, middle = (op.inputs[0] for op in segment.ops)
    # `last` runs beside both inputs H + S, its output's gradient H and its input's S; then `first` beside H only
    assert backward_alive(segment, Shards(), {x: H, middle: S}).total == 2 * H + 2 * S
    # `last` keeps its own input only: 2·S beside H; at `first` the gradients of both sides, S + H, and nothing kept
    assert backward_alive(segment, Shards(), {middle: S}).total == H + 2 * S
    # one that both keep stands until the first of them has run backward
    both = traced(lambda tape, x: [linear(tape, x, name, SMALL) for name in ("a", "b")])
    # at `a`: kept, x's twice, a's
    assert backward_alive(both, Shards(), {both.ops[0].inputs[0]: H}).total == H + 2 * H + S


def test_the_gathered_input_of_a_column_parallel_linear_stands_in_backward_beside_its_whole_gradient() -> None:
    """Megatron-LM's linears under sequence parallelism (arXiv:2205.05198): H of each, on every device."""
    segment = traced(lambda tape, x: linear(tape, x, "up", FFN))
    # gradients of the output, divided by features, and of the input's own rows; the input and its gradient, whole
    assert backward_alive(segment, SP, {}).total == F // 2 + H // 2 + 2 * H
    # nothing to gather where every device has all rows
    assert backward_alive(segment, Shards(tp=2), {}).total == F // 2 + H


def test_a_row_parallel_linear_gathers_its_outputs_gradient_in_backward() -> None:
    segment = traced(lambda tape, x: linear(tape, x, "down", HIDDEN), FFN)
    assert backward_alive(segment, SP, {}).total == H // 2 + F // 2 + H


def test_a_linear_that_no_device_divides_gathers_nothing() -> None:
    """As MLA's projections to its latents: each device multiplies its own rows."""
    segment = traced(lambda tape, x: linear(tape, x, "latent", SMALL))
    assert backward_alive(segment, SP, {}).total == S // 2 + H // 2
    assert forward_alive(segment, SP, set()).total == 0


@pytest.mark.parametrize("direction", ["send", "return"])
def test_routed_copies_stand_in_a_send_and_in_a_receive_buffer(direction: str) -> None:
    """12 routed rows of 4 tokens: 3·H a copy, beside the gradients of the tokens and of the copies."""

    def sent(tape: Tape, x: Tensor) -> None:
        tape.dispatch(x, "dispatch", ROUTED)

    def returned(tape: Tape, x: Tensor) -> None:
        tape.combine(Tensor(ROUTED, (HIDDEN,), Storage(ROUTED, (HIDDEN,), "bfloat16")), "combine", ROWS)

    segment = traced(sent if direction == "send" else returned)
    assert backward_alive(segment, Shards(), {}).total == H + 3 * H + 3 * H


# ---------------------------------------------------------------------------------------------------- forward


def test_a_result_lives_until_the_last_operation_that_uses_it() -> None:
    def chain(tape: Tape, x: Tensor) -> None:
        for name in ("a", "b", "c", "d"):
            x = copied(tape, x, name)

    segment = traced(chain)
    assert forward_alive(segment, Shards(), set()).total == 2 * H  # b beside a, then c beside b
    a = segment.ops[0].outputs[0]
    assert forward_alive(segment, Shards(), {a}).total == 2 * H  # a is counted where it is kept; c beside b
    b = segment.ops[1].outputs[0]
    assert forward_alive(segment, Shards(), {a, b}).total == H  # c alone: nobody in this segment uses d


def test_a_forward_holds_what_sequence_parallel_linears_gather_and_have_yet_to_scatter() -> None:
    def mlp(tape: Tape, x: Tensor) -> None:
        linear(tape, linear(tape, x, "up", FFN), "down", HIDDEN)

    # beside up's output F/2 the whole input of `up`, then the whole output of `down`
    assert forward_alive(traced(mlp), SP, set()).total == F // 2 + H
    # tensor parallelism alone: up's output is all
    assert forward_alive(traced(mlp), Shards(tp=2), set()).total == F // 2


# ----------------------------------------------------------------------- what comes in, and what kernels take beside


def test_the_entry_lives_until_its_last_use_where_it_is_counted() -> None:
    def residual(tape: Tape, x: Tensor) -> None:
        middle = copied(tape, x, "in", SMALL)
        tape.add(x, copied(tape, middle, "out"), "sum", site="residual")

    segment = traced(residual)
    # without it `out` beside `in`; `sum` is used by nobody
    assert forward_alive(segment, Shards(), set()).total == H + S
    # x and `in`; x, `in` and `out`; x and `out`
    assert forward_alive(segment, Shards(), set(), entry=True).total == 2 * H + S


def test_an_entry_that_is_used_once_is_gone_after_it() -> None:
    def chain(tape: Tape, x: Tensor) -> None:
        copied(tape, copied(tape, copied(tape, x, "a", SMALL), "b", SMALL), "c", SMALL)

    segment = traced(chain)
    assert forward_alive(segment, Shards(), set(), entry=True).total == H + S  # x and a; then b beside a
    assert forward_alive(segment, Shards(), set()).total == 2 * S
    assert segment.entry is not None
    assert forward_alive(segment, Shards(), {segment.entry}, entry=True).total == 2 * S  # counted where it is kept


def test_an_entry_that_nothing_reads_is_there_when_the_first_operation_runs() -> None:
    tape = Tape(Workload(phase="train"))
    with tape.segment("layer", "backbone", Tensor(ROWS, (HIDDEN,), Storage(ROWS, (HIDDEN,), "bfloat16"))):
        other = Tensor(ROWS, (SMALL,), Storage(ROWS, (SMALL,), "bfloat16"))
        copied(tape, copied(tape, other, "a", SMALL), "b", SMALL)
    assert forward_alive(tape.segments[0], Shards(), set(), entry=True).total == H + S


def test_the_entry_is_divided_as_everything_else_is() -> None:
    segment = traced(lambda tape, x: copied(tape, copied(tape, x, "a", FFN), "b", SMALL), FFN)
    assert forward_alive(segment, Shards(tp=2), set(), entry=True).total == F // 2 + F // 2


def test_a_kernel_takes_its_own_memory_beside_what_is_alive_while_it_runs() -> None:
    def chain(tape: Tape, x: Tensor) -> None:
        for name, features in (("a", HIDDEN), ("b", SMALL), ("c", HIDDEN), ("d", HIDDEN)):
            x = copied(tape, x, name, features)

    segment = traced(chain)

    def while_at(name: str, nbytes: int) -> int:
        return forward_alive(segment, Shards(), set(), beside=lambda op: nbytes if op.path.endswith(name) else 0).total

    # alive at a: H; at b: H + S; at c: S + H; at d, whose result nobody uses: H
    peaks = {name: while_at(name, 1000) for name in ("a", "b", "c", "d")}
    assert peaks == {"a": 1000 + H, "b": 1000 + H + S, "c": 1000 + H + S, "d": 1000 + H}
    # one that is small next to what is alive elsewhere changes nothing
    assert while_at("d", S) == H + S
