"""The installed command: `main` in a process of its own, which is spared what only a longer life repays."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from archcalc.cli import main

PLUGINS = "pydantic.plugin._loader"
"""Where pydantic finds its plugins: it reads the metadata of every package, which is 5 % of a start."""


class NoPlugins(ModuleType):
    """Stands there instead and knows of none: this process validates our own files alone. Whatever else a version of
    pydantic may ask of the module, the module itself answers."""

    @staticmethod
    def get_plugins() -> tuple[()]:
        """None."""
        return ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        sys.modules.pop(PLUGINS, None)
        return getattr(import_module(PLUGINS), name)


def spare() -> None:
    """Keep this process from looking for plugins, and for garbage: imports make many objects, and nearly all stay."""
    gc.set_threshold(100_000)
    sys.modules.setdefault(PLUGINS, NoPlugins(PLUGINS))


def script(arguments: list[str] | None = None) -> int:
    """Run the command line of this process, and end it: all is written by then, and the system takes a process down
    faster than Python, which does so object by object. A program that hands in `arguments` gets their exit code."""
    if arguments is not None:
        return main(arguments)
    spare()
    os._exit(main())
