"""The decoder: layer patterns, ends, multi-token prediction."""

from __future__ import annotations

from archcalc.calc.params import count
from archcalc.tape import Tape
from archcalc.workload import Workload
from tests.support import data, spec_of, tiny


def trace(content) -> Tape:
    return spec_of(content).trace(Workload())


def layer(tape: Tape, index: int) -> int:
    """Trained parameters of one layer."""
    weights = [w for w in tape.weights() if index in w.indices and "layers.{i}" in w.path and w.trainable]
    return sum(w.elements // len(w.indices) for w in weights)


def test_one_dense_and_one_moe_layer_of_deepseek_v3() -> None:
    tape = trace(data("deepseek-v3"))
    assert layer(tape, 0) == 583_483_392  # MLA 187,107,328 + SwiGLU 3 x 18432 x 7168 + 2 norms of 7168
    assert layer(tape, 60) == 11_507_286_016  # MLA + 257 x 3 x 2048 x 7168 + router 256 x 7168 + 2 norms


def test_one_dense_and_one_moe_layer_of_kimi_k2() -> None:
    tape = trace(data("kimi-k2"))
    assert layer(tape, 0) == 497_500_160  # MLA 101,124,096 + SwiGLU 396,361,728 + 14,336
    assert layer(tape, 1) == 17_059_364_864  # MLA + 385 x 3 x 2048 x 7168 + router 384 x 7168 + 14,336


def test_patterns_of_one_kind_become_one_segment_wherever_their_layers_are() -> None:
    # every other layer dense, as in moe_layer_freq 2
    layers = [{"count": 1, "attention": "gqa", "ffn": ffn} for ffn in ("dense", "moe", "dense", "moe")]
    tape = trace(tiny(num_hidden_layers=4, layers=layers))
    assert [segment.indices for segment in tape.segments if segment.indices] == [(0, 2), (1, 3)]


def test_tied_embeddings_count_once_and_are_both_ends() -> None:
    apart, tied = count(trace(tiny())), count(trace(tiny(tie_word_embeddings=True)))
    assert apart.total - tied.total == 256  # 32 x 8, once instead of twice
    assert tied.active_no_embedding == tied.active  # the matrix still works as the head
    assert tied.active - tied.active_no_embedding_no_head == 256
    assert apart.active - apart.active_no_embedding == 256
    assert apart.active - apart.active_no_embedding_no_head == 512


def test_multi_token_prediction_is_apart_and_shares_embedding_and_head() -> None:
    plain, more = trace(tiny()), trace(tiny(num_nextn_predict_layers=2))
    assert count(more).total == count(plain).total
    assert count(more).active == count(plain).active
    # each: the last pattern's layer, eh_proj 8 x 16, enorm, hnorm and shared_head.norm of 8
    assert count(more).mtp == 2 * (layer(plain, 2) + 8 * 16 + 3 * 8)
    assert {w.indices for w in more.weights() if w.part == "mtp"} == {(3, 4)}


def test_buffers_of_multi_token_prediction_are_not_the_models() -> None:
    assert count(trace(tiny(num_nextn_predict_layers=1))).buffers == 12  # two MoE layers x 6 experts


def test_with_a_vision_tower_text_paths_stand_below_language_model() -> None:
    with_tower = {w.path.split(".")[0] for w in trace(data("k25")).weights()}
    assert with_tower == {"vision_tower", "mm_projector", "language_model"}
    assert {w.path.split(".")[0] for w in trace(data("kimi-k2")).weights()} == {"model", "lm_head"}


def test_roles_are_given_by_the_blocks() -> None:
    roles = {w.path.removeprefix("model.layers.{i}."): w.role for w in trace(tiny()).weights()}
    assert roles["self_attn.q_proj"] == "attention"
    assert roles["mlp.gate_proj"] == "dense_ffn"
    assert roles["mlp.experts.{e}.gate_proj"] == "routed_expert"
    assert roles["mlp.shared_experts.gate_proj"] == "shared_expert"
    assert roles["mlp.gate"] == "router_bias"  # the last weight at that path: the buffer
    assert (roles["model.embed_tokens"], roles["lm_head"], roles["model.norm"]) == ("embedding", "head", "norm")
