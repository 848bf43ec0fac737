"""Whole models, to the last parameter."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.calc.params import activation_ratio, count, merged_hidden_size, weight_formula
from archcalc.files.loader import parse
from archcalc.files.model import Spec
from archcalc.tape import Tape
from archcalc.workload import Workload
from tests.support import BUNDLED, data, spec_of, tiny

PUBLISHED = Path(__file__).parent.parent / "published"


def trace(content: dict[str, Any]) -> Tape:
    return spec_of(content).trace(Workload())


def part(tape: Tape, *ends: str) -> int:
    """Elements of the backbone's weights whose path holds one of these words."""
    weights = [w for w in tape.weights() if w.part == "backbone"]
    return sum(w.elements for w in weights if any(end in f".{w.path}.{w.suffix}" for end in ends))


# Each row: words in the path, then the elements in DeepSeek-V3 and in Kimi K2 (the text tower of K2.5 is the same).
ROWS = {
    "embedding": ((".embed_tokens.",), 926_679_040, 1_174_405_120),  # 129280 x 7168; 163840 x 7168
    "head": (("lm_head.",), 926_679_040, 1_174_405_120),
    # a layer: q_a 1536 x 7168, 1536, q_b heads x 192 x 1536, kv_a 576 x 7168, 512, kv_b heads x 256 x 512,
    # o 7168 x heads x 128; 128 heads give 187,107,328, 64 heads 101,124,096; 61 layers
    "attention": ((".self_attn.",), 11_413_547_008, 6_168_569_856),
    "dense": ((".mlp.gate_proj.", ".mlp.up_proj.", ".mlp.down_proj."), 1_189_085_184, 396_361_728),  # 3 and 1 layers
    "router": ((".mlp.gate.weight",), 106_430_464, 165_150_720),  # 58 x 256 x 7168; 60 x 384 x 7168
    "shared": ((".shared_experts.",), 2_554_331_136, 2_642_411_520),  # 58 and 60 x 3 x 2048 x 7168
    "routed": ((".experts.",), 653_908_770_816, 1_014_686_023_680),  # x 256 and x 384
    "router bias": ((".e_score_correction_bias",), 14_848, 23_040),  # 58 x 256; 60 x 384: buffers
}


@pytest.mark.parametrize("name", ROWS)
def test_every_part_of_deepseek_v3_and_kimi_has_its_published_size(name: str) -> None:
    words, deepseek, kimi = ROWS[name]
    assert part(trace(data("deepseek-v3")), *words) == deepseek
    for spec in ("kimi-k2", "kimi-k2-thinking", "k25"):
        assert part(trace(data(spec)), *words) == kimi


@pytest.mark.parametrize("spec", ["deepseek-v3", "kimi-k2", "k25"])
def test_layer_norms_and_final_norm(spec: str) -> None:
    norms = [w for w in trace(data(spec)).weights() if w.role == "norm" and w.part == "backbone"]
    assert sum(w.elements for w in norms) == 881_664  # (2 x 61 + 1) x 7168


def test_totals_of_kimi_k25() -> None:
    counts = count(trace(data("k25")))
    assert counts._asdict() == {
        "total": 1_026_879_353_328,  # backbone + vision + projector
        "buffers": 23_040,  # 60 x 384
        "mtp": 0,
        "backbone": 1_026_408_209_408,
        "vision": 416_866_032,
        "projector": 54_277_888,
        "routed_experts": 1_014_686_023_680,  # 60 x 384 x 3 x 2048 x 7168
        # backbone minus 376 of 384 experts: 60 x 376 x 44,040,192 = 993,546,731,520
        "active": 32_861_477_888,
        "active_no_embedding": 31_687_072_768,  # - 1,174,405,120
        "active_no_embedding_no_head": 30_512_667_648,  # - 1,174,405,120 again
    }


def test_totals_of_kimi_k2() -> None:
    counts = count(trace(data("kimi-k2")))
    assert (counts.total, counts.backbone, counts.vision) == (1_026_408_209_408, 1_026_408_209_408, 0)
    assert counts.active == 32_861_477_888


