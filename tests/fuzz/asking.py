"""Questions about drawn specs, asked in a folder of their own."""

from __future__ import annotations

import json
import tempfile
from contextlib import chdir
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.documents import document, names, words_of
from tests.fuzz.mutate import mutated
from tests.fuzz.written import json_text, yaml_text
from tests.support import Ran, run


def ask(files: dict[str, Any], *arguments: str) -> Ran:
    """A command over these files, in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name, data in files.items():
            Path(name).write_text(
                json_text(data) if name.endswith(".json") else yaml_text(data), errors="surrogatepass"
            )
        return run(*arguments)


def report(files: dict[str, Any], *arguments: str) -> dict[str, Any] | None:
    """The JSON answer of a command, None where it refuses."""
    ran = ask(files, *arguments, "--format", "json")
    found: dict[str, Any] | None = json.loads(ran.out) if ran.code == 0 else None
    return found


@cache
def small() -> tuple[str, ...]:
    """Specs that are quick to ask about: all but the bundled ones, and a few of those."""
    return tuple(dict.fromkeys(name for name in names("spec") if name in names("config") or name == "tiny"))


def drawn(rng: Random) -> dict[str, Any]:
    """A valid spec: of a released model one time in twenty."""
    name = rng.choice(names("spec")) if rng.randrange(20) == 0 else rng.choice(small())
    found: dict[str, Any] = document("spec", name)
    return found


def changed(rng: Random, spec: Any) -> dict[str, Any] | None:
    """A spec after one or two changes, None where it is valid no more."""
    for _ in range(rng.choice((1, 1, 2))):
        spec = mutated(rng, spec, words_of("spec"))
    return spec if isinstance(spec, dict) and ask({"s.yaml": spec}, "validate", "s.yaml").code == 0 else None
