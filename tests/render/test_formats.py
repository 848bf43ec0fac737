"""One report in every format: raw where machines read, rounded where people do, harmless everywhere."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.documents.claims import claims
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.params import params_report
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.render import ENDINGS, FORMATS, renderer
from archcalc.render.json import document
from archcalc.render.table import drawn
from archcalc.render.terminal import painted
from archcalc.render.terminal import render as on_terminal
from tests.support import spec_of, tiny

ANSI = re.compile("\x1b\\[[0-9;]*m")


def report(**more: Any) -> Report:
    columns = (
        Column("path", "module"),
        Column("n", "parameters", "count"),
        Column("b", "size", "bytes"),
        Column("ok", "fits", "bool"),
        Column("why", "why", "prose"),
    )
    place = {"template": "a", "indices": [], "experts": 0}  # for JSON alone
    rows = [
        {"path": "a", "label": "top", "depth": 0, "n": 10_000_000, "b": 2**31, "ok": True, "why": "because", **place},
        {"path": "a.b", "label": "below", "depth": 1, "n": None, "b": 0, "ok": False, "why": None},
    ]
    settings = {
        "command": "params",
        "title": "A title",
        "inputs": {"spec": "x"},
        "quantities": {"params.total": 2**53 + 1, "moe.activation_ratio": 0.5},
        "rows": Table("rows", "the rows", columns, rows, note="a note"),
        "notes": ("first", "second"),
    }
    return Report(**(settings | more))


def test_the_table_aligns_numbers_right_and_indents_by_depth() -> None:
    assert renderer("table")(report(), "gib").splitlines() == [
        "A title",
        "  total                        9,007,199,254,740,993  9,007T",
        "  routed experts a token uses                 50.0 %",
        "",
        "the rows",
        "module   parameters      size  fits",
        "-----------------------------------",
        "top      10,000,000  2.00 GiB  yes",
        "    why: because",
        "  below                   0 B  no",
        "a note",
        "",
        "notes: first",
        "       second",
    ]


def test_units_change_bytes_only() -> None:
    text = renderer("table")(report(), "gb")
    assert "2.15 GB" in text  # 2^31 = 2,147,483,648
    assert "10,000,000" in text
    assert "2,147,483,648 B" in renderer("table")(report(), "bytes")


def test_json_holds_raw_values_and_text_of_what_floats_would_lose() -> None:
    read = json.loads(renderer("json")(report(), "gib"))
    assert read["quantities"]["params.total"] == 9007199254740993
    assert read["exact"] == {"params.total": "9007199254740993"}
    assert read["rows"][0]["b"] == 2**31
    assert (read["format_version"], read["tool"], read["command"]) == (1, "archcalc", "params")


@pytest.mark.parametrize("made", [lambda s: params_report(s), lambda s: claims(s)], ids=["params", "claims"])
@pytest.mark.parametrize("name", ["k25", "llama-3.1-70b"])
def test_json_round_trips(made: Any, name: str) -> None:
    made_report = made(load_spec(name))
    text = renderer("json")(made_report, "gib")
    assert json.loads(text) == document(made_report)
    assert text.isascii()
    assert "".join(json.dumps(json.loads(text), sort_keys=True).split()) == "".join(text.split())
    assert not re.search(r"\[\n *\d", text)  # lists of numbers stand on one line


def test_text_that_looks_like_a_list_stays_as_it_is() -> None:
    notes = ["[\n 1,\n 2\n]", "[ 1, 2 ]"]
    assert json.loads(renderer("json")(report(notes=notes), "gib"))["notes"] == notes


def test_csv_holds_what_people_see_and_then_everything_else() -> None:
    lines = list(csv.reader(io.StringIO(renderer("csv")(report(), "gib"))))
    assert lines == [
        ["path", "n", "b", "ok", "why", "depth"],
        ["a", "10000000", "2147483648", "true", "because", "0"],
        ["a.b", "", "0", "false", "", "1"],
    ]


def test_csv_of_a_report_without_rows_lists_the_quantities() -> None:
    assert renderer("csv")(report(rows=None), "gib").splitlines()[1] == "params.total,9007199254740993"


def test_csv_of_claims_has_source_and_raw_numbers() -> None:
    lines = list(csv.DictReader(io.StringIO(renderer("csv")(claims(load_spec("k25")), "gib"))))
    (row,) = (line for line in lines if line["printed"] == "9216")
    assert (row["claimed"], row["computed"], row["quantity"]) == ("9216", "2304", "params[mm_projector.pre_norm]")
    assert row["source"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_csv_starts_no_formula(start: str) -> None:
    text = renderer("csv")(report(rows=Table("rows", "t", (Column("path", "p"),), [{"path": f"{start}1+1"}])), "gib")
    assert text.splitlines()[1] == f"'{start}1+1"


def test_markdown_aligns_numbers_and_folds_nothing_away() -> None:
    text = renderer("markdown")(report(), "gib")
    assert "| module | parameters | size | fits | why |\n| --- | ---: | ---: | --- | --- |" in text
    assert "| &emsp;below |  | 0 B | no |  |" in text
    assert text.startswith("## A title\n")


def test_a_table_without_rows_is_not_drawn() -> None:
    empty = report(rows=Table("rows", "nothing here", (Column("path", "p"),), []))
    for name in ("table", "markdown"):
        assert "nothing here" not in renderer(name)(empty, "gib")


def test_every_format_has_a_renderer_and_every_ending_a_format() -> None:
    for name in FORMATS:
        assert renderer(name)(report(), "gib")
    assert set(ENDINGS.values()) <= set(FORMATS)


@pytest.mark.parametrize(("name", "hint"), [("jsn", "did you mean json?"), ("yaml", "one of table, json")])
def test_an_unknown_format_is_an_error_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        renderer(name)
    assert hint in (caught.value.hint or "")


# -- the terminal -----------------------------------------------------------------------------------------------------


def test_a_terminal_shows_the_same_text_in_colour() -> None:
    made = claims(load_spec("k25"))
    plain = [line.rstrip() for line in ANSI.sub("", on_terminal(made, "gib", width=None, color=True)).splitlines()]
    assert plain == renderer("table")(made, "gib").splitlines()


def test_verdicts_have_their_colours() -> None:
    shown = on_terminal(claims(load_spec("k25")), "gib", width=200, color=True)
    assert re.search("\x1b\\[31mrefuted *\x1b\\[0m", shown)
    assert re.search("\x1b\\[33mconvention *\x1b\\[0m", shown)
    assert painted("   ", "bold") == "   "
    assert painted("x", "no style") == "x"


@pytest.mark.parametrize("width", [1, 5, 20, 40, 60, 80, 100])
@pytest.mark.parametrize("name", ["k25", "deepseek-v3"])
def test_nothing_is_wider_than_the_terminal(width: int, name: str) -> None:
    spec = load_spec(name)
    for made in (params_report(spec), claims(spec)):
        lines = on_terminal(made, "gib", width=width, color=False).splitlines()
        assert max(map(len, lines)) <= max(width, 30)  # a name and its number are not left out


def test_columns_that_do_not_fit_are_named() -> None:
    text = on_terminal(params_report(load_spec("k25")), "gib", width=60, color=False)
    assert "too narrow for: shape, x, dtype" in text
    assert "too narrow" not in on_terminal(params_report(load_spec("k25")), "gib", width=200, color=False)


def test_at_sixty_columns_whole_names_and_exact_counts_are_left() -> None:
    lines = on_terminal(params_report(load_spec("k25")), "gib", width=60, color=False).splitlines()
    assert any(re.fullmatch(r" +q_a_layernorm\.weight +1,536 +<0\.1 %", line) for line in lines)


# -- hostile text -----------------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "a|b|c",
    "`code` **bold** _it_ [link](http://x) ![i](y) # ~~s~~",
    "two\nlines\r\nmore",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b2J",
    "\u202eright to left\u2066",
    "=cmd|' /C calc'!A0",
    "]]></x>",
    "\t tab \x00 nul",
    "日本語 " * 20,
    "x" * 2000,
]


def hostile(value: str) -> dict[str, Any]:
    content = tiny()
    content |= {"name": value, "title": value, "sources": {"backbone": value, value: value}}
    content["claims"] = [
        {"claim": value, "quantity": "params.total", "value": v, "source": value} for v in ("1", "3688", None)
    ]
    for section in ("attention", "ffn"):
        blocks = content["backbone"][section]
        content["backbone"][section] = {f"{value}{name}": block for name, block in blocks.items()}
    for pattern in content["backbone"]["layers"]:
        pattern |= {"attention": value + pattern["attention"], "ffn": value + pattern["ffn"]}
    return content


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("format_name", ["table", "csv", "markdown", "json", "github"])
def test_text_from_a_file_harms_no_reader(value: str, format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    spec = spec_of(hostile(value))
    for made in (params_report(spec), claims(spec)):
        check_harmless(renderer(format_name)(made, "gib"), format_name)


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=10, deadline=None)
def test_any_text_from_a_file_harms_no_reader(value: str) -> None:
    made = claims(spec_of(hostile(value)))
    for format_name in ("table", "csv", "markdown", "json"):
        check_harmless(renderer(format_name)(made, "gib"), format_name)
    assert drawn(made, "gib", 40, painted)


def check_harmless(text: str, format_name: str) -> None:
    assert text.replace("\n", "").isprintable()
    if format_name == "json":
        json.loads(text)
    elif format_name == "csv":
        width = {len(line) for line in csv.reader(io.StringIO(text))}
        assert len(width) == 1
    elif format_name == "markdown":
        assert not re.search(r"<(?!br)", text)  # no tag can begin
        for line in text.splitlines():
            if line.startswith("| "):
                cells = re.split(r"(?<!\\)\|", line)
                assert len(cells) in (5, 6, 8, 10), (
                    line
                )  # quantities, params, claims: no pipe of a cell is taken for a border
            assert not re.search(r"(?<!\\)[`_\[\]~]", line), line
