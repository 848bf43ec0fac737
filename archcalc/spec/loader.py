"""Find, read and validate a spec: a path, or the name of a bundled one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from archcalc.errors import InputError, SpecError, did_you_mean
from archcalc.spec.model import Spec
from archcalc.spec.yaml_loader import Document, load, problems_from_pydantic, read

Model = TypeVar("Model", bound=BaseModel)

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled_dir() -> Path:
    """Folder of the bundled files: inside an installed package, or `specs/` of a checkout."""
    inside = _PACKAGE / "bundled" / "specs"
    return inside if inside.is_dir() else _PACKAGE.parent / "specs"


def bundled_names(kind: str = "") -> list[str]:
    """Names of the bundled specs, or of the files of a `kind` folder (`plans`, `hardware`, `engines`)."""
    return sorted(path.stem for path in (bundled_dir() / kind).glob("*.yaml"))


def find(argument: str, kind: str = "", noun: str = "spec") -> Path:
    """The file that an argument names. Raises InputError with a near miss where there is none."""
    path = Path(argument)
    if path.suffix in (".yaml", ".yml") or path.exists() or "/" in argument:
        return path
    inside = bundled_dir() / kind / f"{argument}.yaml"
    names = bundled_names(kind)
    if argument in names:
        return inside
    hint = did_you_mean(argument, names) or f"bundled: {', '.join(names)}; or give a path"
    raise InputError(f"no file and no bundled {noun} is named {argument}", value=argument, hint=hint)


def load_spec(argument: str) -> Spec:
    """A validated spec from a path or a bundled name.

    Raises:
        InputError: a file that can't be read or is no YAML of ours.
        SpecError: a readable file that is no valid spec.
    """
    path = find(argument)
    return parse(read(path), str(path), Spec)


def parse(text: bytes | str, source: str, model: type[Model]) -> Model:
    """Validate the text of a file as a `model`. Raises InputError or SpecError, each with line and column."""
    document = load(text, source)
    return validate(document.data, document, model)


def validate(data: Any, document: Document, model: type[Model]) -> Model:
    """Validate data that came from a document, or was changed after. Raises SpecError with positions."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    found = problems_from_pydantic(problems, document, None)
    raise SpecError.from_problems(found.problems)
