"""The `check` report: quantities of specs held against the budgets of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from archcalc.documents.budgets_file import Budget, Placed, load_budgets
from archcalc.documents.compare.change import unit_of
from archcalc.documents.compare.git import PREFIX, exists
from archcalc.documents.compare.limits import decimal, size_of
from archcalc.documents.compare.sides import read_side
from archcalc.documents.document import Column, Report, Table, Unit, Value
from archcalc.documents.measured import Measures, Unmeasured
from archcalc.documents.said import number_text, shown
from archcalc.errors import Exceeded, InputError, Problem, SpecError, show_value

COLUMNS = (
    Column("verdict", "verdict", keep=True),
    Column("spec", "spec"),
    Column("quantity", "quantity", keep=True),
    Column("value", "is", "own", keep=True),
    Column("max", "at most", "own", keep=True),
    Column("base", "was", "own"),
    Column("increase", "increase", "own"),
    Column("most_increase", "by at most", "own"),
    Column("line", "line", "int"),
    Column("message", "message", "prose"),
)

UNHELD = "not held"
"""Verdict on growth that is limited where nothing was before, which nobody allowed."""


class Held(NamedTuple):
    """One budget beside its numbers, None for what was not asked; `base` is None for a spec that is new too.

    Attributes:
        number: of the budget in its file, from 0.
        most: what it may come to.
        base: what it was.
        room: by how much it may grow.
    """

    budget: Budget
    number: int
    value: Value
    most: Fraction | None
    base: Value | None
    room: Fraction | None

    @property
    def new(self) -> bool:
        """Whether growth was limited and there was nothing before."""
        return self.budget.max_increase is not None and self.base is None

    @property
    def over(self) -> bool:
        """Whether it is past its maximum."""
        return self.most is not None and Fraction(self.value) > self.most

    @property
    def grown(self) -> bool:
        """Whether it grew by more than it may."""
        return self.room is not None and self.base is not None and self.increase > self.room

    @property
    def increase(self) -> Fraction:
        """How much it grew."""
        return Fraction(self.value) - Fraction(self.base or 0)

    @property
    def verdict(self) -> str:
        """In a word."""
        return "exceeded" if self.over or self.grown else "new" if self.new else "kept"


def check(path: str, *, base: str | None = None, allow_new: bool = False) -> Report:
    """The `check` command: every budget of a file with its verdict. The findings are the budgets.

    Args:
        path: the file, or `git:REV:path`: then specs are read out of that revision too, and no file that is not
            bundled.
        base: the git revision that growth is measured from.
        allow_new: whether the growth of a spec that was not there then is kept; else nothing holds it, and it fails.

    Raises:
        InputError: a file, spec or revision that can't be read.
        SpecError: what a budget can't say, at its line: an unknown quantity, a size of another unit, growth without
            `base`.
    """
    placed = load_budgets(path)
    held = _held(placed, base)
    findings = [_finding(placed, each, base, allow_new) for each in held]
    exceeded, new = (sum(each.verdict == word for each in held) for word in ("exceeded", "new"))
    unheld = 0 if allow_new else new
    of = f"{len(held)} budget{'' if len(held) == 1 else 's'}"
    verdict = f"{exceeded} of {of} exceeded" if exceeded else f"{unheld} of {of} not held" if unheld else f"{of} kept"
    more = f", {new} of them of a spec that is new since {base}" if new else ""
    return Report(
        command="check",
        title=f"{verdict}{more}: {placed.file}",
        inputs={"path": path, "base": base, "allow_new": allow_new},
        quantities={},
        findings=findings,
        findings_table=Table("findings", "budgets", _columns(findings), findings),
        notes=[f"Growth is measured from {base}, under plans and GPUs as they are now."] if base else (),
        extra={"passed": not exceeded and not unheld},
    )


def exceeded(report: Report) -> Exceeded | None:
    """The failed check of a report whose budgets are exceeded or not held, or None. Its lines hold exact numbers."""
    lines = [
        f"{finding['file']}:{finding['line']}: {finding['explanation']}"
        for finding in report.findings
        if finding["verdict"] in ("exceeded", UNHELD)
    ]
    return Exceeded(report.title, lines) if lines else None


def _columns(findings: Sequence[dict[str, Any]]) -> tuple[Column, ...]:
    """Those that any budget has something for."""
    return tuple(column for column in COLUMNS if any(row[column.key] is not None for row in findings))


# -- the numbers -------------------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """What is wrong with one budget."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__()
        self.problems = problems


