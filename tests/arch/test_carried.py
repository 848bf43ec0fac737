"""What layers hand on beside the residual: choices of keys (GLM-5), outputs of blocks (Kimi K3)."""

from __future__ import annotations

from typing import Any

import pytest

from archcalc.calc.activations import saved_bytes, saved_rows
from archcalc.calc.liveness import forward_alive
from archcalc.calc.params import count
from archcalc.calc.sharding import Shards
from archcalc.tape import Segment, value
from archcalc.training.savers import savers
from archcalc.workload import Workload
from tests.support import TINY, quantities, run, spec_of, tiny, written

T, TOP = 32, 6
MLA: dict[str, Any] = {
    "kind": "mla",
    "num_attention_heads": 2,
    "q_lora_rank": 6,
    "kv_lora_rank": 5,
    "qk_nope_head_dim": 3,
    "qk_rope_head_dim": 2,
    "v_head_dim": 4,
    "attention_bias": False,
}
FULL = MLA | {"indexer": {"index_n_heads": 3, "index_head_dim": 4, "index_topk": TOP}}
SHARED = MLA | {"index_topk": TOP}
ORDER = ["full", "shared", "shared", "full", "shared"]


def sharing(order: list[str] = ORDER, **backbone: Any) -> dict[str, Any]:
    layers = [{"count": 1, "attention": name, "ffn": "dense"} for name in order]
    known = {"full": FULL, "shared": SHARED, "plain": MLA, "other": MLA | {"index_topk": TOP + 1}}
    attention = {name: known[name] for name in dict.fromkeys(order)}
    given = {"ffn": {"dense": TINY["backbone"]["ffn"]["dense"]}, "num_hidden_layers": len(order)}
    return tiny(layers=layers, attention=attention, **(given | backbone))


def segments(content: dict[str, Any], **workload: Any) -> dict[str, Segment]:
    """Segments of layers by the path of their first one."""
    tape = spec_of(content).trace(Workload(seq=T, **workload))
    return {s.path.replace("{i}", str(s.indices[0])): s for s in tape.segments if s.indices}


def how(*recompute: str) -> Any:
    options: dict[str, Any] = {"kernels": "fused", "core": "flash", "router_probs": "act", "cross_entropy": "fused"}
    return savers(**options, recompute=recompute)


# --------------------------------------------------------------------------------------------- shared choices of keys


def test_a_layer_that_takes_a_choice_has_no_indexer_and_caches_no_index_key(tmp_path: Any) -> None:
    own, other = (segment for segment in segments(sharing()).values())
    paths = {w.path.removeprefix("model.layers.{i}.") for op in own.ops for w in op.weights}
    assert {path for path in paths if "indexer" in path} == {
        f"self_attn.indexer.{name}" for name in ("wq_b", "wk", "k_norm", "weights_proj")
    }
    assert {w.path.removeprefix("model.layers.{i}.") for op in other.ops for w in op.weights} == {
        path for path in paths if "indexer" not in path
    }
    # 5 layers of latent 5 and rotary key 2, and 2 of an index key of 4, in bf16
    assert quantities("kv", written(tmp_path, sharing()))["kv.bytes_per_token"] == 5 * 2 * 7 + 2 * 2 * 4


def test_it_scores_as_many_keys_as_the_choice_has(tmp_path: Any) -> None:
    found = quantities("flops", written(tmp_path, sharing()), "--seq", str(T), "--attention", "full")
    assert found["flops.attention_core"] == 5 * 2 * T * TOP * 2 * (5 + 4)  # 2 heads of 3 + 2 and 4 features
    assert found["flops.index"] == 2 * 2 * T * T * (3 * 4 + 3)  # in the two layers that own one


def test_only_the_layer_that_chooses_keeps_the_choice() -> None:
    own, other = (segment for segment in segments(sharing(), phase="train").values())
    kept = {name: saved_bytes(s, Shards(), how()) for name, s in (("own", own), ("other", other))}
    assert kept["own"] - kept["other"] == T * TOP * 4
    # where layers keep their input alone, the choice is an input of the layers after it
    whole = {
        name: [row.nbytes for row in saved_rows(s, Shards(), how("full"))] for name, s in segments(sharing()).items()
    }
    assert list(whole.values()) == [[T * 8 * 2, T * TOP * 4], [T * 8 * 2]]


def test_a_choice_that_nobody_shares_is_dropped_with_the_rest() -> None:
    (alone,) = segments(sharing(["full", "full"])).values()
    assert [row.nbytes for row in saved_rows(alone, Shards(), how("full"))] == [T * 8 * 2]


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (["shared", "full"], "index_topk 6 of an earlier layer's indexer: no layer before it has one"),
        (["plain", "shared"], "no layer before it has one"),
        (["full", "other"], "index_topk 7 of an earlier layer's indexer: the last one before it chooses 6"),
    ],
)
def test_there_is_an_earlier_layer_that_chooses_as_many(tmp_path: Any, order: list[str], says: str) -> None:
    ran = run("validate", written(tmp_path, sharing(order)))
    assert ran.code == 1
    assert says in ran.err