def test_totals_of_deepseek_v3() -> None:
    counts = count(trace(data("deepseek-v3")))
    assert counts.total == 671_026_404_352
    assert counts.buffers == 14_848
    # layer 11,507,286,016 + eh_proj 7168 x 14336 = 102,760,448 + enorm, hnorm, shared_head.norm 3 x 7168
    assert counts.mtp == 11_610_067_968
    # 671,026,404,352 - 58 x 248 x 44,040,192 = 633,474,121,728
    assert counts.active == 37_552_282_624
    assert counts.active_no_embedding == 36_625_603_584  # - 926,679,040
    assert counts.active_no_embedding_no_head == 35_698_924_544  # - 926,679,040


@pytest.mark.parametrize(
    ("spec", "total"),
    [
        # 80 layers: q, o 8192², k, v 8192 x 1024, 3 x 8192 x 28672, 2 x 8192; ends 2 x 128256 x 8192; norm 8192
        # model.safetensors.index.json: 141,107,412,992 bytes of bf16
        ("llama-3.1-70b", 70_553_706_496),
        # 126 layers: q, o 16384², k, v 16384 x 1024, 3 x 16384 x 53248, 2 x 16384; 2 x 128256 x 16384; 16384
        ("llama-3.1-405b", 405_853_388_800),
    ],
)
def test_totals_of_llama(spec: str, total: int) -> None:
    counts = count(trace(data(spec)))
    assert (counts.total, counts.active, counts.routed_experts, counts.buffers) == (total, total, 0, 0)


def test_total_of_moonlight() -> None:
    path = PUBLISHED / "moonlight-16b.yaml"
    counts = count(parse(path.read_bytes(), str(path), Spec).trace(Workload()))
    # 2 x 163840 x 2048 + dense layer 82,973,184 + 26 x 584,847,872 + norm 2048
    assert counts.total == 15_960_108_544
    # the README prints 15.29B and 2.24B, both without embedding and head (671,088,640)
    assert round((counts.total - 671_088_640) / 1e9, 2) == 15.29
    assert round(counts.active_no_embedding_no_head / 1e9, 2) == 2.24


def test_the_activation_ratio_is_an_exact_fraction() -> None:
    assert activation_ratio(trace(data("k25"))) == Fraction(8, 384)
    assert activation_ratio(trace(data("llama-3.1-70b"))) is None


def test_a_text_model_has_no_merged_width() -> None:
    assert merged_hidden_size(trace(data("kimi-k2"))) is None


@pytest.mark.parametrize("name", BUNDLED)
def test_every_formula_in_numbers_gives_the_count(name: str) -> None:
    for w in trace(data(name)).weights():
        names, numbers = weight_formula(w)
        assert eval(numbers.replace("·", "*")) == w.elements
        assert names.count("·") >= numbers.count("·")  # a name may hold a product, `2·ffn`


# -- laws -------------------------------------------------------------------------------------------------------------

