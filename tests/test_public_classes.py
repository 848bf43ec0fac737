"""`crosscheck --against transformers`: every family's class, from a release's config and from one made of a spec."""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    pytest.skip("needs the extra hf", allow_module_level=True)

from archcalc.documents.document import Report
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.hf.backward import config_of
from archcalc.hf.likeness import forward
from archcalc.proof import crosscheck
from archcalc.reference import hf
from tests.families.bases import BASES
from tests.families.pages import NOT_RUN, ROWS, keeps_a_state
from tests.support import run, written

pytestmark = pytest.mark.twin

Config = dict[str, Any]


def runnable(config: Config) -> Config:
    """A base with experts of a width that torch's grouped products take: rows of 16 bytes."""
    widths = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
    if config.get("model_type", "").startswith("deepseek_v2"):
        widths["scoring_func"] = "softmax"  # type: ignore[assignment]
    changed = {key: runnable(value) if isinstance(value, dict) else value for key, value in config.items()}
    return changed | {key: value for key, value in widths.items() if key in config}


FAMILIES = {name: runnable(config) for name, config in BASES.items() if name not in NOT_RUN}
NAMES = list(FAMILIES)
HYBRIDS = {name for name in NAMES if keeps_a_state(ROWS[name.split()[0]])}


def different(report: Report) -> list[tuple[str, str, int, int]]:
    return [(f["kind"], f["path"], f["ours"], f["theirs"]) for f in report.findings if f["difference"]]


def kinds(report: Report) -> Counter[str]:
    return Counter(f["kind"] for f in report.findings)


def against(spec: Spec, config: Config | None = None) -> Report:
    return crosscheck(spec, against="transformers", config=config)


@pytest.mark.parametrize("name", NAMES)
def test_a_family_agrees_with_the_class_of_its_own_config(name: str) -> None:
    config = FAMILIES[name]
    report = against(forward(config), config)
    assert different(report) == []
    assert {"params", "flops", "kv"} <= set(kinds(report))
    assert all(f["theirs"] for f in report.findings)
    assert "built from the release's own config" in report.notes[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_family_agrees_with_the_class_that_its_spec_is_found_to_be(name: str) -> None:
    report = against(forward(FAMILIES[name]))
    assert different(report) == []
    assert {"params", "flops", "kv"} <= set(kinds(report))
    assert "built from a config made of the spec" in report.notes[0]


@pytest.mark.parametrize("name", sorted(HYBRIDS))
def test_a_recurrence_is_left_out_of_flops_by_name_and_its_state_is_compared(name: str) -> None:
    report = against(forward(FAMILIES[name]), FAMILIES[name])
    flops = {f["path"]: f["ours"] for f in report.findings if f["kind"] == "flops"}
    convs = [path for path in flops if path.endswith("conv1d")]
    assert convs
    assert any(f"FLOPs of {len(convs)} recurrences are not compared" in note for note in report.notes)
    assert not any(path.replace("conv1d", "core") in flops for path in convs)
    mixers = {path.removesuffix(".conv1d") for path in convs}
    assert mixers <= {f["path"] for f in report.findings if f["kind"] == "kv"}


# -- the release's own config -----------------------------------------------------------------------------------------


def test_the_class_is_the_configs_own_and_not_one_that_is_the_same() -> None:
    """Phi3's fused projections show that its class was built; the spec alone is Mistral's as well."""
    config = FAMILIES["phi3"]
    spec = forward(config)
    fused = {f["path"] for f in against(spec, config).findings if "qkv_proj" in f["path"]}
    assert "model.layers.0.self_attn.qkv_proj.weight" in fused
    assert not any("qkv_proj" in f["path"] for f in against(spec).findings)


def test_a_key_that_no_spec_holds_reaches_the_class() -> None:
    """`pad_token_id` is a row of the embedding: the class refuses one that is not there, and the spec has no such
    key."""
    config = FAMILIES["llama"] | {"pad_token_id": 96}  # of 96 rows
    spec = forward(config)
    assert different(against(spec)) == []
    with pytest.raises(InputError, match="refuses the config: Padding_idx must be within num_embeddings"):
        against(spec, config)


def test_what_the_spec_says_otherwise_than_the_config_is_found() -> None:
    config = FAMILIES["qwen3_moe"]
    other = forward(config | {"moe_intermediate_size": 24})
    found = different(against(other, config))
    assert {path.rpartition(".experts.")[2] for kind, path, *_ in found if kind == "params"} == {
        "*.gate_proj.weight",
        "*.up_proj.weight",
        "*.down_proj.weight",
    }
    assert {"params", "flops"} == {kind for kind, *_ in found}


def test_a_window_is_compared_in_the_cache() -> None:
    config = FAMILIES["mistral old"]
    found = different(against(forward(config | {"sliding_window": 20}), config))
    # the longer sequence is the spec's window and one more: 21 tokens, of which the class keeps 21 and not 19
    held = 2 * 2 * 8 * 2  # keys and values of 2 heads of 8, in bf16
    assert found == [("kv", f"model.layers.{i}.self_attn", 19 * held, 21 * held) for i in range(4)]


FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [8, 8]}}


