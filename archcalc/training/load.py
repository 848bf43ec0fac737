"""A plan read from a file, with fields overridden on the command line."""

from __future__ import annotations

from archcalc.errors import InputError
from archcalc.files.loader import text_of, validate
from archcalc.files.yaml_loader import load
from archcalc.training.misfit import Misfit
from archcalc.training.overridden import Overridden
from archcalc.training.overrides import override
from archcalc.training.plan import Plan
from archcalc.training.precision import Fsdp


def load_plan(argument: str, overrides: tuple[str, ...] = ()) -> Plan:
    """A plan from a path or a bundled name, with fields overridden by `path=value` (YAML values).

    Raises:
        InputError: a file that can't be read, or an override that names no field.
        SpecError: an invalid plan.
    """
    document = load(*text_of(argument, "plans"))
    if not overrides:
        return validate(document.data, document, Plan)
    plain = validate(document.data, document, Plan)
    data, all_fields = plain.model_dump(exclude_unset=True), plain.model_dump()
    all_fields["fsdp"] = (plain.fsdp or Fsdp()).model_dump()
    settings = [override(data, text, all_fields) for text in overrides]
    given = {".".join(map(str, each.path)) for each in settings}
    if "assumed" in data and "assumed" not in given:
        data["assumed"] = [path for path in data["assumed"] if path not in given]
    return validate(data, Overridden(data, document, settings), Plan)


def placed(error: Misfit, argument: str, overrides: tuple[str, ...]) -> InputError:
    """An error that only the model shows, at the field of the plan that it is about."""
    name = f"{'.'.join(error.keys)}."
    set_here = [(f"{text.partition('=')[0].strip()}.", text) for text in overrides]
    given = [text for key, text in set_here if key.startswith(name) or name.startswith(key)]
    if given:
        text = given[-1]
        return error.at(source=f"--set {text}", column=text.index("=") + 2, snippet=text)
    document = load(*text_of(argument, "plans"))
    line, column = document.position(error.keys, key=True)
    return error.at(source=document.source, line=line, column=column, snippet=document.line(line))
