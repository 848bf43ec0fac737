"""A mixer with three kinds of memory gets right answers from every command; the numbers are derived in numbers.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archcalc.calc.kv_cache import Mesh
from archcalc.documents.flops import flops_quantities
from archcalc.documents.kv import kv_report
from archcalc.workload import Workload
from tests.support import answered, quantities, run
from tests.toy.mixer import ToySpec
from tests.toy.numbers import LINEAR, PLAIN, TOTAL, cache, far_pairs, near_pairs, saved

Toy = Callable[..., str]


# ------------------------------------------------------------------------------------- parameters and weights


def test_params_counts_every_weight_once(toy: Toy) -> None:
    assert quantities("params", toy())["params.total"] == TOTAL


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("layers.1.self_attn.sinks", 4),  # a bare parameter of the module
        ("layers.1.self_attn.far_q", 64 * 36),
        ("layers.1.self_attn.conv1d", 32 * 4),
    ],
)
def test_parts_are_explained_by_their_path(toy: Toy, path: str, count: int) -> None:
    assert quantities("params", toy(), "--explain", path) == {f"params[model.{path}]": count}


def test_weights_are_two_bytes_each(toy: Toy) -> None:
    assert quantities("weights", toy())["weights.bytes"] == 2 * TOTAL


def test_a_convolution_is_no_matrix_to_quantize(toy: Toy) -> None:
    # --as fp8 takes the role attention, in blocks of 128 x 128; a kernel of 32 x 1 x 4 stays in bf16
    rows = answered("weights", toy(), "--as", "fp8")["rows"]
    stored = {row["path"].rpartition("self_attn.")[2]: row["tensors"] for row in rows if "self_attn" in row["path"]}
    assert stored["conv1d.weight"] == "weight bfloat16 [32, 1, 4]"
    assert stored["q_proj.weight"].startswith("weight float8_e4m3fn [32, 64]")


# --------------------------------------------------------------------------------------------------- FLOPs


@pytest.mark.parametrize("tokens", [12, 16, 100])
def test_flops_of_a_prefill_class_by_class(toy: Toy, tokens: int) -> None:
    found = quantities("flops", toy(), "--seq", str(tokens))
    assert found["flops.linear"] == 2 * tokens * (3 * LINEAR + 64 * 96)
    near, far = near_pairs(tokens) * 4 * (8 + 8), far_pairs(tokens) * 4 * (9 + 9)
    assert found["flops.attention_core"] == 3 * (near + far)
    assert found["flops.scan"] == 3 * 6 * tokens * 4 * 8 * 8
    assert found["flops.conv"] == 3 * 2 * tokens * 32 * 4
    classes = ("linear", "attention_core", "scan", "conv")
    assert found["flops.backbone"] == sum(found[f"flops.{name}"] for name in classes)


def test_a_decoded_token_sees_a_full_window_and_the_entries_that_are_done(toy: Toy) -> None:
    # 101 tokens with it: 16 in the window, 25 whole entries of 4
    found = quantities("flops", toy(), "--phase", "decode", "--context", "100")
    assert found["flops.attention_core"] == 3 * 2 * 4 * (16 * 16 + 25 * 18)


def test_a_training_step_goes_back_over_the_scan_twice(toy: Toy) -> None:
    step, forward = (quantities("flops", toy(), "--phase", phase, "--seq", "64") for phase in ("train", "prefill"))
    assert step["flops.backward"] == 2 * forward["flops.forward"]


def test_printed_conventions_name_this_model_s_spans_and_no_other(toy: Toy) -> None:
    said = " ".join(answered("flops", toy(), "--seq", "64")["conventions"])
    assert "Layers that see the last w = 16 tokens" in said
    assert "Layers that see one entry for 4 tokens" in said
    assert "n(c+n)" not in said


# --------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("tokens", [1, 10, 16, 17, 101, 8192])
def test_the_cache_is_a_function_of_the_length(toy: Toy, tokens: int) -> None:
    found = answered("kv", toy(), "--context", str(tokens), "--batch", "3")
    assert found["quantities"]["kv.total_bytes"] == 3 * cache(tokens)
    assert sum(row["sequence_bytes"] for row in found["rows"]) == cache(tokens)
    assert found["quantities"]["kv.sequence_bytes_8k"] == cache(8192)
    assert found["quantities"]["kv.sequence_bytes_128k"] == cache(131_072)


def test_growth_is_exact_where_no_whole_number_is(toy: Toy) -> None:
    # past the window a token adds a quarter of 3 x 9 x 2 B; the rest is fixed
    found = answered("kv", toy(), "--context", "100")
    assert found["quantities"]["kv.bytes_per_token"] == 13.5
    assert found["exact"]["kv.bytes_per_token"] == "27/2"
    assert found["quantities"]["kv.fixed_bytes"] == cache(100) - 1350 == 3 * (16 * 64 + 256 + 1024)


def test_a_state_keeps_its_dtype_under_an_fp8_cache(toy: Toy) -> None:
    rows = answered("kv", toy(), "--context", "100", "--kv-dtype", "fp8")["rows"]
    by_kind = {row["kind"]: row["sequence_bytes"] for row in rows}
    assert by_kind["state"] == 3 * 4 * 8 * 8 * 4
    assert by_kind["conv"] == 3 * 32 * 4 * 2
    assert by_kind["key"] == 3 * 16 * 16


def test_devices_divide_heads_of_keys_and_states_and_no_latent(toy: Toy) -> None:
    # tp 2: one of two key-value heads, half of the state's heads and of the channels; 25 whole latents
    found = quantities("kv", toy(), "--context", "100", "--tp", "2")
    assert found["kv.bytes_per_device"] == 3 * (16 * 2 * 8 * 2 + 25 * 18 + 128 + 512)


@pytest.mark.parametrize("memory", [3840, 3841, 6911, 6912, 6966, 50_000])
def test_tokens_that_fit_are_the_inverse_of_the_cache(memory: int) -> None:
    found = kv_report(ToySpec.model_validate(PLAIN), Workload(context=1), mesh=Mesh(), memory=memory)
    fit = int(found.quantities["kv.max_tokens"])
    assert (fit == 0 and cache(1) > memory) or cache(fit) <= memory
    assert cache(fit + 1) > memory


# ------------------------------------------------------------------------------------------------- serving


def test_serve_holds_the_cache_of_each_sequence(toy: Toy) -> None:
    found = quantities("serve", toy(), "--gpu", "h100", "--gpus", "2", "--context", "101", "--batch", "5")
    # pages of 64 tokens for a latent: the window takes one page, 101 tokens two, of which 32 latents of 4
    paged = 3 * (64 * 2 * 8 * 2 + 32 * 18 + 128 + 512)
    assert found["serve.kv_bytes"] == 5 * paged
    assert found["serve.weights_bytes"] == TOTAL - (64 * 9 * 3 + 7 * 64) + 2 * (64 * 9 * 3 + 7 * 64)
    budget = found["serve.kv_budget_bytes"]
    assert found["serve.max_batch"] == budget // paged
    fixed = 3 * (64 * 32 + 128 + 512)
    assert found["serve.max_context"] == (budget - fixed) // (3 * 16 * 18) * 64  # 16 latents a page of 64 tokens


# ------------------------------------------------------------------------------------------------ training

ONE_DEVICE = ("world=1", "pp=1", "vpp=1", "ep=1", "zero=0")
SETS = [f"parallel.{each}" for each in ONE_DEVICE] + [
    "schedule.kind=1f1b",
    "schedule.extra_warmup=0",
    "batch.seq=128",
    "batch.global_tokens=128",
    "activations.recompute=[]",
    "activations.fp8=[]",
    "precision.optimizer=adamw",
    "activations.cross_entropy=chunked",
]


def train(path: str, *more: str) -> dict[str, Any]:
    flags = [word for each in (*SETS, *more) for word in ("--set", each)]
    return answered("train", path, "--plan", "k2-pretrain", *flags)


def test_train_keeps_what_each_operation_saves(toy: Toy) -> None:
    # three layers; 128 ids of 8 B; the final norm's input, rstd and result; the chunked loss keeps nothing else
    kept = 3 * saved(128) + 128 * 8 + 128 * (2 * 64 + 4 + 2 * 64)
    found = train(toy(), "activations.offload=none")["quantities"]
    assert found["train.activation_bytes"] == kept
    assert found["train.params_bytes"] == 2 * TOTAL
    assert found["train.optimizer_bytes"] == 12 * TOTAL


def test_what_the_scan_keeps_can_be_offloaded_by_name(toy: Toy) -> None:
    # 256 sequences of 128 tokens at a time: what is as wide as 32 has the 2^20 elements that a group takes at least.
    # That are queries and outputs of the near and of the far core, and what went into the scan; keys, values and
    # states are smaller. Three layers, six micro-batches alive under gpipe; a backward starts at the head, when the
    # last layer is on its way back.
    sets = ("schedule.kind=gpipe", "activations.offload=[core_attn]")
    many = ("batch.micro_batch=256", "batch.global_tokens=196608")
    layer = 2 * 256 * 128 * (32 + 32 + 36 + 36 + 32)
    assert train(toy(), *sets, *many)["quantities"]["train.offloaded_bytes"] == (6 * 3 - 1) * layer
    few = ("batch.micro_batch=227", "batch.global_tokens=174336")  # 36 x 227 x 128 is a little less
    assert train(toy(), *sets, *few)["quantities"]["train.offloaded_bytes"] == 0


# ------------------------------------------------------------------------- pictures, reports, comparisons


def test_plots_list_the_same_numbers(toy: Toy) -> None:
    rows = answered("plot", "kv", toy(), "--context", "8..128")["rows"]
    assert {row["context"]: row["total_bytes"] for row in rows} == {n: cache(n) for n in (8, 16, 32, 64, 128)}
    rows = answered("plot", "flops", toy(), "--context", "16..64")["rows"]
    assert [row["linear"] for row in rows] == [2 * n * (3 * LINEAR + 64 * 96) for n in (16, 32, 64)]


def test_a_memory_plot_marks_the_last_context_that_fits(toy: Toy) -> None:
    plotted = answered("plot", "memory", toy(), "--context", "4k..32k", "--gpu", "h100", "--gpus", "1")
    served = quantities("serve", toy(), "--gpu", "h100", "--gpus", "1")
    assert plotted["tables"]["crossings"][0]["last_context"] == served["serve.max_context"]
    for row in plotted["rows"]:
        assert row["kv_bytes"] == 3 * (64 * 64 + -(-row["context"] // 64) * 16 * 18 + 256 + 1024)  # whole pages of 64


def test_a_report_of_everything_is_written(toy: Toy, tmp_path: Path) -> None:
    ran = run("report", toy(), "--dir", str(tmp_path / "reports"))
    assert ran.code == 0, ran.err
    whole = json.loads((tmp_path / "reports" / "toy.json").read_text())
    assert whole["quantities"]["kv.total_bytes"] == cache(32_768)
    assert whole["exact"]["kv.bytes_per_token"] == "27/2"
    assert "13.5 B" in (tmp_path / "reports" / "toy.md").read_text()


def test_diff_and_limits_see_a_wider_window(toy: Toy) -> None:
    before, after = toy("before"), toy("after", window=32)
    found = answered("diff", before, after)
    changed = {row["quantity"]: row["delta"] for row in found["tables"]["quantities"]}
    wider = 3 * 16 * 64  # 16 more tokens of keys and values in three layers
    assert changed["kv.fixed_bytes"] == changed["kv.sequence_bytes_8k"] == changed["kv.sequence_bytes_128k"] == wider
    assert "kv.bytes_per_token" not in changed
    assert run("diff", before, after, "--fail-on", "kv.sequence_bytes_128k:+1%").code == 0  # 3,072 of 1,777,152 B
    assert run("diff", before, after, "--fail-on", "kv.fixed_bytes:+1%").code == 1


def test_validate_and_show_take_it_like_any_other(toy: Toy) -> None:
    assert run("validate", toy()).code == 0
    assert run("show", toy()).out == Path(toy()).read_text()
    refused = run("params", toy(window=-1))
    assert refused.code == 2
    assert "toy.yaml:26:15:" in refused.err
    assert "window must be greater than 0" in refused.err


# -------------------------------------------------------------------------------------------- a second tower


def test_a_tower_is_a_file() -> None:
    tower = {"kind": "toy_tower", "patch": 10, "width": 6, "window": 4, "dtype": "bfloat16"}
    merger = {
        "kind": "patch_merger",
        "mm_hidden_size": 6,
        "text_hidden_size": 64,
        "projector_hidden_act": "gelu",
        "projector_ln_eps": 1e-5,
        "use_postshuffle_norm": False,
        "dtype": "bfloat16",
    }
    backbone = PLAIN["backbone"]
    spec = ToySpec.model_validate(PLAIN | {"backbone": backbone, "vision": tower, "projector": merger})
    # 40 x 40 px: 16 patches, 4 tokens; the convolution 2 x 16 x 3·10·10·6, the projector 2 x 4 x (24·24 + 24·64)
    found = flops_quantities(spec, Workload(seq=12, images=((40, 40),)))
    assert (found["vision.tokens"], found["vision.patches"]) == (4, 16)
    assert found["flops.vision"] == 2 * 16 * 300 * 6
    assert found["flops.projector"] == 2 * 4 * (24 * 24 + 24 * 64)
    assert found["flops.linear"] == 2 * 16 * (3 * LINEAR + 64 * 96)
