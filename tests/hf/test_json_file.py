"""Strict JSON: what is read, where it stands, what is refused and where, and that no input upsets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from math import inf, isnan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.errors import InputError
from archcalc.hf.json_file import MAX_DEPTH, load, read
from archcalc.limits import JSON_BYTES
from tests.files.test_yaml_loader import place_of

CONFIG = """{
  "model_type": "kimi_k2",
  "layers": [1, {"kind": "full", "size": 4096}],
  "text_config": {"hidden_size": 7168, "names": ["a", "b"]}
}
"""


def refusal(text: str | bytes) -> InputError:
    """The error that a text gives."""
    with pytest.raises(InputError) as caught:
        load(text, "c.json")
    return caught.value


def test_values_are_those_of_json() -> None:
    text = (
        '{"i": -7, "big": 9223372036854775807, "f": 1e-6, "t": true, "n": null, "s": "\\ud83d\\ude00 \\u00e9", "l": []}'
    )
    data = load(text, "c.json").data
    assert data == json.loads(text)
    assert [type(value) for value in data.values()] == [int, int, float, bool, type(None), str, list]


def test_what_python_writes_of_numbers_that_are_none_is_read() -> None:
    document = load('{"a": [0.0, Infinity, -Infinity],\n "b": NaN, "c": 7}', "c.json")
    assert document.data["a"] == [0.0, inf, -inf]
    assert isnan(document.data["b"])
    assert document.position(("c",)) == (2, 17)


# ----------------------------------------------------------------------------------------------- positions


def test_every_value_and_every_key_has_a_position() -> None:
    document = load(CONFIG, "c.json")
    assert document.position(("text_config", "hidden_size"), key=True) == place_of(CONFIG, '"hidden_size"')
    assert document.position(("text_config", "hidden_size")) == place_of(CONFIG, "7168")
    assert document.position(("layers", 1, "size")) == place_of(CONFIG, "4096")
    assert document.position(("layers", 1)) == place_of(CONFIG, '{"kind"')
    assert document.position(("text_config", "names", 1)) == place_of(CONFIG, '"b"')
    assert document.position(("text_config", "absent")) == place_of(CONFIG, '{"hidden_size"')  # the nearest there is
    assert document.position(()) == (1, 1)
    assert document.name(("layers", 1, "absent")) == "layers[1]"


def test_a_problem_has_its_line_and_its_second_place() -> None:
    problem = load(CONFIG, "c.json").problem(
        "too wide", ("text_config", "hidden_size"), related=[(("layers",), "here")]
    )
    assert (problem.line, problem.column) == place_of(CONFIG, "7168")
    assert problem.snippet == CONFIG.split("\n")[3]
    assert (problem.related[0].line, problem.related[0].column) == (3, 3)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_like(end: str) -> None:
    assert load(CONFIG.replace("\n", end), "c.json").position(("layers", 1, "size")) == place_of(CONFIG, "4096")


def test_brackets_commas_and_quotes_inside_text_are_text() -> None:
    text = r'{"a\"{[,:": "}],\\", "b": ["\u007d", {"c": 1}]}'
    assert load(text, "c.json").position(("b", 1, "c")) == place_of(text, "1}")
    assert load(text, "c.json").position(('a"{[,:',)) == place_of(text, '"}]')


def everywhere(data: Any, loc: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))
    return [(loc, data)] + [found for key, value in items for found in everywhere(value, (*loc, key))]


LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    LEAF | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(data=st.dictionaries(st.text(), VALUES, max_size=5), indent=st.sampled_from([None, 1]), escape=st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_stands_at_each_position_is_the_value(data: dict[str, Any], indent: int | None, escape: bool) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=escape)
    document = load(text.encode(), "c.json")
    assert document.data == data
    lines = text.split("\n")
    for loc, value in everywhere(data):
        line, column = document.position(loc)
        rest = "\n".join([lines[line - 1][column - 1 :], *lines[line:]])
        assert json.JSONDecoder().raw_decode(rest)[0] == value


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "says", "place"),
    [
        ("hello", "this is not JSON", "hello"),
        ("{", "the file ends too early", None),
        ('{"a": [1, 2', "the file ends too early", None),
        ('{"a": 1,}', "a comma before a closing bracket", ",}"),
        ('{"a": [1, 2,\n]}', "a comma before a closing bracket", ",\n"),
        ('{"a": 1 // one\n}', "comments are not allowed", "//"),
        ('{# x\n"a": 1}', "comments are not allowed", "#"),
        ('{"a": /* x */ 1}', "comments are not allowed", "/*"),
        ("{'a': 1}", "double quotes", "'a'"),
        ("{a: 1}", "a key must be text in double quotes", "a:"),
        ('{"a": True}', "true, false and null", "True"),
        ('{"a": nan}', "a number that is none", "nan"),
        ('{"a": +Infinity}', "a number that is none", "+Inf"),
        ('{"NaN": -Infinity, "a": 1e999}', "beyond 1.8e308", "1e"),
        ('{"a": 1e999}', "beyond 1.8e308", "1e"),
        ('{"a": 01}', "how JSON writes a number", "1}"),
        ('{"a": .5}', "how JSON writes a number", ".5"),
        ('{"a": 1_000}', "how JSON writes a number", "_"),
        ('{"a": [1 2]}', "expected a comma", "2]"),
        ('{"a" 1}', "expected a colon", "1}"),
        ('{"a": }', "expected a value", "}"),
        ('{"a": "x}', "never closed", '"x'),
        ('{"a": "x\ny"}', "line break", "\n"),
        (r'{"a": "\q"}', "this escape", r"\q"),
        ('{"a": 1}\n{"b": 2}', "text after the end", '{"b"'),
        ('{"a": {"b": 1, "c": 2, "b" : 3}}', "duplicate key `b`", '"b" '),
        ('{"b": 1, "\\u0062": 2}', "duplicate key `b`", '"\\u0062'),
        ('{"a": 9223372036854775808}', "beyond 2^63", "922"),
        ('{"a": -9223372036854775809}', "beyond 2^63", "-922"),
        ('{"a": [' + "9" * 5000 + "]}", "more than 4,300 digits", "999"),
        ('{"a": 1.' + "0" * 5000 + "}", "more than 4,300 digits", "1."),
        (r'{"a": ["\ud83d\ude00", "\ud800"]}', "half a character", r'"\ud800'),
        (r'{"a\udc00": 1}', "half a character", '"a'),
        (' [{"a": 1}]', "must hold an object", "[{"),
        ('"a"', "must hold an object", '"a"'),
        ("null", "must hold an object", "null"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer", "version"),
        ("<!DOCTYPE html><html>", "web page", "<!"),
        ("\ufeff{}", "byte order mark", "\ufeff"),
    ],
    ids=lambda value: value[:16].replace("\n", "|") if isinstance(value, str) else "",
)
def test_an_error_says_what_and_where(text: str, says: str, place: str | None) -> None:
    error = refusal(text)
    assert says in error.message
    assert len(error.problems) == 1
    assert (error.line, error.column) == (place_of(text, place) if place else (1, len(text) + 1))
    assert error.source == "c.json"


def test_a_doubled_key_names_both_places() -> None:
    text = '{"a": 1,\n "b": {"a": 2},\n "a": 3}'
    (problem,) = refusal(text).problems
    assert (problem.line, problem.column) == (3, 2)
    assert [(place.line, place.column, place.message) for place in problem.related] == [(1, 2, "first given here")]


@pytest.mark.parametrize("text", ["", " \n\t\r\n"])
def test_an_empty_file_is_called_empty(text: str) -> None:
    assert "is empty" in refusal(text).message


@pytest.mark.parametrize(
    ("raw", "says", "place"),
    [
        ('{"a": 1}'.encode("utf-16"), "binary", None),
        ('{"a": 1}'.encode("utf-16-le"), "binary", None),
        (b"\x7fELF\0\0", "binary", None),
        ('{\n"a": "é"}'.encode("latin-1"), "byte 0xe9 is not UTF-8", (2, 7)),
        (b'{"a": "\xed\xa0\x80"}', "is not UTF-8", (1, 8)),  # a surrogate, encoded
        (b"\xef\xbb\xbf{}", "byte order mark", (1, 1)),
    ],
)
def test_bytes_that_are_no_utf_8_text(raw: bytes, says: str, place: tuple[int, int] | None) -> None:
    error = refusal(raw)
    assert says in error.message
    assert (error.line, error.column) == (place or (None, None))
    assert "UTF-8" in (error.hint or "")


@pytest.mark.parametrize("kind", ["list", "object"])
def test_nesting_has_a_limit(kind: str) -> None:
    def nested(levels: int) -> str:
        inside = levels - 1  # the top is a level too
        return (
            '{"a":' + ("[" * inside + "]" * inside if kind == "list" else '{"a":' * inside + "1" + "}" * inside) + "}"
        )

    assert load(nested(MAX_DEPTH), "c.json").data
    for levels in (MAX_DEPTH + 1, 500, 10_000, 100_000):
        error = refusal(nested(levels))
        assert error.message == "more than 64 levels of nesting"
        assert error.column == (69 if kind == "list" else 5 * 64 + 1)


def test_an_unclosed_tower_of_brackets_is_one_error_too() -> None:
    assert "64 levels" in refusal("[" * 1_000_000).message
    assert "64 levels" in refusal('{"a":' * 100_000).message


def test_a_file_of_more_values_than_anybody_means_is_refused() -> None:
    assert "1,000,000 values" in refusal('{"a": [' + "[]," * 1_000_001 + "1]}").message


PIECES = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    "\\",
    "a",
    '"a"',
    "1",
    "-",
    ".",
    "e9",
    "\n",
    " ",
    "NaN",
    "\\ud800",
    "//",
    "'",
    "\ufeff",
    "é",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@settings(max_examples=600, deadline=None)
def test_no_text_upsets_it(text: str) -> None:
    found = outcome(text)
    if not isinstance(found, InputError):
        assert repr(found) == repr(json.loads(text))  # NaN is unlike itself
    elif found.line is not None:
        lines = text.split("\n")
        assert 1 <= found.line <= len(lines)
        assert 1 <= (found.column or 0) <= len(lines[found.line - 1]) + 1
        assert found.render()


def outcome(text: str) -> Any:
    """What a text says, or the error that it gives."""
    try:
        return load(text, "c.json").data
    except InputError as error:
        return error


# ----------------------------------------------------------------------------------------------------- files


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    document = read(tmp_path / "config.json")
    assert document.source == str(tmp_path / "config.json")
    assert read(tmp_path / "config.json", source="hf:o/m/config.json").source == "hf:o/m/config.json"


def unreadable(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path, source="shown.json")
    assert caught.value.source == "shown.json"
    return caught.value


def test_what_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    assert unreadable(tmp_path / "none.json").message == "no such file"
    assert unreadable(tmp_path).message == "this is a directory"
    assert unreadable(tmp_path).hint == "name the config.json inside it"
    (tmp_path / "loop.json").symlink_to("loop.json")
    assert "symbolic links" in unreadable(tmp_path / "loop.json").message
    assert "not a usable path" in unreadable(tmp_path / "a\0b").message


def test_a_pipe_is_read_and_a_device_without_end_is_too_large(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(CONFIG,))
    writer.start()
    assert read(pipe).data["model_type"] == "kimi_k2"
    writer.join()
    assert unreadable(Path("/dev/zero")).message == "the file is larger than 16 MiB"


def test_a_file_of_100_mb_is_never_in_memory(tmp_path: Path) -> None:
    large = tmp_path / "config.json"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    code = (
        "import resource, sys\n"
        "from archcalc.errors import InputError\n"
        "from archcalc.hf.json_file import read\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read(sys.argv[1])\n"
        "except InputError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, large], capture_output=True, text=True, check=True, timeout=60)
    says, grown = done.stdout.splitlines()
    assert says == f"{large}: the file is larger than 16 MiB"
    assert int(grown) < 3 * JSON_BYTES.most // 1024  # KiB


def test_an_index_of_megabytes_reads_as_fast_as_the_parser() -> None:
    names = {
        f"model.layers.{i}.mlp.experts.{e}.up_proj.weight": f"model-{i:05}-of-00061.safetensors"
        for i in range(61)
        for e in range(600)
    }
    raw = json.dumps({"metadata": {"total_size": 1}, "weight_map": names}, indent=2).encode()
    assert len(raw) > 3_000_000
    start = time.process_time()
    document = load(raw, "index.json")
    took = time.process_time() - start
    assert len(document.data["weight_map"]) == 36_600
    assert took < 0.3
    assert document.position(("weight_map", "model.layers.60.mlp.experts.599.up_proj.weight")) == (36_605, 55)
