"""Operations for mixers that are no plain attention: what each one states of itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archcalc.arch.rows import pairs
from archcalc.tape import SEQUENCE, Cache, Dim, Op, Storage, Tape, Tensor, value
from archcalc.workload import Workload

B, T, H = Dim("batch", 2), Dim("seq", 5, "seq"), Dim("hidden", 16)
HEADS, D = Dim("heads", 4, "heads"), Dim("dim", 3)


def recorded(write: Callable[[Tape, Tensor], object], *, phase: str = "train") -> list[Op]:
    """The operations that `write` records for rows [2, 5] of 16 features."""
    tape = Tape(Workload(phase=phase, batch=2, seq=5))  # type: ignore[arg-type]
    x = Tensor((B, T), (H,), Storage((B, T), (H,), "bfloat16"))
    with tape.segment("layer", "backbone", x) as inner, tape.scope("mixer"):
        write(tape, inner)
    return tape.segments[0].ops


def test_sinks_are_a_bare_parameter_of_the_module_one_a_head() -> None:
    def write(tape: Tape, x: Tensor) -> None:
        q = tape.linear(x, "q_proj", (HEADS, D), role="attention", site="qkv")
        tape.attention(q, q, q, "core", heads=HEADS, qk_dim=D, v_dim=D, pairs=pairs(tape), sinks=True)

    plain, core = recorded(write)
    (sinks,) = core.weights
    assert (sinks.path, sinks.suffix, sinks.shape) == ("layer.mixer", "sinks", (4,))
    assert value(core.flops) == 2 * 5 * 5 * 4 * (3 + 3)  # causal: 1 FLOP for each of the new pairs
    assert {save.storage for save in core.saves if save.when == ("flash",)} >= {plain.outputs[0]}


def test_values_may_be_narrower_than_keys() -> None:
    def write(tape: Tape, x: Tensor) -> None:
        q = tape.linear(x, "q_proj", (HEADS, D), role="attention", site="qkv")
        v = tape.linear(x, "v_proj", (HEADS, Dim("v", 2)), role="attention", site="qkv")
        tape.attention(q, q, v, "core", heads=HEADS, qk_dim=D, v_dim=Dim("v", 2), pairs=pairs(tape))

    assert value(recorded(write)[-1].flops) == 2 * 5 * 5 * 4 * (3 + 2)


def test_a_linear_may_be_a_bare_parameter() -> None:
    (op,) = recorded(lambda tape, x: tape.linear(x, "mix", (D,), role="attention", site="qkv", bare=True))
    assert (op.path, op.weights[0].path, op.weights[0].suffix) == ("layer.mixer.mix", "layer.mixer", "mix")


def test_a_short_convolution_keeps_its_last_columns_in_the_layer_s_dtype() -> None:
    kernel = Dim("kernel", 4)
    (op,) = recorded(lambda tape, x: tape.short_conv(x, "conv1d", kernel, role="attention", bias=True))
    assert value(op.flops) == 2 * (2 * 5) * 16 * 4
    assert (op.counts_as, op.backward_factor) == ("conv", 2)
    assert [w.shape for w in op.weights] == [(16, 1, 4), (16,)]  # nn.Conv1d, groups = channels
    assert op.caches == (Cache("conv", (H, kernel), SEQUENCE, "bfloat16"),)
    assert [save.storage for save in op.saves] == [op.inputs[0]]


def test_a_scan_has_a_state_a_sequence_in_fp32() -> None:
    gates = Storage((B, T), (HEADS,), "float32")

    def write(tape: Tape, x: Tensor) -> None:
        tape.scan((x,), "scan", heads=HEADS, key_dim=D, value_dim=Dim("v", 2), cell_flops=6, keeps=(gates,))

    (op,) = recorded(write)
    assert value(op.flops) == 6 * (2 * 5) * 4 * 3 * 2
    assert (op.counts_as, op.backward_factor) == ("scan", 2)
    (state,) = op.caches
    assert (state.span, state.dtype) == (SEQUENCE, "float32")
    assert [d.axis for d in state.features] == ["heads", None, None]
    assert [save.storage for save in op.saves] == [op.inputs[0], gates]
    assert op.outputs[1:] == (gates,)  # made here: a region that recomputes the scan drops it


@pytest.mark.parametrize("phase", ["train", "prefill"])
def test_index_scores_choose_and_have_no_gradient(phase: str) -> None:
    def write(tape: Tape, x: Tensor) -> None:
        with tape.no_grad():
            q = tape.linear(x, "wq", (HEADS, D), role="attention", site="index")
            k = tape.linear(x, "wk", (D,), role="attention", site="index")
            w = tape.linear(x, "weights", (HEADS,), role="attention", site="index")
            top = Dim("top", 2)
            tape.index_scores(q, k, w, "core", heads=HEADS, dim=D, top_k=top, pairs=pairs(tape))
        tape.linear(x, "after", (D,), role="attention", site="qkv")

    *inside, core, after = recorded(write, phase=phase)
    assert value(core.flops) == 2 * 5 * 5 * 4 * 3 + 2 * 5 * 5 * 4  # pairs · heads · dim, and a weight a head
    assert core.counts_as == "index"
    assert not any(op.saves or op.backward_factor or op.weight_gradient != "none" for op in (*inside, core))
    assert after.saves
    assert after.backward_factor == 2


def test_a_sum_hands_one_gradient_on_and_a_copy_does_not() -> None:
    added, copied = recorded(
        lambda tape, x: (tape.add(x, x, "add", site="residual"), tape.copy((x, x), "c", (H,), site="rope"))
    )
    assert (added.sums, copied.sums) == (True, False)


@pytest.mark.parametrize("zero_centered", [False, True])
def test_of_an_eager_norm_the_weight_s_gradient_takes_what_the_weight_multiplies(zero_centered: bool) -> None:
    """y = n·g, n = x·rstd: the gradient of g takes n; that of x all else: x in fp32, rstd, and 1 + weight as g."""
    (op,) = recorded(
        lambda tape, x: tape.rms_norm(x, "norm", role="norm", site="attn_norm", zero_centered=zero_centered)
    )
    _, rstd, wide, unit, *gain = op.outputs
    assert (len(rstd.features), wide.dtype, len(gain)) == (0, "float32", zero_centered)
    eager = {save.storage: save.needs for save in op.saves if save.when == ("eager",)}
    assert eager == {unit: "weight"} | dict.fromkeys((rstd, wide, *gain), "input")


@pytest.mark.parametrize(
    ("bias", "site", "kept"),
    [
        (True, "expert_fc2", 1),
        (True, "expert_fc1", 0),
        (False, "expert_fc2", 0),
        (False, "expert_fc1", 0),
    ],
)
def test_the_last_projections_biases_are_kept_where_there_are_any(bias: bool, site: str, kept: int) -> None:
    """The probabilities that multiply them need them for their gradient: of each row as wide as the result, in bf16."""
    experts, out = Dim("experts", 6, "experts"), Dim("width", 7, "expert_ffn")
    (op,) = recorded(
        lambda tape, x: tape.grouped_linear(
            x, ("down_proj",), out, experts=experts, active=Dim("k", 2), role="routed_expert", site=site, bias=bias
        )
    )
    found = [save.storage for save in op.saves if "probs_act" in save.when]
    assert [(s.rows, s.features, s.dtype) for s in found] == [((B, T), (out,), "bfloat16")] * kept
