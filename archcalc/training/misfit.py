"""An error at a field of the plan that only shows once the plan meets a model or a file that it names."""

from __future__ import annotations

from archcalc.errors import InputError


class Misfit(InputError):
    """What a plan says and its model, or a file that it names, has no place for. `keys` is the plan's field."""

    keys: tuple[str, ...] = ()


def misfit(message: str, *keys: str, value: object = None, hint: str | None = None) -> Misfit:
    """The error of a field of the plan."""
    error = Misfit(message, value=value, hint=hint)
    error.keys = keys
    return error
