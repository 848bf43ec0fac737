"""Every key of every file is described: as data, in the schema and on a page of docs/reference/, all the same words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest

from archcalc.documents.keys import reference
from archcalc.documents.kinds import KINDS, models
from archcalc.files.schema import described, schema_of, schema_text
from archcalc.section import Section
from archcalc.training.optimizer import OPTIMIZERS
from archcalc.training.savers import FP8, FULL, OFFLOAD, RECOMPUTE
from archcalc.training.schedule import SCHEDULES
from tests.support import ROOT, run

PAGES = ROOT / "docs" / "reference"


def sections(annotation: Any) -> Iterator[type[Section]]:
    """A section and all that its fields may hold."""
    found: dict[type[Section], None] = {}

    def walk(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, Section):
            if kind in found:
                return
            found[kind] = None
            for field in kind.model_fields.values():
                walk(field.annotation)
        for inner in get_args(kind):
            walk(inner)

    walk(annotation)
    yield from found


ALL = list(dict.fromkeys(section for model in models().values() for section in sections(model)))


@pytest.mark.parametrize("section", ALL, ids=lambda section: section.__name__)
def test_a_section_describes_itself_and_exactly_the_keys_that_it_has(section: type[Section]) -> None:
    assert vars(section)["about"].text
    assert list(described(section)) == list(section.model_fields)


def test_sections_are_found_by_type() -> None:
    assert {"Spec", "MLA", "Rule", "Fsdp", "Links", "MoeKernels", "Workspace", "Carried"} <= {s.__name__ for s in ALL}


def properties(node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every property of a schema, wherever it stands."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from properties(value)
    if isinstance(node, dict) and node.get("type") == "object" and "properties" in node:
        yield from node["properties"].items()


@pytest.mark.parametrize("kind", KINDS)
def test_every_property_of_a_schema_has_a_description(kind: str) -> None:
    schema = json.loads((ROOT / "schema" / f"{kind}.schema.json").read_text())
    found = list(properties(schema))
    assert {"kind"} < {name for name, _ in found}
    assert [name for name, value in found if not value.get("description")] == []
    assert [name for name, node in schema.get("definitions", {}).items() if not node.get("description")] == []


def test_a_description_is_a_fragment_whose_unit_stands_last() -> None:
    for section in ALL:
        for key, text in described(section).items():
            assert re.fullmatch(r"[A-Z`].*[^.\s]", text), (section, key)
            assert not re.search(r"\[[a-z /,]+\](?!$)", text), (section, key)


def test_nothing_stands_beside_a_reference() -> None:
    """Draft-07 reads nothing beside `$ref`: an editor would not show the description."""

    def lone(node: Any) -> bool:
        if isinstance(node, list):
            return all(map(lone, node))
        return not isinstance(node, dict) or (("$ref" not in node or len(node) == 1) and all(map(lone, node.values())))

    assert [kind for kind in KINDS if not lone(schema_of(kind, models()))] == []


def test_nothing_depends_on_docstrings() -> None:
    """`python -OO` has none, and prints the same schemas, pages and explanations."""
    explained = ["params", "k25", "--explain", "layers.1.self_attn"]
    code = f"""
from archcalc.cli import main
for kind in {list(KINDS)}:
    main(["schema", kind])
    main(["schema", kind, "--format", "markdown"])
main({explained})
"""
    ran = subprocess.run(
        [sys.executable, "-OO", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    texts = [make(kind, models()) for kind in KINDS for make in (schema_text, reference)]
    assert ran.stdout == "".join(texts) + run(*explained).out


# ------------------------------------------------------------------------------------------------------ the pages


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_current(kind: str) -> None:
    assert (PAGES / f"{kind}.md").read_text() == run("schema", kind, "--format", "markdown").out, "run `make schema`"


def test_there_is_no_other_page() -> None:
    assert {path.stem for path in PAGES.iterdir()} == set(KINDS)


def anchors(text: str) -> list[str]:
    """The anchors that GitHub gives a page's headings: letters, digits, hyphens and underscores in lower case."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return ["".join(c for c in h.lower().replace(" ", "-") if c.isalnum() or c in "-_") for h in headings]


@pytest.mark.parametrize("page", [*PAGES.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda page: page.stem)
def test_every_link_to_a_section_arrives(page: Any) -> None:
    for file, anchor in re.findall(r"\]\(((?:reference/)?[\w-]*(?:\.md)?)#([^)\s]+)\)", page.read_text()):
        target = page.parent / file if file else page
        assert anchors(target.read_text()).count(anchor) == 1, (file, anchor)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_a_row_for_every_key_of_every_section(kind: str) -> None:
    page = (PAGES / f"{kind}.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert rows == [key for section in in_order(kind) for key in section["properties"]]


def in_order(kind: str) -> list[Mapping[str, Any]]:
    """The sections of a schema in the order of a page: each below the first one that holds it."""
    schema = schema_of(kind, models())
    found: dict[str, Any] = {"": schema}

    def walk(node: Any) -> None:
        for name in re.findall(r'"#/definitions/(\w+)"', json.dumps(node.get("properties", {}))):
            if name not in found:
                found[name] = schema["definitions"][name]
                walk(found[name])

    walk(schema)
    return list(found.values())


def row(kind: str, heading: str, key: str) -> tuple[str, ...]:
    """The cells of a key."""
    section = (PAGES / f"{kind}.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"^\| `{key}` \| (.*) \| (.*) \| (.*) \| (.*) \|$", section, re.M)
    return tuple(found)


def test_a_row_says_type_default_unit_and_meaning() -> None:
    assert row("plan", "`fsdp`", "prefetch")[:3] == ("integer above 0", "`1`", "")
    assert row("plan", "`parallel`", "layout")[:3] == ("`auto` or list: integer from 0", "*needed*", "")
    assert row("hardware", "`links`", "pcie_bytes_per_s") == ("integer above 0", "*needed*", "bytes/s", "To the host")
    assert row("spec", "`backbone.attention.NAME`: `gqa`", "sliding_window")[:3] == (
        "integer above 0 or null",
        "none",
        "tokens",
    )
    assert row("spec", "The file", "projector")[0] == (
        "[`patch_merger`](#projector-patch_merger), [`merger`](#projector-merger) or null"
    )
    assert row("engine", "`activation.sampler`", "torch")[0] == "list of 2: integer from 0"


WORDS = [
    ("schedule", "kind", SCHEDULES),
    ("precision", "optimizer", OPTIMIZERS),
    ("activations", "recompute", (FULL, *RECOMPUTE)),
    ("activations", "fp8", FP8),
    ("activations", "offload", ("none", "all", *OFFLOAD)),
]
"""Keys of a plan whose values are names in tables of the code, which no type lists."""


@pytest.mark.parametrize(("section", "key", "words"), WORDS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_key_that_takes_names_lists_them_all(section: str, key: str, words: Any) -> None:
    told = set(re.findall(r"`([\w-]+)`", row("plan", f"`{section}`", key)[3]))
    assert set(words) <= told


def test_the_page_of_a_kind_is_written_by_its_ending(tmp_path: Any) -> None:
    assert run("schema", "plan", "-o", str(tmp_path / "plan.md")).code == 0
    assert (tmp_path / "plan.md").read_text() == (PAGES / "plan.md").read_text()
    assert run("schema", "plan", "--format", "csv").code == 2
