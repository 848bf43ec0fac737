"""`show` and `import` write files that are the start of one's own, each with the schema that its first line names."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from archcalc.files.loader import bundled_dir
from tests.support import Ran, run, text

SCHEMA = "# yaml-language-server: $schema="
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 128,
    "max_position_embeddings": 2048,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("show", "k25"), "spec"),
        (("show", "k2-pretrain", "--kind", "plan"), "plan"),
        (("show", "h200", "--kind", "hardware"), "hardware"),
        (("show", "vllm"), "engine"),
        (("show", "torch-fsdp2"), "stack"),
        (("import", "config.json"), "spec"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_copy_names_a_schema_that_is_beside_it_and_takes_it(
    arguments: tuple[str, ...], kind: str, here: Path
) -> None:
    (here / "config.json").write_text(json.dumps(CONFIG))
    ran = run(*arguments, "-o", "mine/own.yaml")
    assert ran == Ran(0, "", f"wrote mine/own.yaml\nwrote mine/{kind}.schema.json\n")
    copy = (here / "mine" / "own.yaml").read_text()
    first = copy.splitlines()[0]
    assert first.startswith(SCHEMA)
    schema = json.loads((here / "mine" / first.removeprefix(SCHEMA)).read_text())
    assert schema["title"] == f"archcalc {kind}"
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load(copy))
    assert run("validate", "mine/own.yaml").code == 0
    assert run(*arguments).out == copy.partition("\n")[2]  # where stdout goes nobody knows


def test_a_copy_beside_the_schema_that_the_original_names_keeps_the_path(here: Path) -> None:
    (here / "schema").mkdir()
    assert run("schema", "spec", "-o", "schema/spec.schema.json").code == 0
    assert run("show", "k25", "-o", "mine/own.yaml") == Ran(0, "", "wrote mine/own.yaml\n")
    assert (here / "mine" / "own.yaml").read_text() == text("k25")


def test_a_second_copy_writes_the_schema_no_second_time(here: Path) -> None:
    assert run("show", "h200", "-o", "a.yaml").code == 0
    assert run("show", "h100", "-o", "b.yaml") == Ran(0, "", "wrote b.yaml\n")
    assert run("show", "h100", "-o", "b.yaml").code == 0  # it says the same


@pytest.mark.parametrize("other", ["own.yaml", "hardware.schema.json"])
def test_another_file_is_never_written_over_unless_that_is_asked_for(other: str, here: Path) -> None:
    (here / other).write_text("kind: hardware\nname: of two days of work\n")
    ran = run("show", "h200", "-o", "own.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {other} is there already, and says something else\nhint: ")
    assert (here / other).read_text() == "kind: hardware\nname: of two days of work\n"
    assert sorted(path.name for path in here.iterdir()) == sorted({"mine", other})
    assert run("show", "h200", "-o", "own.yaml", "--force").code == 0
    assert run("validate", "own.yaml").code == 0


def test_import_asks_too(here: Path) -> None:
    (here / "config.json").write_text(json.dumps(CONFIG))
    assert run("import", "config.json", "-o", "own.yaml").code == 0
    (here / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 256}))
    before = (here / "own.yaml").read_text()
    assert run("import", "config.json", "-o", "own.yaml").code == 2
    assert (here / "own.yaml").read_text() == before
    assert run("import", "config.json", "-o", "own.yaml", "--force").code == 0
    assert "vocab_size: 256" in (here / "own.yaml").read_text()


def test_a_file_of_ones_own_is_printed_as_it_is(here: Path) -> None:
    own = f"{SCHEMA}elsewhere.json\n" + (bundled_dir() / "hardware" / "l4.yaml").read_text().partition("\n")[2]
    (here / "own.yaml").write_text(own)
    assert run("show", "own.yaml").out == own


def test_what_is_no_file_gets_the_text_alone(here: Path) -> None:
    assert run("show", "l4", "-o", "/dev/null").code == 0
    assert run("show", "l4", "-o", "-") == run("show", "l4")
    assert sorted(path.name for path in here.iterdir()) == ["mine"]