SMALL = st.integers(1, 9)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """Small specs of every shape: tied or not, biased or not, GQA or MLA, dense and MoE layers in any order."""
    kinds = draw(
        st.lists(
            st.tuples(SMALL, st.sampled_from(["gqa", "mla"]), st.sampled_from(["dense", "moe"])), min_size=1, max_size=4
        )
    )
    content = tiny(
        hidden_size=draw(SMALL),
        vocab_size=draw(SMALL),
        tie_word_embeddings=draw(st.booleans()),
        num_nextn_predict_layers=draw(st.integers(0, 2)),
        num_hidden_layers=sum(n for n, _, _ in kinds),
        layers=[{"count": n, "attention": attention, "ffn": ffn} for n, attention, ffn in kinds],
    )
    backbone = content["backbone"]
    kv_heads = draw(SMALL)
    backbone["attention"]["gqa"] |= {
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * draw(SMALL),
        "head_dim": draw(SMALL) + 1,  # two of which turn
        "attention_bias": draw(st.booleans()),
        "qk_norm": draw(st.sampled_from([None, "per_head", "full"])),
    }
    backbone["attention"]["mla"] = {
        "kind": "mla",
        "q_lora_rank": draw(st.none() | SMALL),
        "qk_rope_head_dim": 2 * draw(SMALL),
        "attention_bias": draw(st.booleans()),
    } | {key: draw(SMALL) for key in ("num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim")}
    experts = draw(st.integers(2, 9))
    backbone["ffn"]["moe"] |= {
        "n_routed_experts": experts,
        "num_experts_per_tok": draw(st.integers(1, experts)),
        "n_shared_experts": draw(st.integers(0, 2)),
        "moe_intermediate_size": draw(SMALL),
    }
    for section, key in (("attention", 1), ("ffn", 2)):
        used = {kind[key] for kind in kinds}
        backbone[section] = {name: block for name, block in backbone[section].items() if name in used}
    return content


@given(contents())
@settings(max_examples=60, deadline=None)
def test_totals_are_sums_and_their_parts_are_in_order(content: dict[str, Any]) -> None:
    tape = trace(content)
    counts = count(tape)
    trained = [w for w in tape.weights() if w.trainable and w.part != "mtp"]
    assert counts.total == sum(w.elements for w in trained) == counts.backbone + counts.vision + counts.projector
    assert counts.active_no_embedding_no_head <= counts.active_no_embedding <= counts.active <= counts.total
    assert all(w.active_elements <= w.elements for w in trained)


@given(contents(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_more_experts_change_only_expert_and_router_rows(content: dict[str, Any], more: int) -> None:
    if "moe" not in content["backbone"]["ffn"]:
        return
    larger = copy.deepcopy(content)
    larger["backbone"]["ffn"]["moe"]["n_routed_experts"] += more
    before, after = trace(content), trace(larger)
    sizes = {(w.path, w.suffix, w.indices): w for w in before.weights()}
    for w in after.weights():
        old = sizes[w.path, w.suffix, w.indices]
        if w.role in ("routed_expert", "router", "router_bias"):
            experts = content["backbone"]["ffn"]["moe"]["n_routed_experts"]
            assert w.elements * experts == old.elements * (experts + more)
        else:
            assert w.elements == old.elements
    routers = sum(w.elements for w in after.weights() if w.role == "router" and w.part == "backbone")
    routers -= sum(w.elements for w in before.weights() if w.role == "router" and w.part == "backbone")
    assert count(after).active - count(before).active == routers  # a token still uses as many experts


@given(contents())
@settings(max_examples=40, deadline=None)
def test_tying_the_ends_takes_one_matrix_away(content: dict[str, Any]) -> None:
    tied, apart = copy.deepcopy(content), copy.deepcopy(content)
    tied["backbone"]["tie_word_embeddings"], apart["backbone"]["tie_word_embeddings"] = True, False
    matrix = content["backbone"]["vocab_size"] * content["backbone"]["hidden_size"]
    with_one, with_two = count(trace(tied)), count(trace(apart))
    assert with_two.total - with_one.total == matrix
    assert with_two.active_no_embedding == with_one.active_no_embedding
    assert with_two.active_no_embedding_no_head == with_one.active_no_embedding_no_head


@given(contents(), st.sampled_from([{}, {"phase": "train", "seq": 5}, {"phase": "decode", "context": 7}, {"batch": 3}]))
@settings(max_examples=40, deadline=None)
def test_how_a_model_is_run_changes_no_count(content: dict[str, Any], workload: dict[str, Any]) -> None:
    spec = spec_of(content)
    assert count(spec.trace(Workload(**workload))) == count(spec.trace(Workload()))


def test_routed_experts_of_a_prediction_module_are_not_the_models() -> None:
    # two MoE layers of six experts, 3·8·5 each; the module's six are its own
    assert count(trace(tiny(num_nextn_predict_layers=1))).routed_experts == 2 * 6 * 120
