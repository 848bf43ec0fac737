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
    """Errors that only the model or a stack shows, each at the field of the plan that it is about: where it is set, or
    in the file."""
    document = load(*text_of(argument, "plans"))
    set_here = [(f"{text.partition('=')[0].strip()}.", text) for text in overrides]
    found = []
    for problem, keys in zip(error.problems, error.keys, strict=True):
        names = [f"{'.'.join(key)}." for key in keys]
        given = [text for name in names for field, text in set_here if field.startswith(name) or name.startswith(field)]
        if given:
            text = given[-1]
            found.append(problem._replace(source=f"--set {text}", column=text.index("=") + 2, snippet=text))
            continue
        places = [key for key in keys if document.resolve(key) == key] or [keys[0]]
        related = [(place, f"{place[-1]} is given here") for place in places[1:]]
        told = document.problem(problem.message, places[0], key=True, hint=problem.hint, related=related)
        found.append(told._replace(value=problem.value))
    return InputError.from_problems(found)
