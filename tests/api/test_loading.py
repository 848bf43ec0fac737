"""`import archcalc` costs nothing, and shows what there is."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import archcalc
from tests.support import ROOT

HEAVY = ("pydantic", "torch", "numpy", "matplotlib", "yaml", "typer", "rich", "transformers", "pandas", "polars")


def loaded(code: str) -> set[str]:
    """The top names of what an interpreter of its own has loaded after some code, which may be checked in it."""
    code = f"import archcalc\n{code}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if name.partition(".")[0] in (*HEAVY, "archcalc")}


def test_importing_it_loads_nothing_else() -> None:
    assert loaded("dir(archcalc), archcalc.__all__, archcalc.__version__") == {"archcalc"}


def test_the_command_line_does_not_load_the_functions() -> None:
    ran = "import io; from archcalc.cli import main; from contextlib import redirect_stdout as to"
    named = loaded(f"{ran}\nwith to(io.StringIO()): assert main(['params', 'k25']) == 0")
    assert "archcalc.cli.params" in named
    assert not [name for name in named if name.startswith("archcalc.api")]


def test_functions_load_what_they_need_when_they_are_called() -> None:
    named = loaded("[getattr(archcalc, name) for name in archcalc.__all__]")
    assert {name for name in named if name.partition(".")[0] in HEAVY} == set()
    used = loaded("archcalc.params('k25')['params.total']")
    assert "pydantic" in used
    assert {name.partition(".")[0] for name in used} & {"torch", "numpy", "matplotlib", "typer", "rich"} == set()


def test_the_public_names_are_sorted_and_there() -> None:
    assert archcalc.__all__ == sorted(archcalc.__all__)
    assert set(archcalc.__all__) <= set(dir(archcalc))
    assert dir(archcalc) == sorted(dir(archcalc))
    for name in archcalc.__all__:
        found = getattr(archcalc, name)
        assert found.__name__ == name
        assert found.__doc__
    space: dict[str, object] = {}
    exec("from archcalc import *", space)
    assert set(archcalc.__all__) <= set(space)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'parameters'"):
        archcalc.parameters  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_see_the_functions_and_nothing_that_is_not_there() -> None:
    """The names for type checkers are those that are loaded when asked for."""
    tree = ast.parse((ROOT / "archcalc" / "__init__.py").read_text())
    (split,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in split.body if isinstance(node, ast.ImportFrom)]
    seen = {(node.module, name.name) for node in imports for name in node.names}
    homes = {(home, name) for home, names in archcalc._HOMES.items() for name in names}  # type: ignore[attr-defined]
    assert seen == homes
    assert {name for _, name in homes} == set(archcalc.__all__)