class _Reader:
    """Works out the numbers of a file's budgets, and tells what is wrong with one at its own keys."""

    def __init__(self, placed: Placed, base: str | None) -> None:
        self.placed, self.base = placed, base
        self.known: dict[str, Measures] = {}

    def held(self, n: int, budget: Budget) -> Held:
        """One budget beside its numbers. Raises _Wrong."""
        placed, quantity = self.placed, budget.quantity
        named = {
            "plan": self.at(n, "plan", lambda: placed.named(budget.plan, "plans")),
            "gpu": self.at(n, "gpu", lambda: placed.named(budget.gpu, "hardware")),
        }
        under = budget.model_copy(update=named)
        measures = self.at(n, "spec", lambda: self.measures(placed.spec(budget.spec)))
        value: Value = self.at(n, "quantity", lambda: measures.value(quantity, under))
        if isinstance(value, bool):
            raise self.wrong(n, "quantity", f"{quantity} is yes or no, and has no budget", "limit train.peak_bytes")
        unit = unit_of(quantity)
        most = None if budget.max is None else self.at(n, "max", lambda: _amount(budget.max, unit))
        before = None if budget.max_increase is None else self.before(n, budget, under)
        room = None
        if budget.max_increase is not None:
            room = self.at(n, "max_increase", lambda: _room(budget, value if before is None else before))
        return Held(budget, n, value, most, before, room)

    def before(self, n: int, budget: Budget, under: Budget) -> Value | None:
        """The value at the base; None for a spec that was not there. Raises _Wrong."""
        base = self.base
        if base is None:
            hint = "add --base REV, such as --base main"
            raise self.wrong(n, "max_increase", "max_increase needs a revision to measure growth from", hint)
        argument: str = self.at(n, "max_increase", lambda: self.placed.before(budget.spec, base))
        if not self.at(n, "spec", lambda: exists(argument)):
            return None
        measures = self.at(n, "spec", lambda: self.measures(argument))
        value: Value = self.at(n, "quantity", lambda: measures.value(budget.quantity, under))
        return value

    def measures(self, argument: str) -> Measures:
        """The quantities of a spec, which is read once. Raises InputError."""
        if argument not in self.known:
            spec = read_side(argument).spec
            if spec is None:
                raise InputError("this is no spec", source=argument, value=argument, hint="budgets are about specs")
            self.known[argument] = Measures(spec)
        return self.known[argument]

    def at(self, n: int, key: str, ask: Callable[[], Any]) -> Any:
        """An answer, or what is wrong at a key of a budget; a file with lines of its own shows those. Raises _Wrong."""
        try:
            return ask()
        except InputError as error:
            if error.line is not None:
                raise _Wrong(error.problems) from None
            about = error.key if isinstance(error, Unmeasured) else key
            source = error.source if error.source not in (None, "--fail-on") else ""
            message = f"{source}: {error.message}" if source else error.message
            raise self.wrong(n, about, message, error.hint, error.value) from None

    def wrong(self, n: int, key: str, message: str, hint: str | None, value: object = None) -> _Wrong:
        """A problem at a key of a budget."""
        return _Wrong([self.placed.document.problem(message, ("budgets", n, key), value=value, hint=hint)])


def _held(placed: Placed, base: str | None) -> list[Held]:
    """Every budget beside its numbers. Raises SpecError with all that is wrong, and InputError for no such base."""
    if base is not None:
        if not base or ":" in base:
            message = f"{show_value(base)} is no revision"
            raise InputError(
                message, source="--base", value=base, hint="name a branch, a tag or a commit, such as main"
            )
        try:
            exists(f"{PREFIX}{base}:{placed.file}")
        except InputError as error:
            raise error.at(source="--base") from None
    reader, held = _Reader(placed, base), []
    problems: list[Problem] = []
    for n, budget in enumerate(placed.budgets):
        try:
            held.append(reader.held(n, budget))
        except _Wrong as wrong:
            problems += wrong.problems
    if problems:
        once = {(p.message, p.source, p.line, p.column): p for p in problems}  # values may be lists, which have no hash
        raise SpecError.from_problems(list(once.values()))
    return held


