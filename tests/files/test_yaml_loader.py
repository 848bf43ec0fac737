"""The strict YAML loader: what it reads, what it refuses and where, and that no input upsets it."""

from __future__ import annotations

import builtins
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from archcalc.errors import FieldError, InputError, SpecError
from archcalc.files.schema_errors import problems_from_pydantic
from archcalc.files.yaml_loader import MAX_BYTES, MAX_DEPTH, Document, load, read
from archcalc.units import parse_memory

K25 = Path(__file__).parents[2] / "specs" / "k25.yaml"


@pytest.fixture(params=["libyaml", "pure Python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers that PyYAML may come with."""
    if request.param == "pure Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("this PyYAML has no libyaml")
    return str(request.param)


def refusal(text: str | bytes) -> InputError:
    """The error that a text gives."""
    with pytest.raises(InputError) as caught:
        load(text, "s.yaml")
    return caught.value


def place_of(text: str, needle: str, nth: int = 0) -> tuple[int, int]:
    """Line and column, from 1, of the nth occurrence of a piece of text."""
    at = -1
    for _ in range(nth + 1):
        at = text.index(needle, at + 1)
    before = text[:at]
    return before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1


# ------------------------------------------------------------------------------------------------- scalars


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("9:30", "9:30"),
        ("2001-01-01", "2001-01-01"),
        ("1_000", "1_000"),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("+", "+"),
        ("-0x1F", "-0x1F"),
        ("0x", "0x"),
        ("0b11", "0b11"),
        ("٣", "٣"),
        ("1٣", "1٣"),
        ('"7168"', "7168"),
        ("'null'", "null"),
        ("010", 10),
        ("+12", 12),
        ("-3", -3),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1e9", 1e9),
        ("5.", 5.0),
        ("-.5", -0.5),
        ("6.02E+23", 6.02e23),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    loaded = load(f"k: {text}", "s.yaml").data["k"]
    assert loaded == value
    assert type(loaded) is type(value)


def test_nan_is_read() -> None:
    assert math.isnan(load("k: .nan", "s.yaml").data["k"])


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("number", ["1e9999", "-1e9999", "9" * 5000, "0x" + "f" * 5000, "1." + "0" * 5000])
def test_a_number_out_of_any_range_is_refused_where_it_stands(number: str) -> None:
    error = refusal(f"a: 1\nk: {number}")
    assert (error.line, error.column) == (2, 4)


@pytest.mark.usefixtures("parser")
def test_the_bundled_spec_reads_the_same_as_with_pyyaml() -> None:
    # it uses nothing that YAML 1.1 and 1.2 read differently
    assert load(K25.read_bytes(), "k25").data == yaml.safe_load(K25.read_text())


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    document = load("\ufeffa: 1\r\nb:\r\n  c: 2\r\n".encode(), "s.yaml")
    assert document.data == {"a": 1, "b": {"c": 2}}
    assert document.position(("b", "c")) == (3, 6)
    assert document.line(3) == "  c: 2"


# ----------------------------------------------------------------------------------------------- positions


@pytest.mark.usefixtures("parser")
def test_every_value_and_every_key_has_a_position() -> None:
    text = K25.read_text()
    document = load(text, "k25")
    line, column = place_of(text, "hidden_size: 7168")
    assert document.position(("backbone", "hidden_size"), key=True) == (line, column)
    assert document.position(("backbone", "hidden_size")) == (line, column + len("hidden_size: "))
    assert document.position(("backbone", "layers", 1, "count")) == place_of(text, "60, attention")
    assert document.position(("vision", "merge_kernel_size", 1)) == place_of(text, "2]")
    assert document.position(("backbone",), key=True) == place_of(text, "backbone:", 1)
    assert document.line(line) == "  hidden_size: 7168"


def test_union_tags_in_a_path_are_skipped() -> None:
    text = K25.read_text()
    document = load(text, "k25")
    place = place_of(text, "512\n")
    assert document.position(("backbone", "attention", "mla", "kv_lora_rank")) == place
    # pydantic names the union's member after its key
    assert document.position(("backbone", "attention", "mla", "mla", "kv_lora_rank")) == place
    assert document.position(("function-after[f(), Spec]", "backbone", "Decoder", "hidden_size")) == place_of(
        text, "7168\n"
    )


def test_a_path_that_does_not_exist_falls_back_to_its_nearest_ancestor() -> None:
    document = load("a:\n  b: {c: 1}\n", "s.yaml")
    assert document.position(("a", "b", "missing", 3)) == (2, 6)
    assert document.position(("a", "b", "missing"), key=True) == (2, 3)
    assert document.position(("missing",)) == (1, 1)
    assert document.position(("a", "b", "c", "deeper")) == (2, 10)
    assert document.name(("a", "tag", "b", "missing")) == "a.b"
    assert document.value(("a", "tag", "b", "missing")) == {"c": 1}


def test_lines_are_counted_from_one() -> None:
    document = load("a: 1\nb: 2", "s.yaml")
    assert [document.line(number) for number in (0, 1, 2, 3)] == [None, "a: 1", "b: 2", None]


def test_a_problem_can_name_a_second_place() -> None:
    document = load("heads: 3\nsize: 10\n", "s.yaml")
    problem = document.problem("they disagree", ("size",), related=[(("heads",), "heads is given here")])
    assert (problem.line, problem.column, problem.snippet) == (2, 7, "size: 10")
    assert [(place.line, place.column, place.snippet) for place in problem.related] == [(1, 8, "heads: 3")]


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.usefixtures("parser")
def test_a_doubled_key_is_refused_with_both_positions() -> None:
    error = refusal("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n")
    assert error.message == "duplicate key `c`"
    assert (error.line, error.column) == (5, 3)
    (first,) = error.problems[0].related
    assert (first.line, first.column, first.snippet) == (3, 3, "  c: 1")


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: &x 1", 1, 4, "anchors (`&x`)"),
        ("a: &x {b: 1}", 1, 4, "anchors (`&x`)"),
        ("b: 1\na: *x", 2, 4, "aliases (`*x`)"),
        ("*x : 1", 1, 1, "aliases (`*x`)"),
        ("a: !!str b", 1, 4, "tags (`!!str`)"),
        ("a: ! b", 1, 4, "tags (`!`)"),
        ('a: !!python/object/apply:os.system ["exit 1"]', 1, 4, "tags (`!!python/object/apply:os.system`)"),
        ("a:\n  <<: {b: 1}", 2, 3, "merge keys"),
        ("a:\n  1: b", 2, 3, "a key must be text, not 1"),
        ("true: b", 1, 1, "a key must be text, not true"),
        ("null: b", 1, 1, "a key must be text, not null"),
        ("? [a]\n: b", 1, 3, "a key must be plain text"),
        ("{{a: b}: c}", 1, 2, "a key must be plain text"),
        ("a: 1\n---\nb: 2", 2, 1, "a second document"),
        ("- 1\n- 2", 1, 1, "must hold `key: value` lines, not a list"),
        ("word", 1, 1, 'must hold `key: value` lines, not "word"'),
        ("a: b: c", 1, 5, "a `key:` can't stand here"),
        ("a: 1\n  b: 2", 2, 4, "a `key:` can't stand here"),
        ("a: - b", 1, 4, "a list item can't stand here"),
        ("a:\n\tb: 1", 2, 1, "a tab can't be used for indentation"),
        ("a: @b", 1, 4, "can't start with this character"),
        ("b: 1\nword\nc: 2", 2, 1, "expected a colon"),
        ("a: [1, 2\nb: 3", 2, 2, "expected `,` or `]`"),
        ("a: {b: 1, c", 1, 4, "this bracket is never closed"),
        ("a:\n  b: [[1, 2], [3,\n\n", 2, 15, "this bracket is never closed"),
        ('a: "b\nc: 1\n', 1, 4, "this quoted text is never closed"),
        ("b: 1\na: !\n\n\n", 2, 4, "tags (`!`)"),
        ("a:\n  b: 1\n  - 2\n\n", 3, 3, "this line doesn't fit its section"),
        ('a: "b" c', 1, 8, "unexpected text after the value"),
        ("a:\n  - 1\n - 2", 3, 2, "this line doesn't fit its section"),
        ("a: |x\n b", 1, 5, "this block text has a wrong header"),
        ("a: \x1b[0m", 1, 4, "U+001B"),
        ("a: 1\nb: c\u2028d", 2, 5, "U+2028"),
        ("a: \ud800", 1, 4, "U+D800"),
    ],
)
def test_what_is_not_allowed_is_refused_where_it_stands(text: str, line: int, column: int, says: str) -> None:
    error = refusal(text)
    assert says in error.message
    assert (error.line, error.column) == (line, column)
    assert error.source == "s.yaml"


