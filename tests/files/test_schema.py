"""The JSON Schema: current, draft-07, and as strict as the types."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from archcalc.documents.budgets_file import Budgets
from archcalc.documents.kinds import KINDS
from archcalc.errors import InputError
from archcalc.files.loader import parse
from archcalc.files.model import Spec
from archcalc.files.schema import schema_text
from archcalc.files.yaml_loader import load
from archcalc.units import parse_context
from tests.support import BUNDLED, ROOT, data, run, text

COMMITTED = ROOT / "schema" / "spec.schema.json"

STRUCTURE = {"$schema", "$ref", "title", "description", "definitions", "properties", "required", "default"}
SHAPES = {"type", "const", "enum", "items", "additionalProperties", "propertyNames", "allOf", "anyOf", "oneOf"}
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "minItems", "maxItems"}
BOUNDS |= {"minProperties", "maxProperties", "pattern"}
NAMES = {"properties", "patternProperties", "definitions"}
"""Keywords below which keys are names."""


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    schema = json.loads(COMMITTED.read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_is_current(kind: str) -> None:
    committed = ROOT / "schema" / f"{kind}.schema.json"
    assert committed.read_text() == run("schema", kind).out, "stale: run `make schema`"


@pytest.mark.parametrize("folder", ["plans", "hardware", "engines", "stacks"])
def test_every_other_bundled_file_is_valid_under_the_schema_that_it_points_to(folder: str) -> None:
    for path in (ROOT / "specs" / folder).glob("*.yaml"):
        modeline = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
        schema = json.loads((path.parent / modeline).read_text())
        content = load(path.read_bytes(), str(path)).data
        assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(content)] == []


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_spec_is_valid_under_the_committed_schema(
    name: str, validator: jsonschema.Draft7Validator
) -> None:
    assert [error.message for error in validator.iter_errors(data(name))] == []


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_spec_points_editors_to_the_schema(name: str) -> None:
    assert text(name).splitlines()[0] == "# yaml-language-server: $schema=../schema/spec.schema.json"


def test_only_draft_07_keywords_are_used() -> None:
    def keywords(node: Any, inside_properties: bool = False) -> set[str]:
        if isinstance(node, list):
            return {key for item in node for key in keywords(item)}
        if not isinstance(node, dict):
            return set()
        own = set() if inside_properties else set(node)
        return own | {k for key, value in node.items() for k in keywords(value, key in NAMES)}

    assert keywords(json.loads(COMMITTED.read_text())) <= STRUCTURE | SHAPES | BOUNDS | NAMES


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("backbone", "hidden_size"), -1),
        (("backbone", "hidden_size"), "big"),
        (("backbone", "hidden_sise"), 7168),
        (("backbone", "attention", "mla", "kind"), "mal"),
        (("storage", "routed_experts"), {"scheme": "plain", "dtype": "bfloat16"}),
        (("kind",), "plan"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(
    path: tuple[str, ...], value: Any, validator: jsonschema.Draft7Validator
) -> None:
    content = data("k25")
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert not validator.is_valid(content)


def test_the_schema_command_prints_and_writes_the_committed_file(tmp_path: Any) -> None:
    assert run("schema").out == COMMITTED.read_text()
    ran = run("schema", "spec", "-o", str(tmp_path / "x.json"))
    assert (ran.code, ran.out, (tmp_path / "x.json").read_text()) == (0, "", COMMITTED.read_text())


def test_an_unknown_kind_is_an_error_with_the_near_miss() -> None:
    with pytest.raises(InputError) as caught:
        schema_text("spce", {"spec": Spec})
    assert caught.value.hint == "did you mean spec?"


@pytest.mark.parametrize("words", ["131072", "131,072", "131_072", "128k", "0.5k", "128 Ki", "128KiB", "1M"])
def test_a_length_may_be_written_under_the_schema_as_it_is_read(words: str) -> None:
    schema = json.loads((ROOT / "schema" / "budgets.schema.json").read_text())
    budgets = {"budgets": [{"spec": "k25", "quantity": "kv.sequence_bytes", "max": "1TiB", "context": words}]}
    assert parse(json.dumps(budgets), "budgets.yaml", Budgets).budgets[0].context == parse_context(words)
    jsonschema.Draft7Validator(schema).validate(budgets)
