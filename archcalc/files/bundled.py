"""Where the bundled files are, and what they are called. Only the standard library: shells ask on each press of Tab."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled_dir() -> Path:
    """Folder of the bundled files: inside an installed package, or `specs/` of a checkout."""
    inside = _PACKAGE / "bundled" / "specs"
    return inside if inside.is_dir() else _PACKAGE.parent / "specs"


def bundled_names(kind: str = "") -> list[str]:
    """Names of the bundled specs, or of the files of a `kind` folder (`plans`, `hardware`, `engines`, `stacks`)."""
    return sorted(name.removesuffix(".yaml") for name in os.listdir(bundled_dir() / kind) if name.endswith(".yaml"))