def test_a_prediction_module_has_no_earlier_layer(tmp_path: Any) -> None:
    content = sharing(num_nextn_predict_layers=1)
    assert "a prediction module has no earlier layer" in run("validate", written(tmp_path, content)).err
    content = sharing(num_nextn_predict_layers=1, mtp_layer={"attention": "full", "ffn": "dense"})
    assert run("validate", written(tmp_path, content)).code == 0


def test_an_indexer_of_its_own_and_anothers_choice_are_refused(tmp_path: Any) -> None:
    content = sharing()
    content["backbone"]["attention"]["full"] = FULL | {"index_topk": TOP}
    assert "index_topk beside an indexer" in run("validate", written(tmp_path, content)).err


# ------------------------------------------------------------------------------------------------ attention residuals


def residuals(size: int | None = 2, **backbone: Any) -> dict[str, Any]:
    return tiny(attn_res_block_size=size, **backbone)


def test_attention_residuals_add_4h_a_layer_and_2h_at_the_end() -> None:
    plain, more = (count(spec_of(c).trace(Workload())).total for c in (tiny(), residuals()))
    assert more - plain == 3 * 4 * 8 + 2 * 8
    names = {w.path for w in spec_of(residuals()).trace(Workload()).weights() if "_res_" in w.path}
    assert names == {
        *(f"model.layers.{{i}}.{at}_res_{of}" for at in ("self_attention", "mlp") for of in ("norm", "proj")),
        "model.output_attn_res_norm",
        "model.output_attn_res_proj",
    }


def test_kimi_k3_has_as_many_as_its_header_says() -> None:
    # the released header: 43,008 in each of 93 layers with two norms of 7168, 21,504 at the end with the last norm
    layers = [{"count": 93, "attention": "gqa", "ffn": "dense"}]
    ffn = {"dense": TINY["backbone"]["ffn"]["dense"]}
    content = residuals(12, hidden_size=7168, num_hidden_layers=93, layers=layers, ffn=ffn)
    weights = spec_of(content).trace(Workload()).weights()
    assert sum(w.elements for w in weights if "_res_" in w.path) == 93 * (43_008 - 2 * 7168) + 21_504 - 7168


@pytest.mark.parametrize(("size", "blocks"), [(1, 3), (2, 2), (3, 1), (12, 1)])
def test_every_site_is_counted_with_all_blocks_and_the_running_sum(size: int, blocks: int) -> None:
    for segment in spec_of(residuals(size)).trace(Workload(seq=T, phase="train")).segments:
        sites = [op for op in segment.ops if op.site == "attn_res"]
        assert len(sites) == (2 if segment.indices else int(segment.path == "lm_head"))
        assert all(value(op.flops) == 4 * T * (blocks + 1) * 8 for op in sites)
        assert all(op.backward_factor == 2 for op in sites)


def test_a_site_keeps_its_running_sum_beside_what_the_mixer_reads() -> None:
    plain, more = (segments(c, phase="train")["model.layers.0"] for c in (tiny(), residuals()))
    # the norms read what is weighed: two tensors more of 8 features in bf16
    assert saved_bytes(more, Shards(), how()) - saved_bytes(plain, Shards(), how()) == 2 * T * 8 * 2


def test_the_outputs_of_all_blocks_are_there_while_a_layer_runs() -> None:
    plain, more = (segments(c)["model.layers.0"] for c in (tiny(), residuals()))
    peaks = [forward_alive(segment, Shards(), frozenset(), entry=True).total for segment in (plain, more)]
    assert peaks[1] - peaks[0] >= T * 2 * 8 * 2
    assert more.beside[0].nbytes == T * 2 * 8 * 2


def test_reports_that_rest_on_them_say_so(tmp_path: Any) -> None:
    file = written(tmp_path, residuals())
    assert "Attention residuals: no training code is public" in run("flops", file).out
    assert "Attention residuals" not in run("params", file).out


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ({"num_nextn_predict_layers": 1}, "no source says what a prediction module reads"),
        (
            {"layers": [{"count": 3, "steps": [{"attention": "gqa"}, {"ffn": "dense", "arrangement": "parallel"}]}]},
            "needs layers of an attention and a feed-forward, in sequence",
        ),
        ({"layers": [{"count": 3, "steps": [{"ffn": "dense"}, {"attention": "gqa"}]}]}, "in sequence"),
        ({"rms_norm_eps": None, "layer_norm_eps": 1e-5, "norm": "layer"}, "rms_norm_eps is missing"),
    ],
)
def test_residuals_of_no_known_form_are_refused(tmp_path: Any, backbone: dict[str, Any], says: str) -> None:
    content = residuals(**backbone)
    if "layers" in backbone:
        content["backbone"]["ffn"] = {"dense": TINY["backbone"]["ffn"]["dense"]}
    assert says in run("validate", written(tmp_path, content)).err
