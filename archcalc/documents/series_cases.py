"""What is compared on one picture: specs, batches and cache dtypes, and how they are told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple, TypeVar

from archcalc.documents.document import Column
from archcalc.documents.flops import context_notes
from archcalc.documents.series import Range
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.units import format_int

T = TypeVar("T")

MOST_PANELS = 6
"""More pictures than this side by side can't be read."""

MOST_LINES = 12
"""More lines than this on one picture can't be told apart."""

LONGEST_TITLE = 48
"""Characters of a model's title on a picture."""

LENGTH = Column("context", "context", "tokens")


class Model(NamedTuple):
    """A spec on a picture: `key` in rows, `label` for people; both differ between the specs of one picture."""

    key: str
    label: str
    spec: Spec


def models(arguments: Iterable[str]) -> list[Model]:
    """Specs by path or bundled name, each once; where two are named alike, the argument stands with them."""
    loaded = {argument: load_spec(argument) for argument in arguments}
    names = [spec.name for spec in loaded.values()]
    titles = [_short(spec.title) for spec in loaded.values()]
    return [
        Model(
            spec.name if names.count(spec.name) == 1 else argument,
            title if titles.count(title) == 1 else f"{title} ({argument})",
            spec,
        )
        for (argument, spec), title in zip(loaded.items(), titles, strict=True)
    ]


def _short(title: str) -> str:
    """A title that leaves room for what stands beside it."""
    return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…"


class Case(NamedTuple):
    """One combination of what is compared; `kv_dtype` is empty where nothing is cached."""

    model: Model
    kv_dtype: str
    batch: int

    @property
    def group(self) -> tuple[str, int]:
        """What shares a colour: all but the cache dtype."""
        return self.model.key, self.batch

    def words(self) -> dict[str, str]:
        """Its parts as people read them."""
        return {
            "model": self.model.label,
            "cache": f"{self.kv_dtype} cache" if self.kv_dtype else "",
            "batch": "1 sequence" if self.batch == 1 else f"{format_int(self.batch)} sequences",
        }

    def row(self, length: int) -> dict[str, Any]:
        """The keys that every row has."""
        parts = (self.model.key, self.kv_dtype, str(self.batch), str(length))
        return {
            "path": "/".join(part for part in parts if part),
            "spec": self.model.key,
            **({"kv_dtype": self.kv_dtype} if self.kv_dtype else {}),
            "batch": self.batch,
        }


def cases(several: Sequence[Model], kv_dtypes: Sequence[str], batches: Sequence[int]) -> list[Case]:
    """Every combination, in the order of the arguments."""
    return [Case(*parts) for parts in product(several, kv_dtypes, batches)]


def models_of(found: Sequence[Case]) -> list[Model]:
    """The models of the cases, each once."""
    return list({case.model.key: case.model for case in found}.values())


def inputs_of(found: Sequence[Case], over: Range) -> dict[str, Any]:
    """What a report says it was asked."""
    dtypes = list(dict.fromkeys(case.kv_dtype for case in found))
    return {
        "specs": [model.key for model in models_of(found)],
        "context": [over.low, over.high],
        "batch": list(dict.fromkeys(case.batch for case in found)),
        **({"kv_dtype": dtypes} if any(dtypes) else {}),
    }


def titled(found: Sequence[Case], text: str) -> str:
    """The text after the model's name, or alone where there are several models."""
    several = models_of(found)
    return f"{several[0].label}: {text}" if len(several) == 1 else text[0].upper() + text[1:]


def varying(found: Sequence[Case]) -> list[str]:
    """What tells each case from the others: its parts that are not the same in all, joined."""
    words = [case.words() for case in found]
    keys = [key for key in words[0] if len({w[key] for w in words}) > 1]
    return [", ".join(w[key] for key in keys) for w in words]


def common(found: Sequence[Case]) -> str:
    """What all cases have in common beside the model, joined."""
    words = [case.words() for case in found]
    shared = (v for key, v in words[0].items() if key != "model" and len({w[key] for w in words}) == 1)
    return ", ".join(filter(None, shared))


def hues_and_dashes(found: Sequence[Case]) -> list[tuple[int, int]]:
    """Number of the colour and of the line style of each case."""
    groups = list(dict.fromkeys(case.group for case in found))
    dtypes = list(dict.fromkeys(case.kv_dtype for case in found))
    return [(groups.index(case.group), dtypes.index(case.kv_dtype)) for case in found]


def of_each(found: Sequence[Case], compute: Callable[[Case], T]) -> list[T]:
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


def check_count(count: int, most: int, what: str) -> None:
    """Raises InputError for more than a picture can show."""
    if count > most:
        raise InputError(
            f"{count} {what} are more than one picture can show; {most} is the most",
            value=count,
            hint="give fewer specs, batches, cache dtypes or plans",
        )


def limit_notes(several: Sequence[Model], longest: int) -> list[str]:
    """A warning for each model whose context ends before the range does."""
    named = [(model, note) for model in several for note in context_notes(model.spec, longest)]
    if len(several) == 1:
        return [note for _, note in named]
    return [note.replace("warning: ", f"warning: {model.label}: ", 1) for model, note in named]


def edge_within(spec: Spec, over: Range) -> int | None:
    """The model's context limit where it lies inside the range [tokens]."""
    limit = spec.backbone.max_position_embeddings
    return limit if over.low < limit < over.high else None
