"""archcalc: sizes model architectures from YAML specs, and proves its numbers.

Every command is a function with the same parameters: `archcalc.kv("k25", context="256k")`. docs/python.md walks through
them. Nothing is loaded before it is used.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "ArchcalcError",
    "InputError",
    "Plot",
    "Report",
    "Spec",
    "SpecError",
    "card",
    "check",
    "claims",
    "crosscheck",
    "diff",
    "flops",
    "import_config",
    "kv",
    "load",
    "params",
    "plot",
    "serve",
    "train",
    "weights",
]

if TYPE_CHECKING:
    from archcalc.api.checks import check, crosscheck, diff
    from archcalc.api.counts import card, claims, flops, kv, params, weights
    from archcalc.api.memory import serve, train
    from archcalc.api.pictures import Plot, plot
    from archcalc.api.report import Report
    from archcalc.api.specs import Spec, import_config, load
    from archcalc.errors import ArchcalcError, InputError, SpecError
else:
    _HOMES = {
        "archcalc.api.checks": ("check", "crosscheck", "diff"),
        "archcalc.api.counts": ("card", "claims", "flops", "kv", "params", "weights"),
        "archcalc.api.memory": ("serve", "train"),
        "archcalc.api.pictures": ("Plot", "plot"),
        "archcalc.api.report": ("Report",),
        "archcalc.api.specs": ("Spec", "import_config", "load"),
        "archcalc.errors": ("ArchcalcError", "InputError", "SpecError"),
    }

    def __getattr__(name):
        """A public name, loaded where it is first asked for (PEP 562)."""
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(home), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
