"""The kinds of files that archcalc reads: the type of each, where bundled ones lie, and what is wrong with one."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from archcalc.errors import InputError, SpecError, did_you_mean, show_value
from archcalc.files import loader
from archcalc.files.document import Document
from archcalc.files.identity import FOLDERS
from archcalc.files.yaml_loader import load, read
from archcalc.section import Section


class Kind(NamedTuple):
    """One kind.

    Attributes:
        content: its type, as `module:class`; imported when it is asked for.
        folder: of the bundled files, under `specs/`; None where none are bundled.
        check: raises InputError for what the type alone can't tell, as the commands that read such a file would.
    """

    content: str
    folder: str | None = None
    check: Callable[[Any, Document], None] = lambda content, document: None

    @property
    def model(self) -> type[Section]:
        """The type of its content."""
        module, _, name = self.content.partition(":")
        found: type[Section] = getattr(import_module(module), name)
        return found


def _spec(spec: Any, document: Document) -> None:
    from archcalc.documents.claims import claimed_quantities, placed

    try:
        claimed_quantities(spec)
    except InputError as error:
        raise placed(error, document) from None


def _plan(plan: Any, document: Document) -> None:
    from archcalc.hardware import load_hardware
    from archcalc.training.fp8 import check_device
    from archcalc.training.legal import illegal
    from archcalc.training.misfit import Misfit
    from archcalc.training.stack import settled

    for keys, loaded in (
        (("stack",), lambda: settled(plan)),
        (("hardware",), lambda: load_hardware(plan.hardware)),
        (("precision", "fp8"), lambda: check_device(load_hardware(plan.hardware), plan.precision.fp8)),
    ):
        try:
            loaded()
        except InputError as error:
            if error.problems[0].source is not None and not isinstance(error, Misfit):
                raise
            raise _at(error, keys, document) from None
    filled, stack = settled(plan)
    if refused := illegal(filled, stack=stack):
        problems = [document.problem(each.reason, each.keys[0], value=each.value, hint=each.hint) for each in refused]
        raise SpecError.from_problems(problems)


def _books(books: Any, document: Document) -> None:
    from archcalc.documents.books_file import unknown

    problems = list(unknown(books, Path(document.source).parent, document))
    if problems:
        raise SpecError.from_problems(problems)


def _budgets(budgets: Any, document: Document) -> None:
    from archcalc.documents.measured import Unmeasured, check_keys

    problems = []
    for n, budget in enumerate(budgets.budgets):
        try:
            check_keys(budget.quantity, budget)
        except Unmeasured as error:
            place = ("budgets", n, error.key)
            problems.append(document.problem(error.message, place, value=error.value, hint=error.hint))
    if problems:
        raise SpecError.from_problems(problems)


def _at(error: InputError, loc: tuple[str, ...], document: Document) -> SpecError:
    """An error about what stands at a path of a file."""
    return SpecError.from_problems([document.problem(error.message, loc, value=error.value, hint=error.hint)])


KINDS: dict[str, Kind] = {
    "spec": Kind("archcalc.files.model:Spec", FOLDERS["spec"], _spec),
    "plan": Kind("archcalc.training.plan:Plan", FOLDERS["plan"], _plan),
    "hardware": Kind("archcalc.hardware:Hardware", FOLDERS["hardware"]),
    "engine": Kind("archcalc.serving.engine:Engine", FOLDERS["engine"]),
    "stack": Kind("archcalc.training.stack:Stack", FOLDERS["stack"]),
    "books": Kind("archcalc.documents.books_file:Books", None, _books),
    "budgets": Kind("archcalc.documents.budgets_file:Budgets", None, _budgets),
}
"""By the word that stands under `kind` in a file."""

BUNDLED = tuple(name for name, kind in KINDS.items() if kind.folder is not None)
"""Kinds that some files are bundled of."""


def models() -> dict[str, type[Section]]:
    """The type of every kind."""
    return {name: kind.model for name, kind in KINDS.items()}


class Given(NamedTuple):
    """A file that somebody named: of which kind, what it says, and whether it is one of ours by its name."""

    kind: str
    document: Document
    bundled: bool


def given(argument: str, kind: str | None = None) -> Given:
    """The file that an argument names, not yet validated; without a `kind`, that of the one bundled file of the name,
    or the one that the file says itself.

    Raises:
        InputError: a file that can't be read, an unknown kind, a name of nothing or of files of several kinds.
        SpecError: a file that does not say of which kind it is.
    """
    if kind is not None:
        _known(kind)
    path = _is_path(argument)
    named = None if path else _bundled(argument.lower(), kind)
    if named is None and kind is None and not (path or os.path.lexists(argument)):
        raise _unknown(argument)
    if named is None and (path or kind in (None, "spec")):
        from archcalc.hf.spec import document_of

        document = document_of(argument)
        return Given(kind or _said(document), document, False)
    found = loader.find(argument.lower() if named else argument, KINDS[named or kind or "spec"].folder or "")
    return Given(named or kind or "spec", load(read(found), str(found)), named is not None)


def content(file: Given) -> Any:
    """The validated content of a file. Raises InputError or SpecError, each with line and column."""
    return loader.validate(file.document.data, file.document, KINDS[file.kind].model)


def checked(file: Given) -> str:
    """The title of a file that is valid in all that can be known without another one. Raises as `content`."""
    said = content(file)
    KINDS[file.kind].check(said, file.document)
    return str(getattr(said, "title", "") or getattr(said, "name", "") or file.kind)


def _is_path(argument: str) -> bool:
    """Whether an argument is no name: a path, stdin or a release."""
    return loader.is_path(argument) or argument.startswith("hf:") or argument in ("", "-")


def _bundled(name: str, kind: str | None) -> str | None:
    """The kind of the one bundled file of a name, None where there is none. Raises InputError for several."""
    kinds = [k for k in BUNDLED if kind in (None, k) and name in loader.bundled_names(KINDS[k].folder or "")]
    if len(kinds) > 1:
        options = " or ".join(f"--kind {k}" for k in kinds)
        raise InputError(f"{name} is the name of several files: {', '.join(kinds)}", value=name, hint=f"add {options}")
    return kinds[0] if kinds else None


def _unknown(name: str) -> InputError:
    """The error about a name of nothing, with the near miss of whatever kind."""
    hints = []
    for kind in BUNDLED:
        try:
            loader.find(name, KINDS[kind].folder or "")
        except InputError as error:
            hints.append(error.hint or "")
    near = [hint for hint in hints if hint.startswith("did you mean")]
    others = f"; archcalc specs --kind {'|'.join(BUNDLED[1:])} lists the others"
    *most, last = (loader.NOUNS[KINDS[kind].folder or ""] for kind in BUNDLED)
    message = f"no file and no bundled {', '.join(most)} or {last} is named {show_value(name, limit=80)}"
    return InputError(message, value=name, hint=near[0] if near else hints[0] + others)


def _known(kind: str) -> None:
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f"one of {', '.join(KINDS)}"
        raise InputError(f"no file kind is named {show_value(kind)}", value=kind, hint=hint)


def _said(document: Document) -> str:
    """The kind that a file says it is; without the word the one that can do without. Raises SpecError."""
    keys = document.data.keys()
    if "kind" not in keys:
        plain = [name for name, kind in KINDS.items() if _needed(kind.model) <= keys]
        if plain:
            return plain[0]
        likely = max(KINDS, key=lambda name: len(KINDS[name].model.model_fields.keys() & keys))
        fits = KINDS[likely].model.model_fields.keys() & keys
        hint = f"by its keys it is one: kind: {likely}" if fits else f"one of {', '.join(KINDS)}"
        raise SpecError.from_problems([document.problem("missing key `kind`: what file this is", hint=hint)])
    said = document.data["kind"]
    if isinstance(said, str) and said in KINDS:
        return said
    hint = (isinstance(said, str) and did_you_mean(said, KINDS)) or f"one of {', '.join(KINDS)}"
    message = f"no file kind is named {show_value(said)}"
    raise SpecError.from_problems([document.problem(message, ("kind",), value=said, hint=hint)])


def _needed(model: type[Section]) -> set[str]:
    """The keys that a file of a type can't do without; `kind` is one of nearly all."""
    return {key for key, field in model.model_fields.items() if field.is_required()}
