"""Command lines that can't be used: what was meant is said, and no option is hinted at that the command has not."""

from __future__ import annotations

import re

import pytest

from archcalc.cli.app import COMMANDS
from tests.support import ROOT, answered, quantities, run


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        ("k25 params", "No such command 'k25'", "the command stands first: archcalc params k25"),
        ("k25 kv --context 8k", "No such command 'k25'", "the command stands first: archcalc kv k25 --context 8k"),
        ("archcalc params k25", "No such command 'archcalc'", "the command stands first: archcalc params k25"),
        ("k25 --depth 1", "No such command 'k25'", "name a command first: archcalc params k25"),
        ("k25 --format json", "No such command 'k25'", "name a command first: archcalc card k25 --format json"),
        (f"{ROOT}/specs/k25.yaml -o x.md", "No such command", f"first: archcalc card {ROOT}/specs/k25.yaml -o x.md"),
        ("nosuch/config.json", "No such command, and no such file: 'nosuch/config.json'", "or name a spec alone"),
        ("serv k25", "No such command 'serv'", "did you mean serve?"),
        ("Params k25", "No such command 'Params'", "did you mean params?"),
        ("zzz", "No such command 'zzz'", "commands are card, params, claims,"),
        ("--format json params k25", "No such option: --format", "options stand behind the command"),
        ("kv k25 --gpu h200", "No such option: --gpu", "kv has none; "),
        ("plot kv k25 --plan k2-pretrain", "No such option: --plan", "plot kv has none; "),
        ("kv k25 --seq 8k", "No such option: --seq", "kv has none; "),
        ("kv k25 --contxt 4k", "No such option: --contxt", "did you mean --context?"),
        ("plot kv k25 --contxt 4k", "No such option: --contxt", "did you mean --context?"),
        ("kv k25 --zzz", "No such option: --zzz", "archcalc kv --help says how"),
        ("serve k25 h200", "unexpected extra argument(s) (h200)", "did you mean --gpu h200?"),
        ("serve k25 --gpu h200 H100", "unexpected extra argument(s) (H100)", "did you mean --gpu H100?"),
        ("params k25 kimi-k2", "unexpected extra argument(s) (kimi-k2)", "params takes one model at a time"),
        (
            "params k25 h200",
            "unexpected extra argument(s) (h200)",
            "archcalc params --help says how",
        ),  # it has no --gpu
        ("serve k25 --gpu", "Option '--gpu' requires an argument", "--gpu: A bundled GPU (h200), a hardware file"),
        ("train k25", "Missing option '--plan'", "bundled plans: k2-pretrain, llama-3-8b-fsdp2; or a file of yours"),
        ("serve", "Missing argument 'SPEC'", "a bundled model is a start: archcalc serve k25"),
        ("plot kv", "Missing argument 'SPEC...'", "a bundled model is a start: archcalc plot kv k25"),
        ("diff k25", "Missing argument 'HEAD'", "archcalc diff k25 mine.yaml"),
        ("kv k25 --batch 1k", "'--batch': \"1k\" is not a whole number of 1 or more", "archcalc kv --help says how"),
        ("kv k25 --batch 1,31", "'--batch': \"1,31\" is not a whole number", "archcalc kv --help says how"),
        ("kv k25 --tp 2,000,000", '"2,000,000" is not from 1 to 1,000,000', "archcalc kv --help says how"),
        ("serve k25 --gpu h200 --gpus 8x", '--gpus "8x" is neither', "write --gpus 8, or --gpus auto"),
    ],
)
def test_a_slip_says_what_was_meant(line: str, error: str, hint: str) -> None:
    ran = run(*line.split())
    assert (ran.code, ran.out) == (2, "")
    said, _, hinted = ran.err.partition("\nhint: ")
    assert error in said
    assert hint in hinted
    assert ran.err.count("\n") == 2


@pytest.mark.parametrize(
    ("line", "option", "has"),
    [
        ("kv k25 --gpu h200", "--gpu", "serve"),
        ("params k25 --plan x", "--plan", "train"),
        ("kv k25 --by x", "--by", "params"),
    ],
)
def test_commands_that_are_said_to_have_an_option_have_it(line: str, option: str, has: str) -> None:
    hint = run(*line.split()).err.partition(" has none; ")[2]
    named = re.split(", | and ", hint.rpartition(" ha")[0])
    assert has in named
    for command in named:
        assert f"{option} " in run(*command.split(), "--help").out, command


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_of_no_command_is_never_answered_with_another(name: str) -> None:
    ran = run(name, "k25", "--qqqq", "1") if name != "plot" else run(name, "kv", "k25", "--qqqq", "1")
    assert "No such option: --qqqq" in ran.err
    assert "did you mean" not in ran.err.lower()


def test_whole_numbers_are_read_as_they_are_printed() -> None:
    assert answered("kv", "k25", "--batch", "1,000") == answered("kv", "k25", "--batch", "1000")
    assert quantities("kv", "k25", "--context", "131,072") == quantities("kv", "k25", "--context", "128k")
    ran = run("serve", "k25", "--gpu", "h200", "--gpus", "1,024", "--tp", "8", "--pp", "1", "--dp", "1")
    assert "does not make 1024 GPUs" in ran.err


def test_a_small_memory_needs_its_unit_and_no_more() -> None:
    fits = quantities("kv", "k25", "--memory", "128KiB")["kv.max_tokens"]
    assert fits == 128 * 1024 // quantities("kv", "k25")["kv.bytes_per_token"]
    ran = run("kv", "k25", "--memory", "131072")
    assert (ran.code, ran.out) == (2, "")
    assert "say which unit" in ran.err


def test_a_run_of_tokens_may_be_given_with_commas() -> None:
    asked = ("flops", "k25", "--phase", "train", "--tokens")
    assert answered(*asked, "15,500,000,000") == answered(*asked, "15.5B")
