"""A frozen base held in fewer bits: what a device holds of a matrix, and what a product with it takes meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from archcalc.calc.sharding import Shards, local_elements, local_weight
from archcalc.files.schemes import Bnb4, Quantized
from archcalc.files.storage import Release
from archcalc.tape import Op, Stored, Weight, product
from archcalc.tape.values import ITEM_BYTES

NF4 = Bnb4(scheme="bitsandbytes-4bit", quant_type="nf4", block_size=64, dtype="bfloat16", double_quant=True)
"""QLoRA, arXiv:2305.14314, section 3: four bits a weight, a largest value for 64 in eight bits, and one in fp32 for
256 of those: 0.5 + 1/64 + 4/(64·256) bytes, 4.127 bits a weight."""


def packing(w: Weight, stored: Release | None) -> Callable[[Weight], tuple[Stored, ...]] | None:
    """What holds a matrix of a quantized base; None for its elements as they are.

    A release that quantizes anything is taken as it is, its plain matrices too; else NF4 packs the matrix. Layers that
    are stored in several ways count as the first of them.
    """
    if stored is None or not any(isinstance(scheme, Quantized) for _, scheme in stored.rules):
        return NF4.stored
    scheme = stored.scheme(stored.split([w])[0])
    return scheme.stored if isinstance(scheme, Quantized) else None


def packed_bytes(w: Weight) -> int:
    """One matrix of a weight [bytes]. What only describes it is left out: tables that all share, texts and shapes on
    the host."""
    assert w.packed is not None
    return sum(t.nbytes for t in w.packed(w) if not t.about)


def held_bytes(w: Weight, shards: Shards, item: int) -> int:
    """One layer's weight on one device, its stack included; `item` is of an element that is not packed [bytes]."""
    if w.packed is None:
        return item * local_elements(w, shards)
    local = local_weight(w, shards)
    return product(local.stack) * packed_bytes(local)


def whole_bytes(w: Weight, item: int) -> int:
    """All layers and experts of a weight, divided over nothing [bytes]."""
    return item * w.elements if w.packed is None else w.copies * packed_bytes(w)


def unpacked(op: Op, shards: Shards) -> int:
    """What a product with a packed matrix takes while it runs: the matrix in the dtype that it multiplies in, made for
    each product, forward and backward, and one expert's at a time [bytes].

    With the largest values of its blocks packed too, these in fp32 (bitsandbytes, functional.py, `dequantize_4bit`;
    autograd/_functions.py, `MatMul4Bit`).
    """
    most = 0
    for w in op.weights:
        if w.packed is not None:
            local = local_weight(w, shards)
            blocks = max((elements(t) for t in w.packed(local) if t.suffix.endswith(".absmax")), default=0)
            nested = any(t.suffix.endswith(".nested_absmax") for t in w.packed(local))
            most = max(most, ITEM_BYTES[w.dtype] * local.matrix + 4 * blocks * nested)
    return most


def elements(t: Stored) -> int:
    """Elements of a stored tensor."""
    return t.nbytes // ITEM_BYTES[t.dtype]
