"""Budgets that a change took away or wrote otherwise: whoever reviews it is told, whatever the specs come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from archcalc.documents.budgets_file import Budget, load_budgets
from archcalc.documents.compare.git import exists
from archcalc.errors import ArchcalcError
from archcalc.render.github import Annotation

MOST = 10
"""Budgets that are told one by one."""


def rewritten(path: str, base: str, head: str) -> Annotation | None:
    """What became of the budgets of a file since the base; None where each of them still stands, or where there was no
    such file."""
    try:
        if not exists(f"git:{base}:{path}"):
            return None
        old, new = (_limits(load_budgets(f"git:{revision}:{path}").budgets) for revision in (base, head))
    except ArchcalcError as error:
        return Annotation("warning", "budgets can't be compared with those before", str(error), path, 1)
    found = list(_told(old, new))
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    message = "\n".join([*found[:MOST], *more])
    return Annotation("warning", "this change alters budgets", message, path, 1) if found else None


def _limits(budgets: list[Budget]) -> dict[tuple[str, str], list[str]]:
    """The limits on each quantity of each spec, in words."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for budget in budgets:
        under = ", ".join(f"{key} {value}" for key, value in budget.recorded.items())
        limits = [f"max {budget.max}"] if budget.max is not None else []
        limits += [f"max_increase {budget.max_increase}"] if budget.max_increase is not None else []
        found[f"{budget.quantity} of {budget.spec}", under].append(" and ".join(limits))
    return found


def _told(old: dict[tuple[str, str], list[str]], new: dict[tuple[str, str], list[str]]) -> Iterator[str]:
    """Each limit that no longer stands as it was, with what is there now."""
    for (name, under), limits in old.items():
        now = new.get((name, under), [])
        if [limit for limit in limits if limit not in now]:
            where = f" under {under}" if under else ""
            yield f"{name}{where}: {'; '.join(limits)} → {'; '.join(now) or 'no budget'}"
