"""The vocabulary that blocks are written in: dims, tensors without data, weights, operations, and the tape."""

from archcalc.tape.dims import Dim, Dims, Number, Term, formula, numeric, product, value
from archcalc.tape.tape import Tape
from archcalc.tape.values import Cache, Op, Part, Role, Save, Segment, Storage, Stored, Tensor, Weight

__all__ = [
    "Cache",
    "Dim",
    "Dims",
    "Number",
    "Op",
    "Part",
    "Role",
    "Save",
    "Segment",
    "Storage",
    "Stored",
    "Tape",
    "Tensor",
    "Term",
    "Weight",
    "formula",
    "numeric",
    "product",
    "value",
]
