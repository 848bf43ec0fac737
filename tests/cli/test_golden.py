"""What each command prints, in full. `make golden` rewrites the files in __snapshots__; read the diff."""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.support import run, run_in_pty, terminal

pytestmark = pytest.mark.golden

PIPED = [
    "params k25",
    "params k25 --depth 2",
    "params k25 --top 5",
    "params k25 --top 2 --depth 2",
    "params k25 --by component",
    "params k25 --by role",
    "params k25 --by dtype --top 1",
    "params k25 --explain pre_norm",
    "params k25 --explain mm_projector.proj.1",
    "params k25 --explain layers.5.mlp.experts.7.up_proj",
    "params k25 --explain layers.1.self_attn",
    "params deepseek-v3 --depth 2",
    "params llama-3.1-70b",
    "params k25 --depth 1 --format json",
    "params k25 --depth 1 --format csv",
    "params k25 --depth 1 --format markdown",
    "params k25 --explain pre_norm --format csv",
    "params k25 --explain pre_norm --format markdown",
    "params k25 --explain pre_norm --format json",
    "claims k25",
    "claims k25 --format markdown",
    "claims k25 --format csv",
    "claims k25 --format json",
    "claims deepseek-v3",
    "claims kimi-k2",
    "specs",
    "specs --format csv",
    "validate k25 llama-3.1-70b",
    "plot kv k25 kimi-k2 llama-3.1-70b --context 4k..128k",
    "plot flops k25 kimi-k2 --context 4k..128k",
    "plot train k25 --plan k2-pretrain",
]

ON_SCREEN = [
    (60, "params k25"),
    (60, "params k25 --depth 2"),
    (60, "params k25 --explain layers.1.self_attn"),
    (60, "claims k25"),
    (60, "specs"),
    (100, "params k25 --depth 2"),
    (100, "claims k25"),
    (30, "params k25 --depth 3"),
    (40, "plot kv k25 kimi-k2 llama-3.1-70b --context 4k..128k"),
    (40, "plot memory k25 --gpu h200 --gpus 8 --batch 1,512"),
    (80, "plot memory k25 --gpu h200 --gpus 8 --batch 1,512"),
    (100, "plot memory k25 llama-3.1-405b --gpu h200 --gpu b200 --gpus 8 --batch 4,64"),
]


@pytest.mark.parametrize("command", PIPED)
def test_golden_output_off_a_terminal(command: str, snapshot: SnapshotAssertion) -> None:
    ran = run(*command.split())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == snapshot


@pytest.mark.parametrize(("columns", "command"), ON_SCREEN)
def test_golden_output_on_a_terminal(columns: int, command: str, snapshot: SnapshotAssertion) -> None:
    with terminal(columns) as screen:
        from archcalc.cli import main

        assert main(command.split()) == 0
    assert screen.getvalue() == snapshot


@pytest.mark.parametrize("command", ["params k25 --depth 2", "claims k25", "specs", "validate k25", "show k25"])
def test_golden_output_in_a_real_terminal(command: str, snapshot: SnapshotAssertion) -> None:
    ran = run_in_pty(60, *command.split())
    assert ran.code == 0
    assert ran.out == snapshot
