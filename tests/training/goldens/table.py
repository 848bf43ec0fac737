"""What archcalc says of each row, the errors by group, and the generated part of docs/validation.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median

from pydantic import ValidationError

from archcalc.documents.train import run_of
from archcalc.errors import InputError
from archcalc.training.memory import RankMemory, training_memory
from tests.support import ROOT
from tests.training.goldens.rows import Golden
from tests.training.goldens.translate import MISSING, missing, plan, spec
from tests.training.goldens.workspaces import torch_workspace

PAGE = ROOT / "docs" / "validation.md"
MARKS = ("<!-- goldens: generated -->", "<!-- /goldens -->")
MIB = 2**20
WITHIN_RESTING, WITHIN_ACTIVATION = 0.03, 0.05
"""Medians that the project asks of itself: of resting memory, and of peak less resting."""


@dataclass(frozen=True)
class Predicted:
    """A row beside the last rank of its plan, which is the rank that printed it."""

    row: Golden

    @cached_property
    def rank(self) -> RankMemory:
        """The last pipeline rank."""
        return training_memory(run_of(spec(self.row), plan(self.row)))[-1]

    @property
    def resting(self) -> int:
        """Predicted allocation between steps [bytes]."""
        return self.rank.resting

    @property
    def first(self) -> int:
        """Predicted peak of the first step: where it has one micro-batch, autograd's workspace comes behind it
        [bytes]."""
        late = torch_workspace(self.row)
        return self.rank.peak_first - (late if plan(self.row).micro_batches == 1 else 0)

    @property
    def resting_error(self) -> float:
        """Predicted over measured, less 1."""
        return self.resting / self.row.resting - 1

    @property
    def activation_error(self) -> float:
        """The same of peak less resting."""
        return (self.rank.peak - self.resting) / (self.row.peak - self.row.resting) - 1

    @property
    def peak_error(self) -> float:
        """The same of the peak."""
        return self.rank.peak / self.row.peak - 1

    @property
    def first_error(self) -> float | None:
        """The same of the first step's peak, where it is published."""
        return None if self.row.first is None else self.first / self.row.first - 1


def split(rows: Iterable[Golden]) -> tuple[list[Predicted], list[tuple[Golden, tuple[str, ...]]]]:
    """Rows that are predicted, and those that are not with the capabilities that are missing."""
    predicted, listed = [], []
    for row in rows:
        lacks, made = missing(row), Predicted(row)
        if not lacks:
            try:
                _ = made.first
            except (InputError, ValidationError, KeyError):
                lacks = ("refused",)
        if lacks:
            listed.append((row, lacks))
        else:
            predicted.append(made)
    return predicted, listed


GROUPS: dict[str, Callable[[Golden], bool]] = {
    "mixtures of experts": lambda row: bool(row.run.get("experts")),
    "transformer_impl local": lambda row: row["transformer_impl"] == "local",
    "context parallel": lambda row: row["cp"] > 1,
    "interleaved pipeline": lambda row: row["vpp"] > 1,
    "pipeline": lambda row: row["pp"] > 1,
    "one stage": lambda row: True,
}
"""Kinds of rows; a row is of the first that holds."""


def group(row: Golden) -> str:
    """Its kind."""
    return next(name for name, holds in GROUPS.items() if holds(row))


def generated(rows: Sequence[Golden]) -> str:
    """The generated part of the page."""
    predicted, listed = split(rows)
    return "\n\n".join((MARKS[0], _summary(predicted), _each(predicted), _taught(rows), _missing(listed), MARKS[1]))


def page(rows: Sequence[Golden]) -> str:
    """The page with its generated part made anew."""
    before, rest = PAGE.read_text().split(MARKS[0])
    return before + generated(rows) + rest.split(MARKS[1])[1]


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]], right: int) -> str:
    rule = ["---" if i < right else "---:" for i in range(len(heads))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def _summary(every: Sequence[Predicted]) -> str:
    known = [each for each in every if each.row.world is not None]
    groups = {
        "all": every,
        "world known": known,
        "world known, taught us something": [each for each in known if each.row.taught],
        "world known, taught nothing": [each for each in known if not each.row.taught],
        "world inferred": [each for each in every if each.row.world is None],
        **{name: [each for each in known if group(each.row) == name] for name in GROUPS},
    }
    heads = ("rows", "count", "resting: median error", "MAPE", "peak less resting: median error", "MAPE", "peak: MAPE")
    lines = []
    for name, some in groups.items():
        if some:
            resting, above = ([abs(e) for e in errors] for errors in _errors(some))
            peaks = mean(abs(each.peak_error) for each in some)
            figures = (median(resting), mean(resting), median(above), mean(above), peaks)
            lines.append((name, str(len(some)), *(f"{100 * figure:.2f} %" for figure in figures)))
    firsts = [abs(e) for each in every if (e := each.first_error) is not None]
    seen = [each.row.seen for each in known if each.row.seen is not None]
    left = f"Peak of the first step: median error {100 * median(firsts):.2f} %, {len(firsts)} rows."
    if seen:
        at_first = [median(abs(pair[i]) for pair in seen) for i in (0, 1)]
        left += (
            f" When the rows of known world were asked first, before what they taught was in, the medians were"
            f" {at_first[0]:.2f} % and {at_first[1]:.2f} % ({len(seen)} rows)."
        )
    return f"{_table(heads, lines, 1)}\n\n{left}"


def _errors(some: Sequence[Predicted]) -> tuple[list[float], list[float]]:
    return [each.resting_error for each in some], [each.activation_error for each in some]


def _each(every: Sequence[Predicted]) -> str:
    lines = []
    lessons = _lessons([each.row for each in every])
    for each in every:
        row = each.row
        asked = ("", "") if row.seen is None else tuple(f"{e:+.1f}" for e in row.seen)
        lines.append(
            (
                row.id.replace("gpt3_", "").replace("mcore_", ""),
                "inferred" if row.world is None else str(row.world),
                str(lessons.index(row.taught) + 1) if row.taught else "",
                f"{row.resting / MIB:,.1f}",
                f"{100 * each.resting_error:+.2f} %",
                f"{(row.peak - row.resting) / MIB:,.1f}",
                f"{100 * each.activation_error:+.2f} %",
                ", ".join(asked) if asked[0] else "",
            )
        )
    heads = ("test", "world", "taught", "resting, MiB", "off", "peak less resting", "off", "first asked, %")
    return "Each row:\n\n" + _table(heads, lines, 3)


def _lessons(rows: Sequence[Golden]) -> list[str]:
    return list(dict.fromkeys(row.taught for row in rows if row.taught))


def _taught(rows: Sequence[Golden]) -> str:
    lines = [f"{i}. {lesson}" for i, lesson in enumerate(_lessons(rows), 1)]
    return "\n".join(("What rows taught, by the numbers above:", "", *lines))


def _missing(listed: Sequence[tuple[Golden, tuple[str, ...]]]) -> str:
    lines = []
    for reason, what in MISSING.items():
        some = [row for row, lacks in listed if reason in lacks]
        if some:
            tests = sorted({row.test.split("/")[-1] for row in some})
            known = sum(row.world is not None for row in some)
            lines.append((what, str(len(some)), str(known), ", ".join(f"`{test}`" for test in tests)))
    heads = ("not predicted for want of", "rows", "of known world", "tests")
    return "A row may want several:\n\n" + _table(heads, lines, 1)
