"""How logical axes fall on devices: the one map for weights, activations, caches and states, in training and serving.

Tensor parallelism divides heads, key-value heads (replicated past their number), feed-forward widths and the
vocabulary (Megatron-LM, arXiv:1909.08053; vLLM, model_executor/layers/linear.py); sequence parallelism divides the
rows of what tensor parallelism leaves whole (arXiv:2205.05198); context parallelism divides all rows; expert
parallelism divides the experts and expert tensor parallelism their width. A vocabulary that does not divide is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from archcalc.errors import InputError
from archcalc.tape import Dim, Dims, Storage, Tape, Weight
from archcalc.tape.values import ITEM_BYTES, scale_bytes

TP_AXES = frozenset({"heads", "kv_heads", "ffn", "vocab"})
TOWER_AXES = frozenset({"vision_heads", "vision_ffn"})


class Indivisible(InputError):
    """A dim that can't be divided so. `axis` is its logical axis: who knows the flags adds a hint."""

    axis: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """Devices along each mesh axis, and how unevenly tokens are routed.

    Attributes:
        sp: sequence parallelism: rows that no other axis divides over `tp` are divided over it.
        etp: tensor parallelism of routed experts; each of its ranks sees all tokens of the group, so rows
            multiply by it.
        etp_name: what that is called where it is made from other sizes.
        uneven_experts: where `ep` does not divide the experts, some devices hold one more.
        tower: devices that divide a vision tower.
        vocab_multiple: what a vocabulary that `tp` does not divide is padded to a multiple of; 0: it may not be padded.
        vocab_always: whether it is padded to that where `tp` divides it too.
        imbalance: routed rows of this device over the mean of its group.
        ulysses: context parallelism exchanges heads for tokens around attention (all-to-all), rather than
            passing keys and values around a ring.
    """

    tp: int = 1
    sp: bool = False
    cp: int = 1
    ep: int = 1
    etp: int = 1
    etp_name: str = "etp"
    uneven_experts: bool = False
    tower: int = 1
    vocab_multiple: int = 0
    vocab_always: bool = False
    imbalance: Fraction = Fraction(1)
    ulysses: bool = False

    def way(self, axis: str | None) -> tuple[str, int]:
        """What divides a logical axis of features, and into how many parts."""
        if axis in TP_AXES:
            return "tp", self.tp
        if axis == "experts":
            return "ep", self.ep
        if axis in TOWER_AXES:
            return "tp", self.tower
        return (self.etp_name, self.etp) if axis == "expert_ffn" else ("", 1)

    def rows_divisor(self, features: Dims, rows: Dims) -> int:
        """Devices that divide token rows: a tensor uses each mesh axis once."""
        by_feature = any(d.axis in TP_AXES for d in (*features, *rows))
        return self.cp * (self.tp if self.sp and not by_feature else 1)


