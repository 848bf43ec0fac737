"""How module paths are shown and found: `layers.{i}` over 1..60 is `layers.1-60`."""

from __future__ import annotations

from collections.abc import Sequence

from archcalc.tape import Weight, product

PART_ORDER = ("backbone", "vision", "projector", "mtp")
"""The order in which parts are listed: the largest first, what is counted apart last."""


def ranges(indices: Sequence[int]) -> str:
    """Indices as text: (0, 1, 2, 5) is `0-2,5`."""
    runs: list[list[int]] = []
    for i in indices:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def folded(template: str, indices: Sequence[int], experts: int = 0) -> str:
    """A path template with its index sets written in."""
    return template.replace("{i}", ranges(indices)).replace("{e}", ranges(range(experts)))


def weight_path(w: Weight) -> str:
    """The folded path of a weight, with its suffix: `model.layers.1-60.mlp.experts.0-383.up_proj.weight`."""
    return f"{folded(w.path, w.indices, product(w.stack))}.{w.suffix}"


def covers(template: str, indices: Sequence[int], experts: int, wanted: str) -> bool:
    """Whether `wanted` names this path or a part above it.

    Each piece of `wanted` may be the literal name, the template's `{i}`, `*`, a single index, or a folded range.
    """
    pieces, asked = template.split("."), wanted.split(".")
    if len(asked) > len(pieces):
        return False
    return all(_piece(piece, ask, indices, experts) for piece, ask in zip(pieces, asked, strict=False))


def _piece(piece: str, asked: str, indices: Sequence[int], experts: int) -> bool:
    if piece == asked:
        return True
    if piece not in ("{i}", "{e}"):
        return False
    members = indices if piece == "{i}" else range(experts)
    return asked in ("*", ranges(members)) or (asked.isdecimal() and int(asked) in members)
