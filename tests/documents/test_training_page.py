"""docs/training.md explains every key of a plan, and its examples are plans that run, as README's commands do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from archcalc.files.loader import bundled_dir
from archcalc.section import Section
from archcalc.training.activations import Activations
from archcalc.training.optimizer import OPTIMIZERS
from archcalc.training.pictures import Pictures
from archcalc.training.plan import Plan
from archcalc.training.savers import FP8, FULL, OFFLOAD, RECOMPUTE
from archcalc.training.schedule import SCHEDULES
from archcalc.training.stack import FOLDER
from tests.support import ROOT, run

PAGE = (ROOT / "docs" / "training.md").read_text()
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^archcalc (train .*)$", README, re.M)
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


def sections(model: type[Section], name: str = "") -> Iterator[tuple[str, type[Section]]]:
    """A section of a plan and those in it, by the key that each stands under."""
    yield name, model
    for key, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section) and not issubclass(kind, Pictures):
                yield from sections(kind, key)


SECTIONS = dict(sections(Plan))


def table(name: str) -> str:
    """What stands under a section's heading."""
    heading = f"### `{name}`" if name else "### The plan"
    return PAGE.partition(f"\n{heading}\n")[2].partition("\n##")[0]


def test_sections_are_found_by_type() -> None:
    assert {"", "parallel", "schedule", "batch", "precision", "train", "activations", "vision", "memory"} <= set(
        SECTIONS
    )


@pytest.mark.parametrize("name", SECTIONS)
def test_the_page_explains_every_key(name: str) -> None:
    keys = [key for key in SECTIONS[name].model_fields if key not in SECTIONS]
    explained = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table(name), re.M)))
    assert [key for key in keys if key not in explained] == []


@pytest.mark.parametrize("name", [name for name in SECTIONS if name])
def test_the_page_says_every_default(name: str) -> None:
    """A number or a word that stands where a key is left out is in the key's row; what has none is needed."""
    for key, field in SECTIONS[name].model_fields.items():
        row = next(line for line in table(name).splitlines() if re.match(rf"\| [^|]*`{key}`", line))
        if field.is_required():
            assert "needed" in row, key
        elif isinstance(field.default, bool):
            assert str(field.default).lower() in row, key
        elif field.default is not None:
            assert str(field.default) in row, key


def words() -> dict[str, Any]:
    """Closed lists of names, by where they stand in the page."""
    return {
        "schedule": SCHEDULES,
        "precision": OPTIMIZERS,
        "activations": (FULL, *RECOMPUTE, *FP8, *OFFLOAD, *get_args(Activations.model_fields["core"].annotation)),
    }


@pytest.mark.parametrize("name", words())
def test_the_page_has_every_name_that_a_key_takes(name: str) -> None:
    assert [word for word in words()[name] if f"`{word}`" not in table(name)] == []


def test_the_page_lists_every_stack() -> None:
    names = {path.stem for path in (bundled_dir() / FOLDER).glob("*.yaml")}
    assert names == set(
        re.findall(r"^\| `([\w.+-]+)` \|", PAGE.partition("\n## Stacks\n")[2].partition("\n## ")[0], re.M)
    )


def test_optimizers_have_the_bytes_of_the_table() -> None:
    for name, made in OPTIMIZERS.items():
        (cell,) = re.findall(rf"^\| `{name}` \| ([^|]*) \|", table("precision"), re.M)
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