@pytest.mark.usefixtures("parser")
def test_a_refused_key_is_one_problem_and_its_value_is_dropped() -> None:
    assert len(refusal("*x : 1\nb: 2").problems) == 1
    assert len(refusal("1: {c: 1}\nb: 2").problems) == 1


@pytest.mark.usefixtures("parser")
def test_half_a_character_is_refused_since_it_could_never_be_printed() -> None:
    assert refusal('a: 1\nb: "\\ud800"').line == 2


def test_a_quoted_merge_sign_is_an_ordinary_key() -> None:
    assert load('"<<": 1', "s.yaml").data == {"<<": 1}


@pytest.mark.usefixtures("parser")
def test_a_file_that_breaks_off_is_refused_at_its_last_line_with_text() -> None:
    assert refusal("[\n\n\n").line == 1
    assert refusal("a: 1\nb: [\n# end\n\n\n").line == 2
    assert refusal("%YAML 1.1\n\n\n").line == 1


@pytest.mark.usefixtures("parser")
def test_a_tag_runs_no_code(tmp_path: Path) -> None:
    refusal(f'a: !!python/object/apply:os.system ["touch {tmp_path}/pwned"]')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("parser")
def test_several_refusals_come_in_one_error_in_the_order_of_the_file() -> None:
    error = refusal("a: &x 1\na: 2\nb: *x\nc: [")
    assert [(problem.line, problem.column) for problem in error.problems] == [(1, 4), (2, 1), (3, 4), (4, 4)]


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "---\n", "\ufeff"])
def test_an_empty_file_is_said_to_be_empty(text: str) -> None:
    assert refusal(text).message == "the file is empty"


