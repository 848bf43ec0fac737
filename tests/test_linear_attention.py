"""Gated DeltaNet and Kimi Delta Attention: counts by hand, against the public classes' parameters, and against torch.

Sizes of Qwen3-Next-80B-A3B, Kimi-Linear-48B-A3B and Kimi K3 from their config.json files. Legend: H hidden, n_k and n_v
key and value heads, d_k and d_v their features, K taps of a convolution, T tokens.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from archcalc.arch.decoder import Decoder
from archcalc.files.model import Spec
from archcalc.proof import crosscheck
from archcalc.tape import Op, Tape
from archcalc.workload import Workload
from tests.reference import tiny as sections
from tests.support import answered, quantities, run, spec_of, tiny, written
from tests.test_varied_specs import sizes

torch_needed = pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra torch")
public_needed = pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra hf")

NEXT: dict[str, Any] = {
    "kind": "gated_deltanet",
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "hidden_act": "silu",
    "in_proj": "fused",
}
KIMI: dict[str, Any] = {
    "kind": "kda",
    "num_heads": 32,
    "head_dim": 128,
    "short_conv_kernel_size": 4,
    "use_full_rank_gate": False,
    "a_log_size": 32,
}
K3 = KIMI | {"num_heads": 96, "use_full_rank_gate": True, "a_log_size": 128}


def model(section: dict[str, Any], layers: int = 1, **backbone: Any) -> dict[str, Any]:
    """A spec of so many such layers with a small MLP each."""
    return tiny(
        num_hidden_layers=layers,
        layers=[{"count": layers, "attention": "a", "ffn": "dense"}],
        attention={"a": section},
        ffn={"dense": sections.DENSE},
        **backbone,
    )


def hybrid(**backbone: Any) -> dict[str, Any]:
    """Two layers of each kind of linear attention, and one of grouped-query attention after each pair."""
    linear = {"steps": [{"attention": "delta", "scope": "linear_attn"}, {"ffn": "dense"}], "count": 2}
    full, kda = ({"count": n, "attention": name, "ffn": "dense"} for n, name in ((1, "gqa"), (2, "kda")))
    return tiny(
        num_hidden_layers=6,
        layers=[linear, full, kda, dict(full)],
        attention={"delta": sections.DELTA, "kda": sections.KDA, "gqa": sections.GQA},
        ffn={"dense": sections.DENSE},
        **backbone,
    )


def mixer(section: dict[str, Any], hidden: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a layer's weights by their names below the mixer."""
    tape = spec_of(model(section, hidden_size=hidden)).trace(Workload())
    named = {f"{w.path}.{w.suffix}": w.shape for w in tape.weights()}
    scope = "model.layers.{i}.self_attn."
    return {name.removeprefix(scope): shape for name, shape in named.items() if name.startswith(scope)}


def elements(shapes: dict[str, tuple[int, ...]]) -> int:
    total = 0
    for shape in shapes.values():
        size = 1
        for n in shape:
            size *= n
        total += size
    return total


# ------------------------------------------------------------------------------------------------------ parameters


def test_a_layer_of_qwen3_next_has_its_parameters() -> None:
    # in_proj_qkvz 12,288 x 2048, in_proj_ba 64 x 2048, conv1d 8192 x 4, A_log and dt_bias 32, norm 128, out_proj
    by_hand = 12_288 * 2048 + 64 * 2048 + 8192 * 4 + 2 * 32 + 128 + 2048 * 4096
    assert elements(mixer(NEXT, 2048)) == by_hand == 33_718_464
    assert elements(mixer(NEXT | {"in_proj": "split"}, 2048)) == by_hand  # Qwen3.5: the same matrices, cut otherwise


def test_a_layer_of_kimi_linear_and_of_k3_has_its_parameters() -> None:
    # Kimi-Linear: P = 4096: 3HP + 12P + 32 + P + Hd + dP + 32H + Hd + dP + d + PH, of the released header's elements
    assert elements(mixer(KIMI, 2304)) == 39_514_272
    # K3: P = 12,288, A_log of 128 for 96 heads and a gate of full rank, as its released header has them
    assert elements(mixer(K3, 7168)) == 443_740_416


