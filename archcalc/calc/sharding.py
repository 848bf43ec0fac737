"""How logical axes fall on devices: local sizes of weights and activations, exact.

Megatron-LM's rules (arXiv:1909.08053, 2205.05198): tensor parallelism divides heads, key-value heads
(replicated past their number), feed-forward widths and the vocabulary; sequence parallelism divides the rows
of what tensor parallelism leaves whole; context parallelism divides all rows; expert parallelism divides the
experts and expert tensor parallelism their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from archcalc.errors import InputError
from archcalc.tape import Dim, Dims, Storage, Weight
from archcalc.tape.values import ITEM_BYTES

TP_AXES = frozenset({"heads", "kv_heads", "ffn", "vocab"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """Devices along each mesh axis, and how unevenly tokens are routed.

    Attributes:
        sp: sequence parallelism: rows that no other axis divides over `tp` are divided over it.
        etp: tensor parallelism of routed experts; each of its ranks sees all tokens of the group, so rows
        multiply by it.
        imbalance: routed rows of this device over the mean of its group.
        ulysses: context parallelism exchanges heads for tokens around attention (all-to-all), rather than
            passing keys and values around a ring.
    """

    tp: int = 1
    sp: bool = False
    cp: int = 1
    ep: int = 1
    etp: int = 1
    imbalance: Fraction = Fraction(1)
    ulysses: bool = False

    def divisor(self, axis: str | None) -> int:
        """Devices that divide a logical axis of features."""
        if axis in TP_AXES:
            return self.tp
        if axis == "experts":
            return self.ep
        return self.etp if axis == "expert_ffn" else 1

    def rows_divisor(self, features: Dims, rows: Dims) -> int:
        """Devices that divide token rows: a tensor uses each mesh axis once."""
        by_feature = any(d.axis in TP_AXES for d in (*features, *rows))
        return self.cp * (self.tp if self.sp and not by_feature else 1)


def local_size(d: Dim, divisor: int) -> int:
    """A dim divided over devices; key-value heads are replicated past their number. Raises InputError if it
    can't be."""
    if d.axis == "kv_heads" and divisor > d.size and divisor % d.size == 0:
        return 1
    if d.size % divisor:
        raise InputError(f"{d.name} {d.size} can't be divided over {divisor} devices", value=divisor)
    return d.size // divisor


def local_features(features: Dims, shards: Shards) -> int:
    """Product of the feature dims on one device [elements]."""
    size = 1
    for d in features:
        size *= local_size(d, shards.divisor(d.axis))
    return size


def local_rows(rows: Dims, features: Dims, shards: Shards) -> int:
    """Product of the row dims on one device; routed rows grow with `etp` and the imbalance, rounded up."""
    count, routed = 1, False
    for d in rows:
        if d.axis == "seq":
            count *= local_size(d, shards.rows_divisor(features, rows))
        elif d.axis == "routed":
            count *= d.size * shards.etp
            routed = True
        else:
            count *= local_size(d, shards.divisor(d.axis))
    spread = shards.imbalance
    return -(-count * spread.numerator // spread.denominator) if routed and spread != 1 else count


def local_bytes(storage: Storage, shards: Shards, *, fp8: bool = False) -> int:
    """One storage on one device [bytes]; as FP8 it takes a byte an element and an fp32 scale for 128 of a
    row's (K2, arXiv:2507.20534, section 2.4: 1x128 tiles)."""
    rows, features = local_rows(storage.rows, storage.features, shards), local_features(storage.features, shards)
    if fp8:
        return rows * (features + 4 * -(-features // 128))
    return rows * features * ITEM_BYTES[storage.dtype]


def local_elements(w: Weight, shards: Shards) -> int:
    """Elements of one layer's weight on one device, its stack included."""
    return local_features((*w.stack, *w.out, *w.into), shards)