@pytest.mark.usefixtures("parser")
def test_sixty_four_levels_are_read_and_one_more_is_not() -> None:
    deepest = MAX_DEPTH - 1  # the mapping at the top is the first level
    load("a: " + "[" * deepest + "]" * deepest, "s.yaml")
    error = refusal("a: " + "[" * (deepest + 1) + "]" * (deepest + 1))
    assert error.message == "more than 64 levels of nesting"
    assert (error.line, error.column) == (1, len("a: ") + deepest + 1)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("opening", ["[", "{", "{a: ", "- ", "? ", "[a, "])
def test_thousands_of_levels_are_refused_at_once(opening: str) -> None:
    start = time.perf_counter()
    assert "levels of nesting" in refusal(opening * 5000).message
    assert time.perf_counter() - start < 5  # milliseconds in fact; a quadratic parser would take minutes


@pytest.mark.usefixtures("parser")
def test_a_bomb_of_aliases_stays_small() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]" for n in range(1, 9)]
    error = refusal("\n".join(lines))
    assert "anchors" in error.message
    assert len(error.problems) == 50


@pytest.mark.parametrize("raw", [b"a: \xe9", b"k: 1\na: \xc3("])
def test_bytes_that_are_not_utf_8_are_refused_where_they_stand(raw: bytes) -> None:
    error = refusal(raw)
    assert "not UTF-8" in error.message
    assert (error.line, error.column) == (raw.count(b"\n") + 1, 4)


@pytest.mark.parametrize("raw", [b"a: \0", "a: 1".encode("utf-16"), "日本".encode("utf-16"), bytes(range(256))])
def test_binary_files_are_refused(raw: bytes) -> None:
    assert "binary" in refusal(raw).message


# -------------------------------------------------------------------------------------------------- reading


def unreadable(path: str | Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.hint
    assert caught.value.source == str(path)
    return caught.value


def test_a_readable_file_is_read_whole() -> None:
    assert read(K25) == K25.read_bytes()


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    assert unreadable(tmp_path / "none.yaml").message == "no such file"
    assert unreadable(tmp_path).message == "this is a directory"
    assert "can't read" in unreadable(K25 / "x.yaml").message  # a file where a directory should be
    assert "can't read" in unreadable("a\0b").message
    assert "can't read" in unreadable("n" * 5000).message


def test_a_file_without_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(builtins, "open", refuse)  # root may read anything, so chmod would prove nothing
    assert "no permission" in unreadable("s.yaml").message


def test_a_file_of_one_mebibyte_is_read_and_a_larger_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read(path)) == MAX_BYTES
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    assert "larger than 1 MiB" in unreadable(path).message
    assert "larger than 1 MiB" in refusal(path.read_bytes()).message