ODD = (
    {"linear_num_key_heads": 3, "linear_num_value_heads": 6, "linear_key_head_dim": 5, "linear_value_head_dim": 7},
    {"linear_num_key_heads": 1, "linear_num_value_heads": 5, "linear_key_head_dim": 9, "linear_value_head_dim": 2},
    {"linear_num_key_heads": 4, "linear_num_value_heads": 4, "linear_key_head_dim": 1, "linear_value_head_dim": 11},
)
OTHERS: dict[str, Any] = {"vocab_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


def public(config: Any, model_class: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the first layer's mixer in a public class on the meta device."""
    import torch

    with torch.device("meta"):
        named = model_class(config).named_parameters()
        found = {name: tuple(weight.shape) for name, weight in named if ".layers.0." in name}
    scopes = (".linear_attn.", ".self_attn.")
    return {name.partition(s)[2]: shape for name, shape in found.items() for s in scopes if s in name}


@pytest.mark.twin
@public_needed
@pytest.mark.parametrize("given", ODD)
@pytest.mark.parametrize(("taps", "hidden"), [(4, 24), (3, 17)])
def test_qwen_s_classes_have_the_same_weights_under_the_same_names(
    given: dict[str, int], taps: int, hidden: int
) -> None:
    import transformers

    more = given | {"linear_conv_kernel_dim": taps, "hidden_size": hidden, "num_hidden_layers": 1}
    kind = {"layer_types": ["linear_attention"]}
    section = NEXT | given | {"linear_conv_kernel_dim": taps}
    fused = transformers.Qwen3NextConfig(**OTHERS, **more, **kind, num_experts=2, num_experts_per_tok=1)
    assert mixer(section, hidden) == public(fused, transformers.Qwen3NextForCausalLM)
    split = transformers.Qwen3_5TextConfig(**OTHERS, **more, **kind, intermediate_size=8)
    assert mixer(section | {"in_proj": "split"}, hidden) == public(split, transformers.Qwen3_5ForCausalLM)


@pytest.mark.twin
@public_needed
@pytest.mark.parametrize(("heads", "dim", "taps", "hidden"), [(3, 8, 4, 24), (5, 7, 3, 17), (1, 9, 2, 11)])
def test_kimi_linear_s_class_has_the_same_weights(heads: int, dim: int, taps: int, hidden: int) -> None:
    import transformers

    linear = {"num_heads": heads, "head_dim": dim, "short_conv_kernel_size": taps}
    config = transformers.KimiLinearConfig(
        **OTHERS,
        hidden_size=hidden,
        num_hidden_layers=1,
        pad_token_id=None,
        linear_attn_config=linear | {"kda_layers": [1], "full_attn_layers": []},
    )
    theirs = public(config, transformers.KimiLinearForCausalLM)
    ours = mixer(KIMI | linear | {"a_log_size": heads}, hidden)
    # the class joins what the checkpoint has as three convolutions, and keeps the decays in a module of their own
    assert [ours.pop(f"{name}_conv1d.weight") for name in "qkv"] == [(heads * dim, 1, taps)] * 3
    assert theirs.pop("conv1d.weight") == (3 * heads * dim, 1, taps)
    assert (ours.pop("A_log"), theirs.pop("forget_gate.A_log")) == ((heads,), (1, 1, heads, 1))
    assert ours == {name.removeprefix("forget_gate."): shape for name, shape in theirs.items()}


# ---------------------------------------------------------------------------------------------- FLOPs and the cache


@pytest.mark.parametrize("tokens", [1, 7, 4096])
def test_flops_class_by_class(tmp_path: Path, tokens: int) -> None:
    found = quantities("flops", written(tmp_path, model(NEXT, 3, hidden_size=2048)), "--seq", str(tokens))
    assert found["flops.scan"] == 3 * 6 * tokens * 32 * 128 * 128
    assert found["flops.conv"] == 3 * 2 * tokens * 8192 * 4
    linears = 12_288 * 2048 + 64 * 2048 + 2048 * 4096 + 3 * 36 * 2048  # and the MLP's three of 36
    assert found["flops.linear"] == 2 * tokens * (3 * linears + 32 * 2048)
    assert found["flops.attention_core"] == 0


def test_a_training_step_goes_back_twice(tmp_path: Path) -> None:
    path = written(tmp_path, model(KIMI, hidden_size=64))
    step, forward = (quantities("flops", path, "--phase", phase, "--seq", "64") for phase in ("train", "prefill"))
    assert step["flops.backward"] == 2 * forward["flops.forward"]


@pytest.mark.parametrize(
    ("section", "layers", "recurrence", "convolutions"),
    [
        # Qwen3-Next: 36 of 48 layers; 8192 channels
        (NEXT, 36, 36 * 32 * 128 * 128 * 4, 36 * 8192 * 4 * 2),
        # Kimi-Linear: 20 of 27; together the 43,909,120 B that its public class caches, measured
        (KIMI, 20, 20 * 32 * 128 * 128 * 4, 20 * 3 * 4096 * 4 * 2),
        # K3: 69 of 93; 434,110,464 and, with K = 4 columns, 20,348,928 B
        (K3, 69, 434_110_464, 20_348_928),
    ],
)
def test_states_are_all_that_a_sequence_keeps(
    tmp_path: Path, section: dict[str, Any], layers: int, recurrence: int, convolutions: int
) -> None:
    path = written(tmp_path, model(section, layers, hidden_size=16))
    for dtype in ("bf16", "fp8"):
        found = answered("kv", path, "--context", "1000", "--kv-dtype", dtype)
        by_kind = {row["kind"]: row["sequence_bytes"] for row in found["rows"]}
        assert by_kind == {"state": recurrence, "conv": convolutions}
        assert found["quantities"]["kv.fixed_bytes"] == recurrence + convolutions
        assert found["quantities"]["kv.bytes_per_token"] == 0
    assert section is not KIMI or recurrence + convolutions == 43_909_120


def test_a_hybrid_s_cache_grows_by_its_other_layers_alone(tmp_path: Path) -> None:
    found = quantities("kv", written(tmp_path, hybrid()), "--context", "50")
    states = 2 * (6 * 10 * 7 * 4 + (2 * 20 + 42) * 4 * 2) + 2 * (3 * 8 * 8 * 4 + 3 * 24 * 4 * 2)
    assert (found["kv.bytes_per_token"], found["kv.fixed_bytes"]) == (2 * 2 * 2 * 10 * 2, states)


def test_devices_divide_states_with_their_heads(tmp_path: Path) -> None:
    path = written(tmp_path, model(NEXT, 2, hidden_size=16))
    whole = 2 * (32 * 128 * 128 * 4 + 8192 * 4 * 2)
    for tp in (2, 16):
        assert quantities("kv", path, "--tp", str(tp))["kv.bytes_per_device"] == whole // tp
    ran = run("kv", path, "--tp", "32")
    assert (ran.code, "linear_num_key_heads 16 can't be divided over tp 32" in ran.err) == (2, True)


def test_devices_divide_a_layer_s_weights_but_for_low_ranks_and_norms() -> None:
    from archcalc.calc.sharding import Shards, local_elements

    tape = spec_of(model(KIMI, hidden_size=2304)).trace(Workload())
    held = sum(local_elements(w, Shards(tp=8)) for w in tape.weights() if ".self_attn" in w.path)
    whole = 2 * 2304 * 128 + 128  # f_a_proj, g_a_proj, o_norm
    assert held == (39_514_272 - whole) // 8 + whole
    (k3,) = (w for w in spec_of(model(K3)).trace(Workload()).weights() if w.suffix == "A_log")
    assert local_elements(k3, Shards(tp=8)) == 128  # an element a feature of a head: every device has all


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (NEXT | {"linear_num_value_heads": 24}, "linear_num_value_heads 24 is no multiple of linear_num_key_heads 16"),
        (KIMI | {"a_log_size": 7}, "a_log_size 7 is neither num_heads 32 nor head_dim 128"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, section: dict[str, Any], says: str) -> None:
    ran = run("params", written(tmp_path, model(section)))
    assert (ran.code, says in ran.err) == (2, True)


# ------------------------------------------------------------------------------------------------------ training


def saved_by_hand(tokens: int, hidden: int) -> int:
    """What a fused Gated DeltaNet keeps of T tokens: sizes of tests.reference.tiny.DELTA, bf16 [bytes].

    The layer's input, that of the convolution (2·2·10 + 6·7 = 82 channels), raw decays (6); q and k of unit length and
    their fp32 norms, v, beta, fp32 sums of decays, a matrix of 64 columns a head; out and gate of the norm with its
    fp32 rstd; the input of out_proj.
    """
    bf16 = hidden + 82 + 6 + 2 * 20 + 42 + 6 + 6 * 64 + 42 + 42 + 42
    fp32 = 2 * 2 + 6 + 6
    return tokens * (2 * bf16 + 4 * fp32)


def test_training_keeps_what_the_kernels_keep() -> None:
    from archcalc.calc.activations import saved_rows
    from archcalc.calc.sharding import Shards
    from archcalc.training.savers import savers

    tape = spec_of(model(sections.DELTA)).trace(Workload(phase="train", seq=128))
    how = savers(kernels="fused", router_probs="out", cross_entropy="fused")
    (layer,) = (segment for segment in tape.segments if segment.indices)
    rows = [row for row in saved_rows(layer, Shards(), how) if ".self_attn." in row.path]
    assert sum(row.nbytes for row in rows) == saved_by_hand(128, 8)


# ---------------------------------------------------------------------------------------------------- against torch

AGREES: dict[str, dict[str, Any]] = {
    "both kinds, and attention": hybrid(),
    "split projections": model(sections.DELTA | {"in_proj": "split"}, 2),
    "one key head, a fused projection": model(sections.DELTA | {"linear_num_key_heads": 1}),
    "a gate of full rank, decays by feature": model(sections.KDA | {"use_full_rank_gate": True, "a_log_size": 8}),
    "one tap": model(sections.KDA | {"short_conv_kernel_size": 1}),
    "in float32": hybrid(dtype="float32"),
    "before a prediction module": hybrid(
        num_nextn_predict_layers=1, mtp_layer={"attention": "kda", "ffn": "dense"}, norm="rms_zero_centered"
    ),
}


@pytest.mark.twin
@torch_needed
@pytest.mark.parametrize("sort", AGREES)
def test_archcalc_and_the_twin_agree(sort: str) -> None:
    kinds = ("params", "flops", "kv", "weights", "activations")
    with sizes():
        findings = crosscheck(spec_of(AGREES[sort]), only=kinds).findings
    assert [f for f in findings if f["difference"]] == []
    assert {f["kind"] for f in findings} >= set(kinds)


@pytest.mark.twin
@torch_needed
@pytest.mark.parametrize(
    ("kind", "field", "differs"),
    [
        ("scan", "saves", "activations"),
        ("scan", "caches", "kv"),
        ("scan", "flops", "flops"),
        ("short_conv", "saves", "activations"),
        ("short_conv", "caches", "kv"),
        ("short_conv", "flops", "flops"),
        ("decay", "saves", "activations"),
        ("decay", "weights", "params"),
        ("gated_rms_norm", "saves", "activations"),
        ("l2_norm", "saves", "activations"),
    ],
)
def test_a_fact_that_is_left_out_is_found_out(
    kind: str, field: str, differs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Tape.record

    def wrong(tape: Tape, op: Op) -> None:
        record(tape, op._replace(**{field: getattr(op, field)[:-1]}) if op.kind == kind else op)

    monkeypatch.setattr(Tape, "record", wrong)
    with sizes():
        findings = crosscheck(spec_of(hybrid()), only=("params", "flops", "kv", "activations")).findings
    assert {f["kind"] for f in findings if f["difference"]} == {differs}


def test_a_spec_reads_both_kinds() -> None:
    spec = Spec.model_validate(hybrid())
    assert isinstance(spec.backbone, Decoder)
    assert {block.kind for block in spec.backbone.attention.values()} == {"gated_deltanet", "kda", "gqa"}
