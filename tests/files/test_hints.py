"""What a name means that is none of the bundled ones, and what a file is that another was wanted for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from archcalc.errors import InputError
from archcalc.files.hints import hub_hint, name_hint
from archcalc.files.loader import NOUNS, bundled_dir, bundled_names, find, load_spec
from archcalc.section import Memory, Section
from tests.support import BUNDLED, ROOT, run, text


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- names in any case -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NOUNS)
def test_every_bundled_name_is_found_in_any_case(kind: str, here: Path) -> None:
    for name in bundled_names(kind):
        assert find(name.upper(), kind) == find(name.title(), kind) == bundled_dir() / kind / f"{name}.yaml"


def test_a_file_keeps_its_case_and_goes_before_a_bundled_name(here: Path) -> None:
    (here / "K25").write_text(text("kimi-k2"))
    assert load_spec("K25").name == "kimi-k2"
    assert load_spec("k25").name == "k25"


def test_a_folder_goes_before_a_bundled_name_in_another_case(here: Path) -> None:
    # a model's folder as it is downloaded: Qwen3-32B is not the bundled qwen3-32b
    (here / "Qwen3-32B").mkdir()
    assert find("Qwen3-32B") == Path("Qwen3-32B")
    (here / "k25").mkdir()
    assert find("k25") == bundled_dir() / "k25.yaml"


@pytest.mark.parametrize(
    ("command", "other"),
    [
        ("params k25", "params K25"),
        ("params k25 --by role", "params k25 --by Role"),
        ("kv k25 --kv-dtype bf16 --units gib", "kv k25 --kv-dtype BF16 --units GiB"),
        ("kv k25 --format json", "kv k25 --format JSON"),
        ("kv k25 --format json", "kv K25 --format Json --kv-dtype Bf16"),
        ("flops k25 --phase decode --mla absorbed", "flops K25 --phase DECODE --mla Absorbed"),
        (
            "weights k25 --as k25 --optimizer adamw",
            "weights k25 --as K25 --optimizer AdamW",
        ),
        ("schema plan", "schema Plan"),
        ("plot kv k25 --kv-dtype bf16,fp8 --format json", "plot KV K25 --kv-dtype BF16,FP8 --format JSON"),
        (
            "serve k25 --gpu h200 --gpus auto --engine vllm --kv-dtype auto --sampler torch --as bf16 --format json",
            "serve K25 --gpu H200 --gpus AUTO --engine VLLM --kv-dtype AUTO --sampler Torch --as BF16 --format JSON",
        ),
        ("serve k25 --gpu all --gpus 8 --price h200=2", "serve k25 --gpu ALL --gpus 8 --price H200=2"),
        (
            "train k25 --plan k2-pretrain --explain activations --format json",
            "train k25 --plan K2-Pretrain --explain Activations --format json",
        ),
    ],
)
def test_names_on_the_command_line_are_read_in_any_case(command: str, other: str) -> None:
    asked, same = run(*command.split()), run(*other.split())
    assert (asked.code, same.err) == (0, "")
    assert same.out == asked.out


# -- what a name means -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("kimi-k2.5", "k25 (Kimi K2.5)"),
        ("Kimi K2.5", "k25 (Kimi K2.5)"),
        ("k2.5", "k25"),
        ("Kimi-K2-Instruct", "kimi-k2 (Kimi K2)"),  # the release whose config.json it is from
        ("gemma-3-27b-it", "gemma-3-27b (Gemma 3 27B (text))"),
        ("qwen-3-32b", "qwen3-32b"),
        ("DeepSeek_V3", "deepseek-v3"),
        ("deepsek-v3", "deepseek-v3"),
        ("kimi-k2-thinknig", "kimi-k2-thinking"),
        ("k52", "k25"),
    ],
)
def test_a_model_called_otherwise_is_proposed(asked: str, meant: str) -> None:
    assert name_hint(asked, "", "a path") == f"did you mean {meant}?"


@pytest.mark.parametrize(
    "other",
    [
        *("kimi-k2.6", "k26", "kimi-k4", "qwen3-14b", "qwen2.5-72b", "llama-3.3-70b", "llama-3.1-80b", "deepseek-v2"),
        *("deepseek-r1", "deepseek-v3-base", "glm-4.6", "glm-5-air", "minimax-m2", "gemma-2-27b", "kimi-k2-base"),
        *("qwen3-coder", "qwen3-next", "gpt-oss-120b", "", "-", "..."),
    ],
)
def test_another_model_is_never_proposed(other: str) -> None:
    hint = name_hint(other, "", "a path")
    assert "did you mean" not in hint
    assert hint.startswith("bundled")


def test_the_beginning_of_names_lists_those_that_begin_so() -> None:
    assert name_hint("Llama", "", "a path").startswith(
        "bundled specs that begin so: llama-3.1-405b, llama-3.1-70b, llama-3.1-8b; or give"
    )
    assert name_hint("kimi", "", "a path").startswith("bundled specs that begin so: k25, kimi-k2,")  # by its title


@pytest.mark.parametrize(
    ("asked", "kind", "says"),
    [
        ("h200", "", "h200 is a bundled GPU: archcalc serve SPEC --gpu h200"),
        ("H200", "plans", "h200 is a bundled GPU: archcalc serve SPEC --gpu h200"),
        ("k2-pretrain", "", "k2-pretrain is a bundled plan: archcalc train SPEC --plan k2-pretrain"),
        ("k25", "hardware", "k25 is a bundled spec: archcalc params k25"),
        ("vllm", "hardware", "vllm is a bundled engine: archcalc serve SPEC --gpu NAME --engine vllm"),
        ("torch-fsdp2", "", "torch-fsdp2 is a bundled stack: a plan names it, as stack: torch-fsdp2"),
    ],
)
def test_a_name_of_another_kind_says_what_takes_it(asked: str, kind: str, says: str) -> None:
    assert name_hint(asked, kind, "a path").startswith(says)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_spec_is_found_by_its_title_and_its_repository(name: str) -> None:
    title, repository = load_spec(name).title, re.findall(r'backbone: "([\w-]+/[\w.-]+) ', text(name))[0]
    assert find(name).stem == name
    if title.lower() not in BUNDLED:
        assert name_hint(title, "", "a path").startswith(f"did you mean {name}")
    assert hub_hint(repository) == f"did you mean {name} ({title}, bundled) or hf:{repository}?"


@pytest.mark.parametrize("address", ["moonshotai/Kimi-K2.5", "https://huggingface.co/moonshotai/Kimi-K2.5"])
def test_a_repository_of_a_bundled_model_is_answered_with_both(address: str, here: Path) -> None:
    ran = run("params", address)
    assert (ran.code, ran.out) == (2, "")
    assert "hint: did you mean k25 (Kimi K2.5, bundled) or hf:moonshotai/Kimi-K2.5?" in ran.err
    assert "did you mean hf:unsloth/Kimi-K2.5?" in run("params", "unsloth/Kimi-K2.5").err  # weights of another's


# -- what a file is ----------------------------------------------------------------------------------------------------

REPORT = {"tool": "archcalc", "command": "params", "quantities": {}}
FOREIGN: dict[str, tuple[Any, str, str]] = {
    "config.json": ({"model_type": "llama", "hidden_size": 64}, "the config.json of a model", "take it as SPEC"),
    "r.json": (REPORT, "a saved report of archcalc", "archcalc diff r.json SPEC"),
    "i.json": ({"metadata": {}, "weight_map": {}}, "the index of a release's weights", "config.json beside it"),
    "g.json": ({"eos_token_id": 1, "transformers_version": "4.57"}, "the generation config", "config.json beside it"),
    "a.json": ({"peft_type": "LORA"}, "the config of an adapter", "the model that it adapts"),
    "t.json": ({"tokenizer_class": "X"}, "the config of a tokenizer", "config.json beside it"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize(
    "command",
    ["params {}", "train k25 --plan {}", "serve k25 --gpu {}", "serve k25 --gpu h200 --engine {}"],
)
def test_a_file_of_others_says_what_it_is_and_what_takes_it(name: str, command: str, here: Path) -> None:
    content, what, hint = FOREIGN[name]
    (here / name).write_text(json.dumps(content))
    if name == "config.json" and command.startswith("params"):
        return  # that is what takes it
    ran = run(*command.format(name).split())
    assert (ran.code, ran.out) == (2, "")
    assert f"{name}:1:1: error: this is {what}" in ran.err
    assert hint in ran.err.partition("hint: ")[2]
    assert ran.err.count("error: ") == 1


@pytest.mark.parametrize(
    ("command", "file", "takes"),
    [
        ("params {}", "plans/k2-pretrain", "archcalc train SPEC --plan {}"),
        ("claims {}", "hardware/h200", "archcalc serve SPEC --gpu {}"),
        ("kv {}", "engines/vllm", "archcalc serve SPEC --gpu NAME --engine {}"),
        ("train k25 --plan {}", "k25", "archcalc params {}"),
        ("serve k25 --gpu {}", "plans/k2-pretrain", "archcalc train SPEC --plan {}"),
        ("serve k25 --gpu h200 --engine {}", "hardware/h200", "archcalc serve SPEC --gpu {}"),
        ("import {}", "plans/k2-pretrain", "archcalc train SPEC --plan {}"),
    ],
)
def test_a_file_of_another_kind_says_which_command_takes_it(command: str, file: str, takes: str) -> None:
    path = str(ROOT / "specs" / f"{file}.yaml")
    ran = run(*command.format(path).split())
    assert (ran.code, ran.out) == (2, "")
    assert f"hint: {takes.format(path)}" in ran.err


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"GGUF\x03\0\0\0" + b"\0" * 100, "GGUF"),
        ((60).to_bytes(8, "little") + b'{"a": {"dtype": "F32"}}' + b"\0" * 3_000_000, "safetensors"),  # of any size
    ],
)
def test_weights_say_what_they_are(content: bytes, form: str, here: Path) -> None:
    (here / "m").write_bytes(content)
    ran = run("params", "./m")
    assert (ran.code, ran.out) == (2, "")
    assert f"this file holds weights ({form})" in ran.err
    assert "hint: the sizes of a model are in the config.json beside it" in ran.err


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("mha", "mha is gqa with num_key_value_heads = num_attention_heads"),
        ("MQA", "mqa is gqa with num_key_value_heads 1"),
        ("gdn", "gdn is gated_deltanet"),
        ("mlaa", "did you mean mla?"),
    ],
)
def test_attention_by_another_name_says_what_it_is_here(kind: str, says: str, here: Path) -> None:
    (here / "s.yaml").write_text(text("k25").replace("kind: mla", f"kind: {kind}"))
    ran = run("params", "s.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert f"hint: {says}" in ran.err


@pytest.mark.parametrize("word", ["lstm", "mamba", "gpa"])
def test_other_attention_is_no_slip_of_ours(word: str, here: Path) -> None:
    (here / "s.yaml").write_text(text("k25").replace("kind: mla", f"kind: {word}"))
    assert "hint:" not in run("params", "s.yaml").err


class Sized(Section):
    """A size in a file."""

    size: Memory


SIZES = ["80GB", "1,024MiB", "1_024MiB", "10,24MiB", "1__0GB", "0,131GB", "80G", "1.5GiB", "1,5GiB", "7"]


@pytest.mark.parametrize("size", SIZES)
def test_the_schema_takes_the_sizes_that_a_file_may_have(size: str) -> None:
    (_, written) = Sized.model_json_schema()["properties"]["size"]["anyOf"]
    try:
        read = Sized.model_validate({"size": size}).size > 0
    except ValueError:
        read = False
    assert (re.search(written["pattern"], size) is not None) == read


def test_an_empty_name_gets_the_list_and_no_guess(here: Path) -> None:
    with pytest.raises(InputError) as caught:
        find("")
    assert (caught.value.hint or "").startswith("bundled: deepseek-v3,")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("8xH200", "serve takes their number apart: --gpu h200 --gpus 8"),
        ("h200:8", "serve takes their number apart: --gpu h200 --gpus 8"),
        ("rtx3090 x 2", "serve takes their number apart: --gpu rtx3090 --gpus 2"),
        ("h200,h100", "one at a time: h200; serve --gpu all is a table of all"),
    ],
)
def test_several_gpus_in_one_word_are_told_apart(asked: str, says: str) -> None:
    assert says in name_hint(asked, "hardware", "a path")


def test_a_path_without_its_ending_and_a_bundled_name_with_one_are_told(here: Path) -> None:
    (here / "specs").mkdir()
    (here / "specs" / "mine.yaml").write_text(text("k25"))
    assert "hint: did you mean specs/mine.yaml?" in run("params", "specs/mine").err
    assert "hint: did you mean k25, which is bundled?" in run("params", "K25.yaml").err
    assert "hint: check the path" in run("params", "k26.yaml").err
