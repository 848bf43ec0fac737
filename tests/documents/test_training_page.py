"""The examples of docs/training.md are plans that run, as README's commands do. Keys: tests/documents/test_keys.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from archcalc.files.loader import bundled_dir
from archcalc.training.optimizer import OPTIMIZERS
from archcalc.training.stack import FOLDER
from tests.support import ROOT, run

PAGE = (ROOT / "docs" / "training.md").read_text()
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^archcalc (train .*)$", README, re.M)
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


def test_the_page_lists_every_stack() -> None:
    names = {path.stem for path in (bundled_dir() / FOLDER).glob("*.yaml")}
    assert names == set(
        re.findall(r"^\| `([\w.+-]+)` \|", PAGE.partition("\n## Stacks\n")[2].partition("\n## ")[0], re.M)
    )


def test_optimizers_have_the_bytes_of_the_table() -> None:
    for name, made in OPTIMIZERS.items():
        (cell,) = re.findall(rf"^\| `{name}` \| ([^|]*) \|", PAGE, re.M)
        matrices = made.moments if made.matrix_moments is None else made.matrix_moments
        assert cell.startswith(f"{made.master}, {matrices}"), name
        assert made.matrix_moments is None or str(made.moments) in cell.partition(";")[2], name


@pytest.mark.parametrize("example", EXAMPLES, ids=[text.split()[5] for text in EXAMPLES])
def test_an_example_runs_and_fits(example: str, tmp_path: Path) -> None:
    *_, model, option, file = example.splitlines()[0].split()
    path = tmp_path / file
    path.write_text(example)
    ran = run("train", model, option, str(path), "--check")
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_training_command_of_the_readme_works(command: str) -> None:
    ran = run(*shlex.split(command, comments=True))
    assert ran.code == 0, ran.err


def test_the_readme_shows_what_train_prints() -> None:
    (command, shown) = re.findall(r"[$] archcalc (train .*)\n((?:.*\n)*?)```", README)[0]
    printed = run(*shlex.split(command)).out
    for line in shown.splitlines():
        assert line.strip() == "..." or line.removesuffix("...") in printed