def padded(d: Dim, shards: Shards) -> int:
    """A dim with what is added so that it divides: a vocabulary's rows, else nothing [elements]."""
    if d.axis != "vocab" or not shards.vocab_multiple:
        return d.size
    parts = shards.way(d.axis)[1]
    if d.size % parts == 0 and not shards.vocab_always:
        return d.size
    multiple = lcm(shards.vocab_multiple, parts)
    return -(-d.size // multiple) * multiple


def local_size(d: Dim, shards: Shards) -> int:
    """A feature dim on the fullest device; key-value heads are replicated past their number. Raises Indivisible."""
    parts = shards.way(d.axis)[1]
    if parts == 1:
        return padded(d, shards)
    if d.axis == "kv_heads" and parts > d.size and parts % d.size == 0:
        return 1
    if d.axis == "experts" and shards.uneven_experts:
        return -(-d.size // parts)
    size = padded(d, shards)
    if size % parts:
        raise _indivisible(d, shards)
    return size // parts


def uneven(d: Dim, shards: Shards) -> Indivisible | None:
    """What `local_size` would raise for a dim, and None where it divides."""
    parts = shards.way(d.axis)[1]
    if parts == 1 or padded(d, shards) % parts == 0:
        return None
    replicated = d.axis == "kv_heads" and parts % d.size == 0
    return None if replicated or (d.axis == "experts" and shards.uneven_experts) else _indivisible(d, shards)


def _indivisible(d: Dim, shards: Shards) -> Indivisible:
    option, parts = shards.way(d.axis)
    how = "can be neither divided nor replicated" if d.axis == "kv_heads" else "can't be divided"
    hint = f"choose {'an' if option[0] in 'aeiou' else 'a'} {option} that divides {d.size}"
    error = Indivisible(f"{d.name} {d.size} {how} over {option} {parts}", value=parts, hint=hint)
    error.axis = d.axis or ""
    return error


def local_features(features: Dims, shards: Shards) -> int:
    """Product of the feature dims on one device [elements]."""
    size = 1
    for d in features:
        size *= local_size(d, shards)
    return size


def local_rows(rows: Dims, features: Dims, shards: Shards) -> int:
    """Product of the row dims on one device; routed rows grow with `etp` and the imbalance, rounded up."""
    count, routed = 1, False
    for d in rows:
        if d.axis == "seq":
            devices = shards.rows_divisor(features, rows)
            if d.size % devices:
                raise InputError(f"{d.name} {d.size} can't be divided over {devices} devices", value=devices)
            count *= d.size // devices
        elif d.axis == "routed":
            count *= d.size * shards.etp
            routed = True
        else:
            count *= local_size(d, shards)
    spread = shards.imbalance
    return -(-count * spread.numerator // spread.denominator) if routed and spread != 1 else count


def local_bytes(storage: Storage, shards: Shards, *, fp8: bool = False) -> int:
    """One storage on one device [bytes]; as FP8 it takes a byte an element and an fp32 scale for 128 of a
    row's (K2, arXiv:2507.20534, section 2.4: 1x128 tiles)."""
    rows, features = local_rows(storage.rows, storage.features, shards), local_features(storage.features, shards)
    if fp8:
        return rows * (features + 4 * -(-features // 128))
    return rows * features * ITEM_BYTES[storage.dtype] + scale_bytes(storage.dtype, rows, features)


def local_elements(w: Weight, shards: Shards) -> int:
    """Elements of one layer's weight on one device, its stack included."""
    return local_features((*w.stack, *w.out, *w.into), shards)


def local_weight(w: Weight, shards: Shards) -> Weight:
    """The part of a weight that one device holds. Raises Indivisible."""
    return _resized(w, lambda d: local_size(d, shards))


def padded_weight(w: Weight, shards: Shards) -> Weight:
    """A weight with the rows that are added so that it divides."""
    return _resized(w, lambda d: padded(d, shards))


def _resized(w: Weight, size: Callable[[Dim], int]) -> Weight:
    def dims(old: Dims) -> Dims:
        return tuple(Dim(d.name, size(d), d.axis) for d in old)

    return w.replace(out=dims(w.out), into=dims(w.into), stack=dims(w.stack))


class Padding(NamedTuple):
    """A dim that is padded on these devices [elements]."""

    name: str
    size: int
    padded: int


def paddings(weights: Iterable[Weight], shards: Shards) -> list[Padding]:
    """Every size that is padded so that it divides, once."""
    dims = (d for w in weights for d in (*w.out, *w.into))
    return list(dict.fromkeys(Padding(d.name, d.size, padded(d, shards)) for d in dims if padded(d, shards) != d.size))


def check_heads(tape: Tape, tp: int) -> None:
    """Raises Indivisible unless the heads of every mixer of the backbone divide over `tp`."""
    shards = Shards(tp=tp)
    for op in tape.ops("backbone"):
        for storage in op.outputs:
            for d in storage.features:
                if d.axis == "heads":
                    local_size(d, shards)
