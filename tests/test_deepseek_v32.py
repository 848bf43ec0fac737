"""DeepSeek-V3.2's sparse attention, as a spec of one's own would write it: counts by hand, and against torch.

61 layers of latent attention (128 heads, latent 512, rotary key 64) with an indexer of 64 heads of 128 that leaves
2,048 keys to attention; else DeepSeek-V3. The sizes are transformers' defaults of DeepseekV32Config, without
prediction modules.
"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from archcalc.proof import crosscheck
from tests.support import answered, data, dumped, quantities, run, spec_of, written

torch_needed = pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra torch")

N, D, K = 64, 128, 2048
INDEXER = 1536 * N * D + 7168 * D + 2 * D + 7168 * N
"""wq_b from the query latent; wk; its LayerNorm; weights_proj."""


def plain() -> dict[str, Any]:
    content = data("deepseek-v3")
    backbone = content["backbone"]
    backbone |= {"num_nextn_predict_layers": 0, "max_position_embeddings": 163_840}
    backbone["attention"]["mla"]["indexer"] = {"index_n_heads": N, "index_head_dim": D, "index_topk": K}
    storage = {key: how for key, how in content["storage"].items() if not key.startswith("mtp")}
    return content | {"name": "deepseek-v3.2", "title": "DeepSeek-V3.2", "storage": storage, "claims": []}


@pytest.fixture
def v32(tmp_path: Path) -> str:
    return written(tmp_path, plain())


def test_the_indexer_is_all_that_it_adds_to_deepseek_v3(v32: str) -> None:
    assert quantities("params", v32)["params.total"] == 671_026_404_352 + 61 * INDEXER == 671_877_929_216


@pytest.mark.parametrize(
    ("dtype", "layer"),
    [
        ("bf16", 2 * (512 + 64) + 2 * 128),  # 85,888 B a token in 61 layers
        ("fp8_ds_mla", 656 + 132),  # sgl-project/sglang#11309: 1,462,784 tokens are 65.49 GB of the log
        ("fp8", 512 + 64 + 128),  # without scales
    ],
)
def test_the_index_key_is_cached_beside_the_latent(v32: str, dtype: str, layer: int) -> None:
    found = quantities("kv", v32, "--kv-dtype", dtype, "--context", "1462784", "--tp", "8")
    assert found["kv.bytes_per_token"] == 61 * layer
    assert found["kv.bytes_per_device"] == 1_462_784 * 61 * layer  # all heads share it: tp never divides it


def test_keys_are_chosen_anew_so_all_stay_cached(v32: str) -> None:
    found = quantities("kv", v32, "--context", "128k")
    assert (found["kv.fixed_bytes"], found["kv.sequence_bytes_128k"]) == (0, 131_072 * 85_888)


@pytest.mark.parametrize("tokens", [1000, 2048, 8192])
def test_attention_takes_the_best_and_the_indexer_scores_all(v32: str, tokens: int) -> None:
    found = quantities("flops", v32, "--seq", str(tokens))
    halves = tokens * tokens if tokens <= K else K * K + 2 * (tokens - K) * K  # 2 FLOPs for each causal pair, halved
    assert found["flops.attention_core"] == 61 * halves * 128 * (192 + 128)
    assert found["flops.index"] == 61 * tokens * tokens * (N * D + N)
    base = quantities("flops", "deepseek-v3", "--seq", str(tokens))
    assert found["flops.linear"] == base["flops.linear"] + 2 * tokens * 61 * (INDEXER - 2 * D)


def test_a_decoded_token_scores_every_index_key_and_2048_latents(v32: str) -> None:
    found = quantities("flops", v32, "--phase", "decode", "--context", "100000")
    assert found["flops.index"] == 61 * 2 * 100_001 * (N * D + N)
    assert found["flops.attention_core"] == 61 * 2 * K * 128 * (576 + 512)


def test_no_gradient_reaches_the_indexer(v32: str) -> None:
    step = answered("flops", v32, "--phase", "train", "--seq", "4096")
    inside = [row for row in step["rows"] if ".indexer." in row["path"]]
    assert len(inside) == 2 * 4  # of dense and of MoE layers: three linears and the scores
    assert all(row["forward"] > 0 and row["backward"] == 0 for row in inside)
    assert any("what chooses keys for attention: none" in line for line in step["conventions"])


def test_training_keeps_the_chosen_keys_and_nothing_else_of_the_indexer(v32: str) -> None:
    # sparse kernels take 2,048 int32 indices a token again in backward (sparse_mla_bwd of TileLang, of Megatron-LM)
    sets = ["parallel.pp=1", "parallel.vpp=1", "parallel.world=16", "schedule.kind=1f1b", "schedule.extra_warmup=0"]
    sets += ["activations.recompute=[]", "activations.fp8=[]", "activations.offload=none", "batch.global_tokens=65536"]
    flags = ["--plan", "k2-pretrain", *(word for each in sets for word in ("--set", each))]
    plain_v3 = v32.replace("s.yaml", "plain.yaml")
    content = plain()
    del content["backbone"]["attention"]["mla"]["indexer"]
    Path(plain_v3).write_text(dumped(content))
    sparse, dense = (quantities("train", name, *flags)["train.activation_bytes"] for name in (v32, plain_v3))
    assert sparse - dense == 61 * 4096 * 2048 * 4


def test_serving_holds_the_indexer_whole_on_every_device(v32: str) -> None:
    shared = [quantities("serve", name, "--gpu", "h200", "--gpus", "8") for name in (v32, "deepseek-v3")]
    added = shared[0]["serve.weights_bytes"] - shared[1]["serve.weights_bytes"]
    # matrices in FP8 with a fp32 scale for 128 x 128, the LayerNorm in bf16; undivided by tp 8
    blocks = 12 * N * D // 128 + 56 * 1 + 56 * 1  # wq_b of 64 x 12 blocks; wk 1 x 56; weights_proj, 64 rows, 1 x 56
    assert added == 61 * (INDEXER - 2 * D + 4 * blocks + 2 * 2 * D)


def test_an_index_key_holds_the_features_that_turn(tmp_path: Path) -> None:
    content = plain()
    content["backbone"]["attention"]["mla"]["indexer"]["index_head_dim"] = 32
    ran = run("validate", written(tmp_path, content))
    assert ran.code == 1
    assert "index_head_dim 32 is less than qk_rope_head_dim 64" in ran.err


def test_an_indexer_needs_the_query_latent(tmp_path: Path) -> None:
    content = plain()
    content["backbone"]["attention"]["mla"]["q_lora_rank"] = None
    ran = run("params", written(tmp_path, content))
    assert ran.code == 2
    assert "an indexer makes its queries from the query latent" in ran.err


@pytest.mark.twin
@torch_needed
def test_it_agrees_with_the_twin_integer_for_integer() -> None:
    found = crosscheck(spec_of(plain()))
    assert [f for f in found.findings if f["difference"]] == []
    paths = Counter(f["kind"] for f in found.findings)
    # a MoE layer of DeepSeek-V3 has 16 weights, a dense one 12; the indexer 5 in each
    assert paths["params"] == 58 * (16 + 5) + 3 * (12 + 5) + 3
    assert paths["kv"] == 2 * 2 * 61  # latent and rotary key under self_attn, the index key under its indexer


@pytest.mark.twin
@torch_needed
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra hf")
def test_it_agrees_with_the_public_class() -> None:
    found = crosscheck(spec_of(plain()), against="transformers", only=("params",))
    assert [f for f in found.findings if f["difference"]] == []
    assert sum(f["count"] * f["theirs"] for f in found.findings if f["kind"] == "params") == 671_877_929_216
