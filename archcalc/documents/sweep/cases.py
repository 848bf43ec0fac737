"""What is compared on one picture, over which lengths: specs, batches and cache dtypes, and how they are told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, Protocol, TypeVar

from archcalc.calc.kv_cache import LAYOUTS
from archcalc.documents.document import Column
from archcalc.documents.flops import context_notes
from archcalc.errors import InputError, in_its_case
from archcalc.files.model import Spec
from archcalc.hf.spec import load_spec
from archcalc.units import format_int

LONGEST = 1 << 30
"""The longest length that a plot goes to [tokens]."""

LONGEST_TITLE = 48
"""Characters of a model's title on a picture."""

CONTEXT = Column("context", "context", "tokens")
COLUMNS = {
    "spec": Column("spec", "spec"),
    "kv_dtype": Column("kv_dtype", "cache"),
    "batch": Column("batch", "sequences", "int"),
    "gpu": Column("gpu", "GPU"),
    "plan": Column("plan", "plan"),
}
"""What rows say they are of."""

_STEPS = 8
"""Points in each doubling of the length that a curve is drawn through."""


# -- lengths ----------------------------------------------------------------------------------------------------------


class Range(NamedTuple):
    """A range of lengths, both ends in [tokens]."""

    low: int
    high: int

    def points(self) -> tuple[int, ...]:
        """Both ends and every power of two between them."""
        powers = (1 << n for n in range(self.high.bit_length()))
        return tuple(sorted({self.low, self.high, *(p for p in powers if self.low < p < self.high)}))

    def drawn(self) -> tuple[int, ...]:
        """The points with others between them: straight lines from each to the next look like the curve."""
        steps = (int(2 ** (n / _STEPS)) for n in range(_STEPS * self.high.bit_length()))
        return tuple(sorted({*self.points(), *(s for s in steps if self.low < s < self.high)}))

    def edge(self, spec: Spec) -> int | None:
        """The model's context limit where it lies inside the range [tokens]."""
        limit = spec.backbone.max_position_embeddings
        return limit if self.low < limit < self.high else None


def span(low: int, high: int) -> Range:
    """A range that can be drawn. Raises InputError for an empty one, or one that starts at nothing."""
    hint = "write two lengths, the smaller first, such as 4k..256k"
    if low < 1:
        raise InputError("the range must start at 1 token or more", value=low, hint=hint)
    if low == high:
        raise InputError(f"the range from {low} to {high} tokens is empty", value=low, hint=hint)
    if low > high:
        raise InputError(f"the range from {low} to {high} tokens runs backwards", value=low, hint=hint)
    if high > LONGEST:
        raise InputError(f"the range ends past {LONGEST} tokens (1G)", value=high, hint=hint)
    return Range(low, high)


# -- models and cases -------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A spec on a picture: `key` in rows, `label` for people; both differ between the specs of one picture."""

    key: str
    label: str
    spec: Spec


def models(arguments: Iterable[str]) -> list[Model]:
    """Specs by path or bundled name, each once; where two are named alike, the argument stands with them."""
    return named({argument: load_spec(argument) for argument in arguments})


def named(loaded: Mapping[str, Spec]) -> list[Model]:
    """The same of specs that are there, by what they were asked for as."""
    return [Model(*names, spec) for names, spec in zip(told_apart(loaded), loaded.values(), strict=True)]


class Titled(Protocol):
    """A file with a name for rows and a title for people."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...


def told_apart(loaded: Mapping[str, Titled]) -> list[tuple[str, str]]:
    """Name and title of each; what two of them share is told apart by what they were asked for as."""
    names = [each.name for each in loaded.values()]
    titles = [_short(each.title) for each in loaded.values()]
    return [
        (
            each.name if names.count(each.name) == 1 else argument,
            title if titles.count(title) == 1 else f"{title} ({argument})",
        )
        for (argument, each), title in zip(loaded.items(), titles, strict=True)
    ]


def _short(title: str) -> str:
    """A title that leaves room for what stands beside it."""
    return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…"


class Compared(Protocol):
    """One of those that a picture compares.

    Attributes:
        model: whose numbers they are.
        cells: what every row says it is of: keys of `COLUMNS`.
        names: what may tell it from the others.
        setting: what is said once where all have it.
    """

    @property
    def model(self) -> Model: ...
    @property
    def cells(self) -> dict[str, Any]: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def setting(self) -> tuple[str, ...]: ...


C = TypeVar("C", bound=Compared)
T = TypeVar("T")


class Case(NamedTuple):
    """A model, what it caches (empty where nothing is cached), and its sequences."""

    model: Model
    kv_dtype: str
    batch: int

    @property
    def cells(self) -> dict[str, Any]:
        cached = {"kv_dtype": self.kv_dtype} if self.kv_dtype else {}
        return {"spec": self.model.key, **cached, "batch": self.batch}

    @property
    def names(self) -> tuple[str, ...]:
        return self.model.label, *self.setting

    @property
    def setting(self) -> tuple[str, ...]:
        sequences = "1 sequence" if self.batch == 1 else f"{format_int(self.batch)} sequences"
        return f"{self.kv_dtype} cache" if self.kv_dtype else "", sequences


def cases(several: Sequence[Model], kv_dtypes: Sequence[str], batches: Sequence[int]) -> list[Case]:
    """Every combination, in the order of the arguments."""
    return [Case(*parts) for parts in product(several, [in_its_case(name, LAYOUTS) for name in kv_dtypes], batches)]


def row_of(case: Compared, place: object) -> dict[str, Any]:
    """The keys that every row has; its place is the end of its path."""
    cells = case.cells
    return {"path": "/".join(map(str, [*cells.values(), place])), **cells}


# -- several of them --------------------------------------------------------------------------------------------------


def models_of(found: Sequence[Compared]) -> list[Model]:
    """The models of the cases, each once."""
    return list({case.model.key: case.model for case in found}.values())


def varying(found: Sequence[Compared]) -> list[str]:
    """What tells each case from the others: its names that are not the same in all, joined."""
    names = [case.names for case in found]
    shown = [n for n, same in enumerate(zip(*names, strict=True)) if len(set(same)) > 1]
    return [", ".join(each[n] for n in shown if each[n]) for each in names]


def shared(found: Sequence[Compared]) -> str:
    """What all cases have in common beside the model, joined."""
    columns = zip(*(case.setting for case in found), strict=True)
    return ", ".join(column[0] for column in columns if column[0] and len(set(column)) == 1)


def of_each(found: Sequence[C], compute: Callable[[C], T]) -> list[T]:
    """A value of each case; an error names the model where there are several."""
    results = []
    for case in found:
        try:
            results.append(compute(case))
        except InputError as error:
            if len(models_of(found)) == 1:
                raise
            raise error.at(source=case.model.label) from None
    return results


def limit_notes(several: Sequence[Model], longest: int) -> list[str]:
    """A warning for each model whose context ends before the range does."""
    named = [(model, note) for model in several for note in context_notes(model.spec, longest)]
    if len(several) == 1:
        return [note for _, note in named]
    return [note.replace("warning: ", f"warning: {model.label}: ", 1) for model, note in named]