@pytest.mark.parametrize("quantised", [{}, FP8])
def test_a_file_from_the_command_line(tmp_path: Path, quantised: Config) -> None:
    folder = tmp_path / "Model"
    folder.mkdir()
    config = FAMILIES["qwen3_vl_moe"] | {"torch_dtype": "bfloat16", "transformers_version": "4.57.0"} | quantised
    (folder / "config.json").write_text(json.dumps(config))
    ran = run("crosscheck", str(folder), "--against", "transformers", "--only", "params")
    assert ran.code == 0, ran.err
    assert "Qwen3VLMoeForConditionalGeneration of transformers, built from the release's own config" in ran.out


def test_kimi_k2_is_built_as_the_class_that_its_release_names() -> None:
    named = {"architectures": ["DeepseekV3ForCausalLM"], "auto_map": {"AutoConfig": "configuration_deepseek.X"}}
    config = FAMILIES["deepseek_v3"] | named | {"model_type": "kimi_k2"}
    report = against(forward(config), config)
    assert different(report) == []
    assert report.notes[0].startswith("DeepseekV3ForCausalLM of transformers")


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "qwen3_5_moe", "kimi_k25 as released"])
def test_text_of_a_model_with_a_tower_is_compared_without_it(name: str) -> None:
    config = {key: value for key, value in FAMILIES[name].items() if key != "vision_config"}
    report = against(forward(config), config)
    assert different(report) == []
    assert any("params of a tower that the config does not describe" in note for note in report.notes)


# -- specs written by hand --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("llama", ("hidden_size",), 72),
        ("llama", ("ffn", "dense", "intermediate_size"), 56),
        ("deepseek_v3", ("attention", "mla", "v_head_dim"), 14),
        ("glm_moe_dsa", ("vocab_size",), 128),
        ("gemma3_text", ("attention", "sliding", "sliding_window"), 17),
        ("qwen3_next", ("attention", "linear", "linear_key_head_dim"), 6),
        ("kimi_linear", ("attention", "linear", "short_conv_kernel_size"), 3),
        ("ernie4_5_moe", ("ffn", "moe", "n_routed_experts"), 7),
    ],
)
def test_a_spec_edited_by_hand_still_agrees(tmp_path: Path, name: str, place: tuple[str, ...], value: int) -> None:
    plain = forward(FAMILIES[name]).model_dump(exclude_none=False)
    section: Any = plain["backbone"]
    for key in place[:-1]:
        section = section[key]
    assert section[place[-1]] != value
    section[place[-1]] = value
    spec = Spec.model_validate(deepcopy(plain))
    assert different(against(spec)) == []
    before = sum(f["count"] * f["ours"] for f in against(forward(FAMILIES[name])).findings)
    assert sum(f["count"] * f["ours"] for f in against(spec).findings) != before
    ran = run("crosscheck", written(tmp_path, plain), "--against", "transformers", "--only", "params")
    assert ran.code == 0, ran.err


def test_a_spec_that_no_class_is_exits_2_with_the_fields_name(tmp_path: Path) -> None:
    plain = forward(FAMILIES["qwen3"]).model_dump()
    plain["backbone"]["attention"]["full"]["output_gate"] = "per_head"
    ran = run("crosscheck", written(tmp_path, plain), "--against", "transformers")
    assert (ran.code, ran.out) == (2, "")
    assert 'transformers has no class that has backbone.attention.full.output_gate "per_head"' in ran.err


# -- what is left out says so -----------------------------------------------------------------------------------------


def test_a_class_that_does_not_run_says_so_and_its_weights_are_compared() -> None:
    """Experts 14 wide: 28 bytes a row, which torch's grouped product refuses."""
    report = against(forward(FAMILIES["qwen3_moe"] | {"moe_intermediate_size": 14}))
    assert different(report) == []
    assert set(kinds(report)) == {"params"}
    for what in ("FLOPs", "Caches"):
        assert any(note.startswith(f"{what} are not compared: the class does not run") for note in report.notes)


def test_predictions_that_a_class_has_not_are_counted_in_the_notes() -> None:
    report = against(forward(FAMILIES["minimax_m2"]), FAMILIES["minimax_m2"])
    assert "mtp" not in kinds(report)
    notes = [note for note in report.notes if "prediction modules, which this class has not" in note]
    assert [note.split()[2:4] for note in notes] == [["124,944", "parameters"], ["15", "buffers"]]


def test_a_tensor_that_nobody_expected_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    build = hf.build

    def more(config: Config) -> hf.Public:
        built = build(config)
        built.model.register_parameter("extra", torch.nn.Parameter(torch.empty(3, device="meta")))
        return built

    monkeypatch.setattr(hf, "build", more)
    assert different(against(forward(FAMILIES["llama"]))) == [("params", "transformers:extra", 0, 3)]


def test_a_config_made_of_a_spec_holds_no_token_that_is_not_there() -> None:
    """DeepseekV3Config has ids of its own; a vocabulary of 96 has not so many rows."""
    made = config_of(forward(FAMILIES["deepseek_v3"]))
    assert made["pad_token_id"] is None
    assert made["eos_token_id"] is None
