"""The typer application: commands by name, imported when called, and the place that turns errors into exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from archcalc.cli.streams import lasting, tell
from archcalc.errors import ArchcalcError, FileWarning, harmless

COMMANDS: dict[str, str] = {
    "card": "card",
    "params": "params",
    "claims": "claims",
    "flops": "flops",
    "kv": "kv",
    "weights": "weights",
    "train": "train",
    "crosscheck": "crosscheck",
    "serve": "serve",
    "plot": "plot",
    "report": "report",
    "diff": "diff",
    "check": "check",
    "validate": "validate",
    "schema": "schema",
    "specs": "specs",
    "show": "show",
    "import": "import_",
}
"""Command name to its module in archcalc.cli; each module has a function `command` and what it does, HELP (`python -OO`
has no docstrings), or an application of several."""


class _InOrder(TyperGroup):
    """Commands as `COMMANDS` lists them; typer puts those that have commands of their own last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if name in self.commands]


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    with lasting(), warnings.catch_warnings():
        warnings.simplefilter("default", FileWarning)  # each once a run
        warnings.showwarning = _warn
        code = _guarded(lambda: _invoke(arguments), arguments)
        written = _guarded(_flush, arguments)
        return code or written


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line for a warning, of ours or of a library."""
    tell(f"warning: {harmless(str(message))}")


def _guarded(step: Callable[[], int], arguments: list[str]) -> int:
    """The exit code of a step of a command line, every error told."""
    try:
        return _interruptible(step)
    except ArchcalcError as error:
        tell(error.render())
        return error.exit_code
    except typer.Exit as done:
        return done.exit_code
    except typer.TyperException as error:
        from archcalc.cli.usage import usage_error

        tell(usage_error(error, arguments))
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except OSError as error:
        tell(f"error: {harmless(error.strerror or str(error))}")
        return 2
    except Exception as error:
        if os.environ.get("ARCHCALC_TRACEBACK"):
            raise
        tell(
            f"internal error: {type(error).__name__}: {harmless(str(error))}\n"
            "hint: this is a bug of archcalc; ARCHCALC_TRACEBACK=1 shows where"
        )
        return 3


def _interruptible(step: Callable[[], int]) -> int:
    """A step of a command line. A compiled module (torch's, numpy's) that meets Ctrl-C while it loads raises an
    ImportError in its place, with it as the cause: that is Ctrl-C all the same, and no bug of ours."""
    try:
        return step()
    except Exception as error:
        behind: BaseException | None = error
        while behind is not None:
            behind = behind.__cause__ or behind.__context__
            if isinstance(behind, KeyboardInterrupt):
                raise behind from None
        raise


def _flush() -> int:
    sys.stdout.flush()
    return 0


def _invoke(arguments: list[str]) -> int:
    if os.environ.get("_ARCHCALC_COMPLETE"):
        return _complete()
    if len(arguments) == 1 and _is_spec(arguments[0]):
        arguments = ["card", *arguments]
    wanted = arguments[:1] if arguments and arguments[0] in COMMANDS else list(COMMANDS)
    return _main(typer.main.get_command(application(wanted)), arguments or ["--help"])


def _complete() -> int:
    """Tell a shell how a command line may go on, which its variables hold. One that is wrong goes on in no way."""
    from archcalc.cli.completion import teach

    group = typer.main.get_command(application(list(COMMANDS)))
    teach(group)
    try:
        return _main(group, [])
    except (ArchcalcError, typer.TyperException):
        return 1


def _main(group: Any, arguments: list[str]) -> int:
    result = group.main(arguments, prog_name="archcalc", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _is_spec(word: str) -> bool:
    """Whether the only word of a command line names a spec and no command."""
    if word in COMMANDS or word.startswith("-"):
        return False
    from archcalc.files.bundled import bundled_names

    return word.startswith("hf:") or os.path.exists(word) or word.lower() in bundled_names()


def application(names: list[str]) -> typer.Typer:
    """The typer application with these commands; only their modules are imported."""
    app = typer.Typer(
        name="archcalc",
        cls=_InOrder,
        help="Sizes model architectures from YAML specs, and proves its numbers.",
        add_completion=len(names) > 1,  # its options belong to archcalc alone, not to its commands
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
    )
    app.callback()(_root)
    for name in names:
        module = import_module(f"archcalc.cli.{COMMANDS[name]}")
        if isinstance(module.command, typer.Typer):
            app.add_typer(module.command, name=name)
        else:
            app.command(name, help=module.HELP)(module.command)
    return app


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"archcalc {version('archcalc')}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Sizes model architectures from YAML specs, and proves its numbers."""
