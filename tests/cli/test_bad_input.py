"""Specs that are wrong: one clear error with its place, the right exit code, never a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.support import Ran, run, text


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, in which the spec is `s.yaml` whatever machine it is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edited(pattern: str, replacement: str, spec: str = "k25") -> str:
    changed, count = re.subn(pattern, replacement, text(spec), count=1, flags=re.MULTILINE)
    assert count == 1, pattern
    return changed


HIDDEN = r"^  hidden_size: 7168.*"

BAD = {
    "negative": edited(HIDDEN, "  hidden_size: -1"),
    "zero": edited(HIDDEN, "  hidden_size: 0"),
    "text": edited(HIDDEN, '  hidden_size: "big"'),
    "typo": edited(HIDDEN, "  hidden_sise: 7168"),
    "dash": edited(HIDDEN, "  hidden-size: 7168"),
    "duplicate": edited(HIDDEN, "  hidden_size: 7168\n  hidden_size: 7169"),
    "overflow": edited(HIDDEN, "  hidden_size: 1e9999"),
    "nan": edited(HIDDEN, "  hidden_size: .nan"),
    "fraction": edited(HIDDEN, "  hidden_size: 7168.5"),
    "whole float": edited(HIDDEN, "  hidden_size: 7168.0"),
    "bool": edited(HIDDEN, "  hidden_size: true"),
    "null": edited(HIDDEN, "  hidden_size:"),
    "list": edited(HIDDEN, "  hidden_size: [7168]"),
    "thousands": edited(HIDDEN, "  hidden_size: 7_168"),
    "enormous": edited(HIDDEN, "  hidden_size: 99999999999999999999"),
    "missing": edited(HIDDEN + "\n", ""),
    "extra": edited(HIDDEN, "  hidden_size: 7168\n  head_dim: 128"),
    "optional typo": edited(r"^vision:", "visoin:"),
    "section missing": edited(r"^projector:\n(  .*\n)+", ""),
    "storage missing": edited(r"^  default: .*\n", ""),
    "storage role": edited(r"^  routed_expert:", "  routed_experts:"),
    "scheme": edited(r"scheme: pack-quantized", "scheme: pack-quantised"),
    "scheme missing": edited(r"scheme: pack-quantized, ", ""),
    "kind": edited(r"^      kind: mla", "      kind: mal"),
    "kind missing": edited(r"^      kind: mla\n", ""),
    "plan": edited(r"^kind: spec", "kind: plan"),
    "layer sum": edited(r"count: 60", "count: 59"),
    "layer name": edited(r"count: 60, attention: mla", "count: 60, attention: mal"),
    "unused block": edited(r"count: 1, attention: mla, ffn: dense", "count: 1, attention: mla, ffn: moe"),
    "layer bomb": edited(r"count: 60", "count: 6000000000"),
    "top k": edited(r"num_experts_per_tok: 8", "num_experts_per_tok: 400"),
    "groups": edited(r"n_group: 1$", "n_group: 7"),
    "tower heads": edited(r"vt_num_attention_heads: 16", "vt_num_attention_heads: 17"),
    "merge window": edited(r"merge_kernel_size: \[2, 2\]", "merge_kernel_size: [3, 2]"),
    "merge rank": edited(r"merge_kernel_size: \[2, 2\]", "merge_kernel_size: [2]"),
    "tower width": edited(r"mm_hidden_size: 1152", "mm_hidden_size: 1024"),
    "text width": edited(r"text_hidden_size: 7168", "text_hidden_size: 4096"),
    "grouped heads": edited(r"num_key_value_heads: 8", "num_key_value_heads: 7", "llama-3.1-70b"),
    "claim value": edited(r'value: "9216"', 'value: "many"'),
    "claim number": edited(r'value: "9216"', "value: 9216"),
    "infinite": edited(r"rope_theta: 50000.0", "rope_theta: .inf"),
    "empty name": edited(r"^name: k25", 'name: ""'),
    "not a mapping": "- 1\n- 2\n",
    "scalar": "hello\n",
    "unclosed": "[[[[",
    "tab": "a:\n\tb: 1\n",
    "alias": "a: &a 1\nb: *a\n",
    "tag": 'a: !!python/object/apply:os.system ["touch pwned"]\n',
    "merge key": "a: {<<: {b: 1}}\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "deep": "a: " + "[" * 5000 + "]" * 5000,
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}' if i > 1 else '*a'] * 9)}]\n" for i in range(1, 9)),
    "empty": "",
    "comment": "# nothing\n",
}


@pytest.mark.parametrize("name", BAD)
def test_golden_error_of_a_bad_spec(name: str, here: Path, snapshot: SnapshotAssertion) -> None:
    (here / "s.yaml").write_text(BAD[name])
    ran = run("params", "s.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    if BAD[name] not in ("", "# nothing\n"):
        assert re.match(r"s\.yaml:[0-9]+:[0-9]+: error: ", ran.err)
    assert ran.err == snapshot
    assert not (here / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a" * 3_000_000, "larger than 1 MiB"),
        (b"\x00\x01\x02", "binary"),
        ("kind: spec".encode("utf-16"), "binary"),
        (b"a: \xff\xfe", "not UTF-8"),
        (b"a: \x1b[31m", "U\\+001B"),
    ],
)
def test_files_that_are_no_text_of_ours(content: bytes, says: str, here: Path) -> None:
    (here / "s.yaml").write_bytes(content)
    ran = run("params", "s.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert re.search(says, ran.err)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("none.yaml", "none.yaml: error: no such file"),
        ("folder/none", "no such file"),
        ("k52", "did you mean k25?"),
        ("gpt", "bundled: deepseek-v3, deepseek-v3.2, gemma-3-27b"),
        ("", "no file and no bundled spec"),
        (".", ".: error: this folder has no config.json"),
        ("folder", "this folder has no config.json"),
        ("folder/", "this folder has no config.json"),
        ("a" * 5000, 'aaa..."'),
        ("a" * 5000 + ".yaml", "File name too long"),
        ("a\0b.yaml", "not a usable path"),
        ("\x1b[31m", "\\x1b[31m"),
    ],
    ids=lambda value: value[:12].replace("\0", "0").replace("\x1b", "e"),
)
def test_arguments_that_name_no_spec(argument: str, says: str, here: Path) -> None:
    (here / "folder").mkdir()
    for command in ("params", "claims", "show", "validate"):
        ran = run(command, argument)
        assert (ran.code, ran.out) == (2, "")
        assert says in ran.err
        assert ran.err.replace("\n", "").isprintable()


def test_an_unreadable_file_is_one_error(here: Path) -> None:
    (here / "s.yaml").symlink_to("s.yaml")
    ran = run("params", "s.yaml")
    assert ran.code == 2
    assert "can't read this file: Too many levels of symbolic links" in ran.err


def test_a_folder_does_not_hide_a_bundled_spec_but_a_file_does(here: Path) -> None:
    (here / "k25").mkdir()
    assert run("params", "k25").code == 0
    (here / "kimi-k2").write_text("a: 1")
    assert "kimi-k2:1:1: error: " in run("params", "kimi-k2").err


def test_a_dash_reads_stdin() -> None:
    assert run("params", "-", stdin=text("k25")).out == run("params", "k25").out
    ran = run("params", "-", stdin=BAD["negative"])
    assert ran.err.startswith("<stdin>:")


# -- validate ---------------------------------------------------------------------------------------------------------


def validate(here: Path, **files: str) -> Ran:
    for name, content in files.items():
        (here / f"{name}.yaml").write_text(content)
    return run("validate", *(f"{name}.yaml" for name in files))


def test_validate_tells_a_valid_spec_by_its_title() -> None:
    assert run("validate", "k25") == Ran(0, "k25: valid (Kimi K2.5)\n", "")


def test_validate_exits_1_for_an_invalid_spec_and_2_for_one_that_cant_be_read(here: Path) -> None:
    assert validate(here, a=BAD["negative"]).code == 1
    assert validate(here, a=BAD["unclosed"]).code == 2
    assert validate(here, a=BAD["plan"]).code == 1
    assert run("validate", "missing.yaml").code == 2


def test_validate_goes_on_to_the_end_and_exits_with_the_worst(here: Path) -> None:
    ran = validate(here, a=BAD["negative"], b=text("k25"), c=BAD["unclosed"], d=BAD["typo"])
    assert ran.code == 2
    assert ran.out == "b.yaml: valid (Kimi K2.5)\n"
    assert [line.split(":")[0] for line in ran.err.splitlines() if ": error: " in line] == [
        "a.yaml",
        "c.yaml",
        "d.yaml",
    ]


def test_validate_reports_every_error_of_a_file(here: Path) -> None:
    broken = BAD["negative"].replace("q_lora_rank: 1536", "q_lora_rank: 0").replace("patch_size: 14", "patch_size: x")
    ran = validate(here, a=broken)
    assert ran.err.count(": error: ") == 3


def test_a_title_is_printed_harmless(here: Path) -> None:
    ran = validate(here, a=text("k25").replace("title: Kimi K2.5", 'title: "\\e[31mred"'))
    assert ran.out == "a.yaml: valid (\\x1b[31mred)\n"


@pytest.mark.parametrize("command", ["claims", "validate"])
def test_a_claim_about_no_quantity_is_shown_where_it_stands(command: str, here: Path) -> None:
    (here / "s.yaml").write_text(edited(r"quantity: params\.vision", "quantity: params.vison"))
    ran = run(command, "s.yaml")
    assert ran.code == (1 if command == "validate" else 2)
    line = (here / "s.yaml").read_text().split("\n").index("    quantity: params.vison") + 1
    assert ran.err.startswith(f"s.yaml:{line}:15: error: a claim is about params.vison")
    assert "did you mean params.vision?" in ran.err


def test_a_claim_about_no_part_is_shown_where_it_stands(here: Path) -> None:
    (here / "s.yaml").write_text(edited(r"mm_projector\.proj\.0", "mm_projector.porj.0"))
    assert re.match(r"s\.yaml:[0-9]+:15: error: no part is at mm_projector\.porj\.0", run("claims", "s.yaml").err)


def test_claims_strict_exits_1_and_still_prints_them_all() -> None:
    ran = run("claims", "k25", "--strict")
    assert (ran.code, ran.out) == (1, run("claims", "k25").out)
    assert ran.err == "error: 6 of 12 claims refuted\n"
    assert run("claims", "llama-3.1-70b", "--strict").code == 0


def test_explain_goes_without_the_flags_of_the_tree() -> None:
    for flag in (["--top", "1"], ["--depth", "1"], ["--by", "role"]):
        ran = run("params", "k25", "--explain", "pre_norm", *flag)
        assert (ran.code, ran.out) == (2, "")
        assert "--explain shows one part" in ran.err


def test_an_internal_error_is_called_our_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("boom \x1b[31m")

    monkeypatch.setattr("archcalc.documents.params.params_report", broken)
    ran = run("params", "k25")
    assert ran.code == 3
    assert ran.err.startswith("internal error: RuntimeError: boom \\x1b[31m\nhint: this is a bug of archcalc")
    monkeypatch.setenv("ARCHCALC_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        run("params", "k25")


def test_ctrl_c_while_a_compiled_module_loads_is_no_bug_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def loading(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:  # as pybind11's PYBIND11_CATCH_INIT_EXCEPTIONS does
            raise ImportError("initialization failed") from stop

    monkeypatch.setattr("archcalc.documents.params.params_report", loading)
    assert (ran := run("params", "k25")).code == 130
    assert (ran.out, ran.err) == ("", "")
