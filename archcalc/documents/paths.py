"""How module paths are shown and found: `layers.{i}` over 1..60 is `layers.1-60`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from archcalc.tape import Tape, Weight, product
from archcalc.tape.indices import ranges, runs

PART_ORDER = ("backbone", "vision", "projector", "mtp")
"""The order in which parts are listed: the largest first, what is counted apart last."""


class Place(NamedTuple):
    """A path that can be asked for: a module, a weight, or an operation without weights.

    Attributes:
        template: path with `{i}` for layers and `{e}` for experts.
        indices: layers that `{i}` runs over.
        experts: experts that `{e}` runs over, from 0.
        part: the part of the model that it belongs to.
    """

    template: str
    indices: tuple[int, ...]
    experts: int
    part: str


def folded(template: str, indices: Sequence[int], experts: int = 0) -> str:
    """A path template with its index sets written in."""
    if "{i}" in template:
        template = template.replace("{i}", ranges(indices))
    return template.replace("{e}", ranges(range(experts)))


def starred(template: str) -> str:
    """A path template with `*` for every index."""
    return template.replace("{i}", "*").replace("{e}", "*")


def where(template: str, indices: Sequence[int], experts: int = 0) -> dict[str, Any]:
    """Keys of a row that stands for a place of the model: its printed path, and what that is folded from."""
    return {
        "path": folded(template, indices, experts),
        "template": template,
        "indices": runs(indices) if "{i}" in template else [],
        "experts": experts if "{e}" in template else 0,
    }


def weight_where(w: Weight, pieces: int | None = None) -> dict[str, Any]:
    """The same of a weight, or of the module that the first `pieces` of its path name; the path of a weight has its
    suffix: `model.layers.1-60.mlp.experts.0-383.up_proj.weight`."""
    template = f"{w.path}.{w.suffix}".split(".")[:pieces]
    return where(".".join(template), w.indices, product(w.stack))


def covers(template: str, indices: Sequence[int], experts: int, wanted: str) -> bool:
    """Whether `wanted` names this path or a part above it.

    Each piece of `wanted` may be the literal name, the template's `{i}`, `*`, a single index, or a folded range.
    """
    pieces, asked = template.split("."), wanted.split(".")
    if len(asked) > len(pieces):
        return False
    return all(fits(piece, ask, indices, experts) for piece, ask in zip(pieces, asked, strict=False))


def fits(piece: str, asked: str, indices: Sequence[int], experts: int) -> bool:
    """Whether one piece of a template may be called so."""
    if piece == asked:
        return True
    if piece not in ("{i}", "{e}"):
        return False
    members = indices if piece == "{i}" else range(experts)
    return int(asked) in members if is_index(asked) else asked in ("*", ranges(members))


def is_index(piece: str) -> bool:
    """Whether a piece of a path is an index written out."""
    return piece.isascii() and piece.isdecimal() and len(piece) < 10


def places(tape: Tape) -> list[Place]:
    """Every place of a model once, in forward order, those above a place before it."""
    found: dict[Place, None] = {}
    for segment in tape.segments:
        weights = [w for op in segment.ops for w in op.weights if w.part == segment.part]
        experts = max((product(w.stack) for w in weights), default=0)
        named = [op.path for op in segment.ops if op.about or op.weights]
        for path in (*named, *(f"{w.path}.{w.suffix}" for w in weights)):
            pieces = path.split(".")
            for n in range(1, len(pieces) + 1):
                template = ".".join(pieces[:n])
                indices = segment.indices if "{i}" in template else ()
                found[Place(template, indices, experts if "{e}" in template else 0, segment.part)] = None
    return list(found)