def test_binary_files_are_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\x7fELF\0\0")
    assert "binary" in unreadable(path).message


# -------------------------------------------------------------------------------------------------- fuzzing


def load_or_refuse(text: str | bytes) -> None:
    """Anything but a document with a mapping or a well-formed InputError fails the test."""
    document, refused = None, None
    try:
        document = load(text, "s.yaml")
    except InputError as error:
        refused = error
    if refused is not None:
        assert refused.render().replace("\n", "").isprintable()
        for problem in refused.problems:
            assert problem.line is None or (problem.line >= 1 and (problem.column or 0) >= 1)
    else:
        assert document is not None
        assert isinstance(document.data, dict)
        assert document.position(()) >= (1, 1)


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_no_text_makes_the_loader_raise_anything_else(text: str) -> None:
    load_or_refuse(text)


INDICATORS = st.sampled_from(
    [*"[]{}:,-?&*!|>'\"%@`#~\\\n \t\r", "a", "b: ", "- ", "<<: ", "---\n", "...\n", "%YAML 1.1\n"]
)


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(INDICATORS, max_size=25), pure=st.booleans())
def test_no_heap_of_indicators_makes_the_loader_raise_anything_else(pieces: list[str], pure: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if pure:
            patch.delattr(yaml, "CSafeLoader", raising=False)
        load_or_refuse("".join(pieces))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), pure=st.booleans())
def test_no_mutation_of_a_spec_makes_the_loader_raise_anything_else(seed: int, pure: bool) -> None:
    dice, spec = random.Random(seed), bytearray(K25.read_bytes()[:2500])
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(spec))
        spec[at : at + dice.randint(0, 3)] = dice.choice(
            [
                b"",
                b"[",
                b"}",
                b":",
                b"\n",
                b"\t",
                b"'",
                b'"',
                b"&",
                b"!",
                b"\xff",
                b"\0",
                bytes([dice.randrange(256)]),
            ]
        )
    with pytest.MonkeyPatch.context() as patch:
        if pure:
            patch.delattr(yaml, "CSafeLoader", raising=False)
        load_or_refuse(bytes(spec))


@settings(max_examples=50, deadline=None)
@given(
    data=st.dictionaries(
        st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(10**30), 10**30)
            | st.text(st.characters(codec="ascii", exclude_characters="\x7f")),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
            max_leaves=8,
        ),
        min_size=1,
    )
)
def test_what_json_writes_the_loader_reads_back(data: dict[str, Any]) -> None:
    assert load(json.dumps(data, ensure_ascii=False), "s.yaml").data == data


# -------------------------------------------------------------------------------------------- schema errors


class Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Latent(Section):
    kind: Literal["mla"]
    kv_lora_rank: PositiveInt
    q_lora_rank: int | None


class Grouped(Section):
    kind: Literal["gqa"]
    qk_norm: Literal["per_head", "full"] | None
    attention_bias: bool


class Sizes(Section):
    hidden_size: PositiveInt
    num_heads: PositiveInt
    head_dim: PositiveInt
    theta: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    kernel: list[int] = Field(default=[2, 2], min_length=2)
    either: int | str = 0

    @model_validator(mode="after")
    def heads_fit(self) -> Sizes:
        if self.num_heads * self.head_dim != self.hidden_size:
            raise FieldError("heads don't fit", "hidden_size", "num_heads", "head_dim", hint="check them")
        return self


class Whole(Section):
    kind: Literal["spec"]
    sizes: Sizes
    attention: dict[str, Annotated[Latent | Grouped, Field(discriminator="kind")]] = {}
    storage: dict[Literal["default", "router_bias"], str] = {}
    memory: str = "1GiB"

    @field_validator("memory")
    @classmethod
    def is_a_size(cls, value: str) -> str:
        parse_memory(value)
        return value


SIZES = "kind: spec\nsizes: {hidden_size: 8, num_heads: 2, head_dim: 4}\n"


def schema_refusal(text: str, known_keys: Callable[[tuple[str | int, ...]], Iterable[str]] | None = None) -> SpecError:
    document: Document = load(text, "s.yaml")
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(document.data)
    return problems_from_pydantic(caught.value.errors(include_url=False), document, known_keys)