def _amount(amount: Any, unit: Unit) -> Fraction:
    """A number of a file, or text with a unit, in the quantity's own unit. Raises InputError."""
    size = size_of(amount.strip(), unit) if isinstance(amount, str) else Fraction(repr(amount))
    if size < 0:
        raise InputError("a budget can't be negative", value=amount, hint="write the most that it may be")
    return size


def _room(budget: Budget, before: Value) -> Fraction:
    """By how much the quantity may grow. Raises InputError."""
    given = budget.max_increase
    text = given.strip().removeprefix("+").strip() if isinstance(given, str) else ""
    if not text.endswith("%"):
        return _amount(text or given, unit_of(budget.quantity))
    share = decimal(text.removesuffix("%").strip())
    if share is None:
        raise InputError(f"{show_value(given)} holds no number", value=given, hint="write 1% or an amount such as 2GiB")
    return abs(Fraction(before)) * share / 100


# -- what is said of them ----------------------------------------------------------------------------------------------


def _finding(placed: Placed, held: Held, base: str | None, allow_new: bool) -> dict[str, Any]:
    budget, quantity = held.budget, held.budget.quantity
    key = "max_increase" if held.grown and not held.over else "max"
    grew = None if held.base is None else held.increase
    percent = None if not grew or not held.base else float(100 * grew / abs(Fraction(held.base)))
    verdict = UNHELD if held.verdict == "new" and not allow_new else held.verdict
    said = [*_said(held, base), *(["nothing holds its growth without --allow-new"] if verdict == UNHELD else [])]
    return {
        "spec": budget.spec,
        "quantity": quantity,
        "under": budget.recorded,
        "unit": unit_of(quantity),
        "value": _plain(held.value),
        "max": _plain(held.most),
        "base": _plain(held.base),
        "increase": _plain(grew),
        "percent": percent,
        "most_increase": _plain(held.room) if held.base is not None else None,
        "verdict": verdict,
        "message": budget.message,
        "explanation": "; and ".join(said) + (f": {budget.message}" if budget.message else ""),
        "file": placed.file,
        "line": placed.document.position(("budgets", held.number, key), key=True)[0],
    }


def _said(held: Held, base: str | None) -> Iterator[str]:
    """Which limits are kept, and which are not, with all digits."""
    budget, value = held.budget, shown(held.value, held.budget.quantity)
    name = f"{budget.quantity} of {budget.spec}"
    if held.most is not None and (held.over or not held.grown):
        yield f"{name} is {value}, {'more than' if held.over else 'within'} {_limit(held.most, budget)}"
    if held.new:
        yield f"{name} is {value}, new since {base}"
    elif held.base is not None and (held.grown or not held.over):
        before, grew = number_text(held.base, budget.quantity), number_text(whole(held.increase), budget.quantity)
        percent = f", {float(100 * held.increase / abs(Fraction(held.base))):+.4g} %" if held.base else ""
        limit = f"{'more than' if held.grown else 'within'} {budget.max_increase}"
        yield f"{name} went from {before} at {base} to {value} ({grew}{percent}), {limit}"


def _limit(most: Fraction, budget: Budget) -> str:
    """A maximum as it was written, and in the quantity's own unit where that looks otherwise."""
    plain = number_text(whole(most), budget.quantity)
    return plain if isinstance(budget.max, (int, float)) else f"{budget.max} ({plain})"


def whole(n: Fraction) -> int | Fraction:
    """The number as an int where it is one."""
    return n.numerator if n.denominator == 1 else n


def _plain(n: Value | None) -> int | float | None:
    """A number as JSON has it."""
    if n is None or not isinstance(n, Fraction):
        return n
    return n.numerator if n.denominator == 1 else float(n)
