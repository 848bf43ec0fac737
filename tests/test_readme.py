"""The README's commands run as they stand there, and what it says of files and units is so."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.support import ROOT, run

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(?:sh|console)\n(.*?)```", README, re.S)
COMMANDS = re.findall(r"^(?:[$] )?(?:\.venv/bin/)?archcalc (.*)$", "\n".join(BLOCKS), re.M)
ELSEWHERE = ("hf:", "./Qwen3-32B")
"""What is not in a checkout: releases of others."""

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_there_are_commands_of_several_kinds() -> None:
    assert {"params", "serve", "train", "diff", "import"} <= {command.split()[0] for command in COMMANDS}


@pytest.mark.parametrize("command", [c for c in COMMANDS if not any(word in c for word in ELSEWHERE)])
def test_a_command_of_the_readme_works_in_a_checkout(command: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    words = shlex.split(command.replace("path/to/config.json", str(config)).replace("git:main:", ""), comments=True)
    ran = run(*words)
    assert ran.code == 0, ran.err


def test_a_new_user_gets_from_a_clone_to_whether_a_model_fits_in_two_commands(tmp_path: Path) -> None:
    block = README.partition("## Does my model fit?")[2].partition("```sh\n")[2].partition("```")[0]
    first, second = block.splitlines()
    assert first == "make run"
    words = shlex.split(second, comments=True)
    assert words[0] == ".venv/bin/archcalc"  # make run installs there and changes no PATH
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    ran = run(*words[1:2], str(tmp_path / "config.json"), *words[3:])
    assert " fits on 1 x NVIDIA H200" in ran.out.splitlines()[0]


@pytest.mark.parametrize("folder", ["specs", "specs/plans", "specs/hardware", "specs/engines"])
def test_bundled_files_lie_where_the_readme_says(folder: str) -> None:
    assert f"`{folder}`" in README or f"]({folder})" in README
    assert list((ROOT / folder).glob("*.yaml"))