@pytest.mark.parametrize(
    ("marked", "message", "hint"),  # § stands before the place that the error should point at
    [
        (SIZES.replace("8", "§-1"), "hidden_size must be greater than 0", None),
        (SIZES.replace("8", "§big"), 'hidden_size must be an integer, not "big"', None),
        (SIZES.replace("8", '§"8"'), 'hidden_size must be an integer, not "8"', "write 8, without quotes"),
        (SIZES.replace("8", "§7_168"), 'hidden_size must be an integer, not "7_168"', "write 7168"),
        (SIZES.replace("8", "§256k"), 'hidden_size must be an integer, not "256k"', "all digits"),
        (SIZES.replace("8", "§8.5"), "hidden_size must be an integer, not 8.5", None),
        (SIZES.replace("8", "§8e3"), "hidden_size must be an integer, not 8000.0", "write 8000"),
        (SIZES.replace("8", "§true"), "hidden_size must be an integer, not true", None),
        (SIZES.replace("8", "§.nan"), "hidden_size must be an integer, not .nan", None),
        (
            "kind: spec\nsizes:\n  num_heads: 2\n  head_dim: 4\n  hidden_size:§",
            "hidden_size must be an integer, not null",
            None,
        ),
        (SIZES.replace("4}", "4, theta: §.inf}"), "theta must be a finite number", None),
        (SIZES.replace("4}", "4, §kernel: [1]}"), "kernel must have at least 2 items", None),
        (SIZES.replace("4}", "4, kernel: [1, §x]}"), 'kernel[1] must be an integer, not "x"', None),
        (SIZES.replace("4}", "4, either: §1.5}"), "either must be an integer or text, not 1.5", None),
        (SIZES.replace("spec", "§spek"), 'kind must be `spec`, not "spek"', "did you mean spec?"),
        ("kind: spec\nsizes: §3", "sizes must be a mapping, not 3", "`key: value` lines"),
        ("§kind: spec", "missing key `sizes`", None),
        ("kind: spec\n§sizes: {num_heads: 2, head_dim: 4}", "missing key `hidden_size` in `sizes`", None),
        (SIZES.replace("}", ", §x: 1}"), "unknown key `x`", None),
        (
            SIZES.replace("hidden_size", "§hidden_sise"),
            "unknown key `hidden_sise`",
            "did you mean hidden_size?",
        ),
        (SIZES + "memory: §80G", 'memory: "80G" is not a memory size', "GiB"),
        (SIZES + "memory: §80", "memory must be text, not 80", "put it in quotes"),
        (SIZES + "storage: {§defalt: a}", "unknown key `defalt`", "did you mean default?"),
        (SIZES + "attention: {a: {kind: §mlaa}}", 'kind must be `mla` or `gqa`, not "mlaa"', "mean mla?"),
        (SIZES + "attention: {§a: {}}", "missing key `kind` in `attention.a`", None),
        (SIZES + "attention: {a: {§knd: mla}}", "unknown key `knd`", "did you mean kind?"),
        (
            SIZES + "attention:\n  mla: {kind: mla, kv_lora_rank: §0, q_lora_rank: null}",
            "kv_lora_rank must be greater than 0",
            None,
        ),
        (
            SIZES + "attention:\n  §mla: {kind: mla, q_lora_rank: null}",
            "missing key `kv_lora_rank` in `attention.mla`",
            None,
        ),
        (
            SIZES + "attention:\n  a: {kind: gqa, qk_norm: §ful, attention_bias: true}",
            'qk_norm must be `per_head` or `full`, not "ful"',
            "did you mean full?",
        ),
        (
            SIZES + "attention:\n  a: {kind: gqa, qk_norm: null, attention_bias: §no}",
            'attention_bias must be true or false, not "no"',
            "write true or false",
        ),
    ],
)
def test_schema_errors_are_told_in_our_words_at_their_place(marked: str, message: str, hint: str | None) -> None:
    text, place = marked.replace("§", ""), place_of(marked, "§")
    error = schema_refusal(text)
    assert [problem.message for problem in error.problems] == [message]
    assert (error.line, error.column) == place
    assert (error.hint is None) if hint is None else (hint in (error.hint or ""))
    assert error.snippet == text.splitlines()[place[0] - 1]


def test_fields_that_disagree_are_named_with_all_their_positions() -> None:
    error = schema_refusal("kind: spec\nsizes:\n  hidden_size: 9\n  num_heads: 2\n  head_dim: 4\n")
    assert (error.message, error.line, error.column, error.hint) == ("heads don't fit", 3, 16, "check them")
    places = [(place.line, place.column, place.message) for place in error.problems[0].related]
    assert places == [(4, 14, "num_heads is given here"), (5, 13, "head_dim is given here")]


