"""What is counted as a mutant, on a few lines, and the list of those that are equivalent."""

from tests.mutation.results import equivalents
from tests.mutation.rules import Source, is_cache
from tests.mutation.trees import ROOT

CODE = """\
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    X = 1 + 2
__all__ = ["a" + "b"]

@dataclass(frozen=True)
class Thing(Base, frozen=True):
    size: int | None = 1 + 2

    def f(self, x : int | str = 3) -> int | None:
        assert x > 4
        for a, b in zip(x, y, strict=True):
            if a == (
                b
            ):
                g(a +
                  5)
"""


def place(text: str, nth: int = 0) -> tuple[int, int]:
    """Where these characters stand in CODE for the nth time."""
    found = -1
    for _ in range(nth + 1):
        found = CODE.index(text, found + 1)
    before = CODE[:found]
    return before.count("\n") + 1, found - (before.rfind("\n") + 1)


def test_text_for_readers_and_type_checkers_is_not_counted() -> None:
    source = Source(CODE)
    for text, nth in (("+ 2", 0), ('+ "b"', 0), ("| None", 0), ("| str", 0), ("| None", 1)):
        assert not source.is_counted(place(text, nth)), text


def test_what_correct_code_can_not_show_is_not_counted() -> None:
    source = Source(CODE)
    for text, nth in (("> 4", 0), ("True", 0), ("True", 1), ("True", 2)):
        assert not source.is_counted(place(text, nth)), text
    assert is_cache("@functools.lru_cache(maxsize=8)")
    assert is_cache("    @cache")
    assert not is_cache("@cached_property")


def test_a_value_of_a_field_a_default_and_a_body_are_counted() -> None:
    source = Source(CODE)
    for text, nth in (("+ 2", 1), ("3)", 0), ("== (", 0), ("5)", 0)):
        assert source.is_counted(place(text, nth)), text
    assert source.function(place("5)")) == "Thing.f"
    assert source.function(place("X = 1")) == "<module>"


def test_the_lines_of_a_place_are_those_of_its_statement() -> None:
    source = Source(CODE)
    assert source.statement(place("5)")) == range(16, 18)
    # Of an `if` the condition alone, not the body: lines 13 to 15, seen from its first.
    assert source.statement(place("== (")) == range(13, 14)


def test_a_mutant_said_to_be_equivalent_is_one_of_code_that_is_there() -> None:
    for (file, function, old, new), why in equivalents().items():
        source = Source((ROOT / file).read_text())
        stripped = [line.strip() for line in source.lines]
        spans = [range(n, n + length) for n in range(len(stripped)) for length in range(1, 5)]
        found = [span[0] for span in spans if " ".join(stripped[span[0] : span[-1] + 1]) == old]
        columns = [len(source.lines[n]) - len(source.lines[n].lstrip()) for n in found]
        functions = [source.function((n + 1, column)) for n, column in zip(found, columns, strict=True)]
        assert function in functions, f"{file}: {function} has no {old!r}; is the entry out of date?"
        assert old != new
        assert why
