"""Commands asked by name: the line that is printed and the report beside it come from the same arguments."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from archcalc.documents.ask import again, answer, called, line
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.render.json import render
from tests.support import ROOT, answered, spec_of, tiny

ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("params", {"by": "role", "top": 3}),
    ("params", {"explain": "mm_projector.pre_norm"}),
    ("claims", {}),
    ("flops", {"phase": "train", "batch": 2, "seq": 8192, "image": [(448, 448)], "tokens": 10**12}),
    ("flops", {"phase": "decode", "context": 4095, "mla": "expanded"}),
    ("flops", {"video": [(16, 448, 448), (4, 224, 224)], "attention": "full", "logits": "last"}),
    ("flops", {"lengths": [512, 1024, 512], "context": 100, "image": [(224, 224), (40, 57)]}),
    ("kv", {"context": 1000, "kv_dtype": "fp8", "tp": 8, "dcp": 2, "block_size": 64}),
    ("kv", {"batch": 5, "pp": 2, "dp": 3, "memory": 80 << 30, "image": [(448, 448)]}),
    ("weights", {"as_": "bf16", "optimizer": "muon"}),
    ("serve", {"gpu": "h200", "gpus": 16, "dp": 16, "ep": "all", "kv_dtype": "fp8", "utilization": 0.95}),
    ("serve", {"gpu": "all", "context": 32768, "batched_tokens": 2048, "vision": "replicated"}),
    ("serve", {"gpu": "b200", "overhead": 8 << 30, "as_": "fp8"}),
    ("serve", {"gpu": "h200", "gpus": 8, "pp": 2, "max_num_seqs": 64, "sampler": "torch", "draft": "llama-3.1-70b"}),
    ("serve", {"gpu": "h200", "gpus": "auto", "engine": "vllm-0.8", "lora_rank": 16, "offload_experts": "host"}),
    ("train", {"plan": "k2-pretrain", "set": ["activations.offload=none", "parallel.zero=3"], "rank": 3}),
]
"""Every kind of value that a flag has: text, numbers, sizes, lists of them."""

ids = [f"{command} {' '.join(arguments)}" for command, arguments in ARGUMENTS]


@pytest.mark.parametrize(("command", "arguments"), ARGUMENTS, ids=ids)
def test_the_line_of_arguments_answers_what_the_arguments_answer(command: str, arguments: dict[str, Any]) -> None:
    report = answer(command, load_spec("k25"), arguments)
    assert answered(*shlex.split(line(command, "k25", arguments))[1:]) == json.loads(render(report, "gib"))


@pytest.mark.parametrize(("command", "arguments"), ARGUMENTS, ids=lambda value: str(value)[:40])
def test_the_inputs_of_a_saved_report_ask_for_it_again(command: str, arguments: dict[str, Any]) -> None:
    spec = load_spec("k25")
    report = answer(command, spec, arguments)
    saved = json.loads(render(report, "gib"))
    repeated = json.loads(render(again(command, spec, saved["inputs"]), "gib"))
    for key in ("inputs", "quantities", "rows", "findings"):
        assert repeated[key] == saved[key]
    for tables in (repeated["tables"], saved["tables"]):
        for lever in tables.get("levers", ()):
            del lever["flags"]  # what is to be typed beside what was
    assert repeated["tables"].items() <= saved["tables"].items()  # counts that were left open are not tried again


def test_inputs_that_earlier_versions_saved_mean_the_same() -> None:
    spec = load_spec("k25")
    old = {"spec": "k25", "phase": "decode", "batch": 1, "seq": 1, "context": 99, "attention": "causal"}
    old |= {"logits": "all", "choices": {"mla": "expanded"}, "images": [], "videos": [], "tokens": None}
    new = {"phase": "decode", "context": 99, "mla": "expanded"}
    assert again("flops", spec, old).quantities == answer("flops", spec, new).quantities
    assert again("flops", spec, {"images": [[448, 448]]}) == answer("flops", spec, {"image": [(448, 448)]})


@pytest.mark.parametrize(
    ("command", "inputs"),
    [
        ("serve", {"gpu": "/etc/passwd"}),
        ("serve", {"gpu": "./gpu.yaml"}),
        ("serve", {"gpu": "h200", "engine": "./engine.yaml"}),
        ("serve", {"gpu": "h200", "draft": "./draft.yaml"}),
        ("serve", {"gpu": "h200", "draft": "hf:somebody/something"}),
        ("report", {"plan": ["./plan.yaml"]}),
        ("report", {"gpu": ["./gpu.yaml"]}),
        ("train", {"plan": "./plan.yaml"}),
        ("train", {"plan": "k2-pretrain", "set": ["hardware=./gpu.yaml"]}),
        ("train", {"plan": "k2-pretrain", "set": ["stack=./stack.yaml"]}),
    ],
)
def test_no_file_that_a_saved_report_names_is_read(
    command: str, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path, like in (("plan", "plans/k2-pretrain"), ("gpu", "hardware/h200"), ("engine", "engines/vllm")):
        (tmp_path / f"{path}.yaml").write_text((ROOT / "specs" / f"{like}.yaml").read_text())
    (tmp_path / "stack.yaml").write_text((ROOT / "specs" / "stacks" / "megatron-2025.yaml").read_text())
    (tmp_path / "draft.yaml").write_text((ROOT / "specs" / "llama-3.1-8b.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="neither bundled nor kept in it") as caught:
        again(command, load_spec("k25"), inputs)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("command", "inputs"),
    [
        ("serve", {"gpu": "h200", "choices": {"engine": "/etc/passwd"}}),
        ("report", {"choices": {"gpu": ["/etc/passwd"]}}),
        ("flops", {"choices": {"mla": "absorbed", "seq": 1}}),
        ("flops", {"choices": ["mla"]}),
        ("report", {"plan": "k2-pretrain"}),  # text is no list of names
        ("report", {"gpu": [["h200"]]}),
        ("report", {"gpu": ["all"]}),
        ("flops", {"image": [[14, 14]] * 1001}),
        ("flops", {"lengths": ["4k"]}),
        ("serve", {"gpu": "h200", "eager": "no"}),
    ],
)
def test_inputs_that_no_report_has_are_not_used_again(command: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"the inputs of the saved {command} report can't be used again"):
        again(command, load_spec("k25"), inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"price": {"h200": "9" * 1000}}, 'the price of "h200" is no number'),  # text times GPUs is a long text
        ({"price": {"h200": float("inf")}}, 'the price of "h200" is no number'),
        ({"sampler": "x"}, 'unknown sampler "x"'),
        ({"vision": "x"}, 'unknown vision "x"'),
    ],
)
def test_a_saved_word_or_price_that_no_flag_takes_is_refused(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        again("serve", load_spec("k25"), {"gpu": "h200", "gpus": 8, **inputs})


@pytest.mark.parametrize(
    "inputs", [{"context": "8k"}, {"colour": 1}, {"image": [[1]]}, {"image": 7}, {"choices": 3}, {"batch": None}]
)
def test_inputs_of_the_wrong_form_are_one_error(inputs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="inputs of the saved kv report can't be used again"):
        again("kv", load_spec("k25"), inputs)


def test_a_bundled_file_goes_by_its_name_and_another_by_its_file(tmp_path: Path) -> None:
    assert called("h200", "hardware") == "h200"
    assert called(str(ROOT / "specs" / "hardware" / "h200.yaml"), "hardware") == "h200"
    assert called(str(tmp_path / "h200.yaml"), "hardware") == "h200.yaml"
    with pytest.raises(InputError, match="no bundled GPU"):
        called("h25", "hardware")


def test_a_line_is_one_line_that_a_shell_reads_back() -> None:
    found = line("train", "a b\n\x1b.yaml", {"plan": "k2-pretrain", "set": ["x=[1, 2]"]})
    assert found.isprintable()
    assert found.endswith("--plan k2-pretrain --set 'x=[1, 2]'")


def test_a_saved_report_on_many_packed_sequences_is_asked_again() -> None:
    spec = spec_of(tiny())
    first = answer("flops", spec, {"lengths": [*range(1, 2001)], "phase": "train"})
    assert again("flops", spec, first.inputs).quantities == first.quantities
    with pytest.raises(InputError, match="the limit `lengths` is 10,000"):
        again("flops", spec, {"lengths": [1] * 10_001})
