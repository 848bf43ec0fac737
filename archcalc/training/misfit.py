"""An error at a field of the plan that only shows once the plan meets a model or a file that it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from archcalc.errors import InputError, Problem

if TYPE_CHECKING:
    from archcalc.training.legal import Refusal

Keys = tuple[tuple[str, ...], ...]


class Misfit(InputError):
    """What a plan says and its model, or a file that it names, has no place for. `keys` are the plan's fields that each
    problem is about, the one to blame first."""

    keys: tuple[Keys, ...] = ()


def misfit(message: str, *keys: str, value: object = None, hint: str | None = None) -> Misfit:
    """The error of a field of the plan."""
    error = Misfit(message, value=value, hint=hint)
    error.keys = ((keys,),)
    return error


def refuse(refused: Sequence[Refusal]) -> None:
    """Raises Misfit with every reason to refuse a plan, if there is one."""
    if refused:
        error = Misfit.from_problems([Problem(each.reason, value=each.value, hint=each.hint) for each in refused])
        error.keys = tuple(each.keys for each in refused)
        raise error
