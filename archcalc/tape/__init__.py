"""The vocabulary that blocks are written in: dims, tensors without data, weights, operations, and the tape."""

from archcalc.tape.dims import Dim, Dims, Number, Term, formula, numeric, product, value
from archcalc.tape.op import Cache, FlopClass, Op, Save, Segment
from archcalc.tape.span import ALL, SEQUENCE, Span
from archcalc.tape.tape import Tape
from archcalc.tape.values import Part, Role, Storage, Stored, Tensor, Weight

__all__ = [
    "ALL",
    "SEQUENCE",
    "Cache",
    "Dim",
    "Dims",
    "FlopClass",
    "Number",
    "Op",
    "Part",
    "Role",
    "Save",
    "Segment",
    "Span",
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
