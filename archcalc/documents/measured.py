"""One quantity of a spec under what a claim or a budget says: which keys it takes, which it needs, and its value."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from archcalc.documents.document import Value
from archcalc.documents.kv import kv_quantities
from archcalc.documents.params import params_quantities
from archcalc.documents.quantities import QUANTITIES
from archcalc.documents.readings import parameters_at
from archcalc.documents.standing import CONTEXT, standing
from archcalc.errors import InputError, did_you_mean
from archcalc.files.model import Spec
from archcalc.files.under import Under
from archcalc.limits import QUESTIONS, hold
from archcalc.tape import Tape
from archcalc.workload import Workload

TAKES = {
    "flops": ("seq", "image"),
    "vision": ("image",),
    "kv": ("context",),
    "serve": ("gpu", "gpus", "context"),
    "train": ("plan",),
}
"""Keys that quantities are measured under, by the first word of their names; the others follow from the spec alone."""

NEEDS = {"serve": ("gpu", "h200"), "train": ("plan", "k2-pretrain")}
"""The key that such quantities can't do without, and a value for an example."""

PLAIN = ("params", "moe", "projector")
"""First words of quantities that the weights alone settle."""


PLACED = 40
"""Passes that serving or training a model takes, beside one, about."""


class Unmeasured(InputError):
    """What can't be measured; `key` is the key of the claim or budget that is at fault."""

    key = "quantity"

    @classmethod
    def of(cls, error: InputError, key: str) -> Unmeasured:
        """The same error, about a key."""
        made = cls.from_problems(error.problems)
        made.key = key
        return made


class Measures:
    """The quantities of one spec, each set worked out once."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._found: dict[str, Mapping[str, Value]] = {}
        self._asked = 0

    def value(self, quantity: str, under: Under) -> Value:
        """The value of a quantity. Raises Unmeasured."""
        check_keys(quantity, under)
        tape = self.spec.trace(Workload())
        if quantity.startswith("params["):
            try:
                return on_tape(tape, quantity, under)
            except InputError as error:
                raise Unmeasured.of(error, "quantity") from None
        found = self._plain(tape) if _group(quantity) in PLAIN else self._under(quantity, under)
        if quantity in found:
            return found[quantity]
        message = f"{quantity} is no quantity of {self.spec.title} that a claim or a budget can be about"
        hint = f"of this kind: {', '.join(sorted(name for name in found if _group(name) == _group(quantity)))}"
        raise _at("quantity", message, quantity, hint)

    def _plain(self, tape: Tape) -> Mapping[str, Value]:
        if "" not in self._found:
            self._found[""] = params_quantities(tape)
        return self._found[""]

    def _under(self, quantity: str, under: Under) -> Mapping[str, Value]:
        """All quantities under these flags. Raises Unmeasured."""
        key = repr(sorted(under.flags.items()))
        if key not in self._found:
            try:
                self._asked += self.spec.trace(Workload()).length * (
                    1 if under.gpu is None and under.plan is None else PLACED
                )
                hold(QUESTIONS, self._asked)
                self._found[key] = standing(self.spec, **under.flags)
            except InputError as error:
                raise Unmeasured.of(error, next(iter(under.flags), "quantity")) from None
        return self._found[key]


def check_keys(quantity: str, under: Under) -> None:
    """Raises Unmeasured for a name of no quantity, a key that says nothing about it, or one that it lacks."""
    if quantity not in QUANTITIES and not quantity.startswith("params["):
        hint = did_you_mean(quantity, QUANTITIES) or f"one of {', '.join(QUANTITIES)}, or params[PATH]"
        raise _at("quantity", f"{quantity} is no quantity of this spec", quantity, hint)
    takes = TAKES.get(_group(quantity), ())
    for key in under.flags:
        if key not in takes:
            hint = f"it takes {', '.join(takes)}" if takes else "it follows from the spec alone"
            raise _at(key, f"{key} says nothing about {quantity}", getattr(under, key), hint)
    needed, example = NEEDS.get(_group(quantity), ("", ""))
    if needed and getattr(under, needed) is None:
        raise _at("quantity", f"{quantity} needs a {needed}", quantity, f"add {needed}: {example}")


def on_tape(tape: Tape, quantity: str, under: Under, counted: Mapping[str, Value] | None = None) -> Value:
    """What the weights and caches of one pass settle, `params[PATH]` too. `counted`: its `params.*`, where they are
    known. Raises InputError for any other quantity."""
    if quantity.startswith("params[") and quantity.endswith("]"):
        return parameters_at(tape, quantity[7:-1])
    found: Mapping[str, Value] = {}
    if _group(quantity) in PLAIN:
        found = params_quantities(tape) if counted is None else counted
    elif _group(quantity) == "kv":
        found = kv_quantities(tape, "bf16", under.context or CONTEXT)
    with suppress(KeyError):
        return found[quantity]
    raise InputError(f"{quantity} is not to be read off one pass", value=quantity)


def _group(quantity: str) -> str:
    """The first word of a name."""
    return quantity.partition(".")[0]


def _at(key: str, message: str, value: object, hint: str) -> Unmeasured:
    return Unmeasured.of(InputError(message, value=value, hint=hint), key)
