"""What a start does not do. How long it takes is measured by `make bench`, not here."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest

from archcalc.cli.process import PLUGINS
from archcalc.files.model import Spec
from archcalc.section import Section
from tests.support import ROOT


def python(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMAND = "import sys; from archcalc.cli.process import script; sys.argv[1:] = {}; script()"


def test_the_command_reads_no_metadata_of_packages_and_no_json() -> None:
    code = COMMAND.format(["params", "k25"])
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("Kimi K2.5: ")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"pydantic", "yaml", "typer", "archcalc.documents.params"} <= loaded
    absent = {"importlib.metadata", "json", "email", "rich", PLUGINS}
    absent |= {f"archcalc.{name}" for name in ("files.schema_errors", "files.gpu_names", "cli.usage", "cli.completion")}
    assert absent.isdisjoint(loaded)


@pytest.mark.parametrize(
    "arguments", [["params", "nope"], ["params", "k25", "--depth", "0"], ["--version"]], ids=" ".join
)
def test_the_command_still_finds_what_it_puts_off(arguments: list[str]) -> None:
    code = COMMAND.format(arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if arguments == ["--version"] else 2)
    assert done.stdout.startswith("archcalc ") or done.stderr.startswith("error: ")
    assert "internal" not in done.stderr


def test_what_else_pydantic_asks_of_its_own_module_the_module_answers() -> None:
    """It is none of its public ones: a version that wants more of it has to find it."""
    code = (
        "import sys; from archcalc.cli.process import NoPlugins, PLUGINS; sys.modules[PLUGINS] = NoPlugins(PLUGINS);"
        "from pydantic.plugin._loader import get_plugins; print(get_plugins(), 'importlib.metadata' in sys.modules);"
        "from pydantic.plugin._loader import PYDANTIC_ENTRY_POINT_GROUP; print(PYDANTIC_ENTRY_POINT_GROUP);"
        "import pydantic.plugin._loader as real; print(real.__name__, real.__file__.endswith('_loader.py'))"
    )
    assert python(code).splitlines() == ["() False", "pydantic", f"{PLUGINS} True"]


def test_a_program_that_calls_us_keeps_its_plugins_and_its_collector() -> None:
    code = (
        "import gc, sys; before = gc.get_threshold(); from archcalc.cli import main; code = main(['specs']);"
        f"print(code, gc.get_threshold() == before, sys.modules['{PLUGINS}'].__file__.endswith('_loader.py'))"
    )
    assert python(code).splitlines()[-1] == "0 True True"


def sections(of: type[Section], seen: set[type[Section]]) -> Iterator[type[Section]]:
    """A section and those that its fields may hold."""
    if of in seen:
        return
    seen.add(of)
    yield of
    pending = [field.annotation for field in of.model_fields.values()]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from sections(annotation, seen)
        pending += getattr(annotation, "__args__", ())


def test_no_section_of_a_spec_has_pydantic_evaluate_text() -> None:
    found = list(sections(Spec, set()))
    assert len(found) > 30
    for section in found:
        postponed = [name for name, said in inspect.get_annotations(section).items() if isinstance(said, str)]
        assert not postponed, (section, "drop `from __future__ import annotations`")


def test_a_program_may_call_the_command_that_it_finds_among_the_console_scripts() -> None:
    code = (
        "from importlib.metadata import entry_points; import pydantic;"
        "(found,) = [e for e in entry_points(group='console_scripts') if e.name == 'archcalc'];"
        "call = found.load(); print('codes', call(['specs']), call(['params', 'nope']))"
    )
    assert python(code).splitlines()[-1] == "codes 0 2"