def test_a_disagreement_points_at_the_keys_of_sections_and_skips_fields_that_are_not_given() -> None:
    document = load("a:\n  layers:\n    - 1\n  sizes:\n    b: 2\n", "s.yaml")
    cause = FieldError("they disagree", "layers", "absent", "sizes", ("sizes", "b"))
    error = problems_from_pydantic([{"type": "value_error", "loc": ("a",), "ctx": {"error": cause}}], document)
    assert (error.line, error.column) == (2, 3)
    assert [(place.line, place.column) for place in error.problems[0].related] == [(4, 3), (5, 8)]


def test_all_problems_are_reported_in_the_order_of_the_file() -> None:
    text = "kind: spek\nextra: 1\nsizes:\n  hidden_size: 0\n  num_heads: x\nmemory: 80G\n"
    error = schema_refusal(text)
    assert [(problem.line, problem.message.split()[0]) for problem in error.problems] == [
        (1, "kind"),
        (2, "unknown"),
        (3, "missing"),
        (4, "hidden_size"),
        (5, "num_heads"),
        (6, "memory:"),
    ]


def test_keys_missing_from_one_section_are_one_problem() -> None:
    error = schema_refusal("kind: spec\nsizes: {head_dim: 4}\n")
    assert [problem.message for problem in error.problems] == ["missing keys `hidden_size`, `num_heads` in `sizes`"]


def test_an_unknown_key_takes_only_one_missing_key_for_its_near_miss() -> None:
    error = schema_refusal("kind: spec\nsizes: {hidden_sise: 8, hidden_siz: 8, num_heads: 2, head_dim: 4}\n")
    assert [(problem.message, problem.hint) for problem in error.problems] == [
        ("unknown key `hidden_sise`", "did you mean hidden_size?"),
        ("unknown key `hidden_siz`", None),
    ]


def test_known_keys_give_near_misses_for_optional_fields() -> None:
    asked: list[tuple[str | int, ...]] = []

    def known_keys(section: tuple[str | int, ...]) -> Iterable[str]:
        asked.append(section)
        return Sizes.model_fields

    error = schema_refusal(SIZES.replace("}", ", thets: 1}"), known_keys)
    assert (error.message, error.hint) == ("unknown key `thets`", "did you mean theta?")
    assert asked == [("sizes",)]


def test_a_key_that_is_given_already_is_not_suggested_and_the_known_ones_are_listed() -> None:
    error = schema_refusal(SIZES.replace("}", ", head_dims: 1}"), lambda _: ["head_dim", "hidden_size"])
    assert error.hint == "known keys: head_dim, hidden_size"


def test_known_keys_are_asked_with_the_union_tag() -> None:
    asked: list[tuple[str | int, ...]] = []

    def known_keys(section: tuple[str | int, ...]) -> Iterable[str]:
        asked.append(section)
        return []

    schema_refusal(SIZES + "attention: {a: {kind: mla, kv_lora_rank: 1, q_lora_rank: 1, x: 1}}", known_keys)
    assert asked == [("attention", "a", "mla")]


def test_an_error_type_that_has_no_wording_of_its_own_is_still_placed() -> None:
    document = load("a: 1\nb: 2\n", "s.yaml")
    error = problems_from_pydantic([{"type": "brand_new", "loc": ("b",), "msg": "Not so", "input": 2}], document)
    assert (str(error), error.value) == ("s.yaml:2:4: b: Not so", 2)


def test_a_flood_of_unknown_keys_is_told_quickly() -> None:
    text = "kind: spec\n" + "\n".join(f"hidden_size_{n}: 1" for n in range(5000))
    start = time.perf_counter()
    error = schema_refusal(text, lambda _: Sizes.model_fields)
    assert len(error.problems) == 50
    assert time.perf_counter() - start < 10


def test_a_schema_error_is_a_spec_error_and_a_broken_file_is_not() -> None:
    assert isinstance(schema_refusal("kind: spec"), SpecError)
    assert not isinstance(refusal("a: ["), SpecError)


def test_the_loader_imports_neither_pydantic_nor_yaml_before_it_is_used() -> None:
    code = "import sys, archcalc.files.yaml_loader; print(*{'pydantic', 'yaml', 'difflib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
