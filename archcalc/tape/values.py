"""What operations work on: storages, tensors, weights. All data-less and exact."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Literal, NamedTuple

from archcalc.tape.dims import Dim, Dims, product

Part = Literal["backbone", "vision", "projector", "mtp"]
Role = Literal[
    "embedding",
    "head",
    "norm",
    "attention",
    "dense_ffn",
    "router",
    "router_bias",
    "routed_expert",
    "shared_expert",
    "latent_projection",
    "mtp",
    "vision",
    "projector",
]

NormKind = Literal["rms", "rms_zero_centered", "layer", "layer_no_bias", "none"]
"""Norms of a layer: RMSNorm, RMSNorm with 1 + weight, LayerNorm with weight and bias, with weight alone, with
neither."""

ITEM_BYTES: dict[str, int] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "bool": 1,
    "uint8": 1,
    "uint32": 4,
    "float8_e4m3fn": 1,
    "float8_e8m0fnu": 1,
    "float8_tensorwise": 1,
    "float8_blockwise": 1,
    "float8_mxfp8": 1,
}
"""Bytes of one element by dtype name (torch spelling); the last three have scales beside them."""

SCALED: dict[str, tuple[int, int]] = {"float8_blockwise": (128, 4), "float8_mxfp8": (32, 1)}
"""Of a quantized dtype, how many rows of a column share a scale, and its bytes; `float8_tensorwise` has one in fp32."""


def scale_bytes(dtype: str, rows: int, columns: int) -> int:
    """Scales of a tensor that is quantized down its columns, without what pads them [bytes]."""
    if dtype in SCALED:
        shared, item = SCALED[dtype]
        return -(-rows // shared) * columns * item
    return 4 if dtype == "float8_tensorwise" else 0


class Storage:
    """One allocation: what memory is counted by. Views share their base's storage.

    Attributes:
        rows: token dims; sharded by context and sequence parallelism.
        features: the other dims; sharded through their logical axes.
        dtype: torch dtype name.
    """

    __slots__ = ("dtype", "features", "rows")

    def __init__(self, rows: Dims, features: Dims, dtype: str) -> None:
        self.rows = rows
        self.features = features
        self.dtype = dtype

    @property
    def nbytes(self) -> int:
        """Unsharded size [bytes]."""
        return product(self.rows) * product(self.features) * ITEM_BYTES[self.dtype]


class Tensor:
    """A tensor without data: `rows` are token dims, `features` the rest; a view keeps the whole storage."""

    __slots__ = ("features", "requires_grad", "rows", "storage")

    def __init__(self, rows: Dims, features: Dims, storage: Storage, *, requires_grad: bool = True) -> None:
        self.rows = rows
        self.features = features
        self.storage = storage
        self.requires_grad = requires_grad

    @property
    def dtype(self) -> str:
        """The storage's dtype name."""
        return self.storage.dtype

    def view(self, features: Dims, rows: Dims | None = None) -> Tensor:
        """Another shape over the same storage (a slice, a reshape)."""
        return Tensor(self.rows if rows is None else rows, features, self.storage, requires_grad=self.requires_grad)


class Weight:
    """One weight or buffer of the public checkpoint, standing for all its indices.

    Attributes:
        path: module path as a template, `model.layers.{i}.mlp.experts.{e}.gate_proj`.
        suffix: `weight`, `bias`, `e_score_correction_bias`, ...; the own name of a bare parameter of the module at
            `path` (`sinks`).
        stack: dims of identical matrices (experts), apart from the matrix itself.
        out: output dims of one matrix [elements].
        into: its input dims; none for a vector. A linear's matrix is stored as product(out) x product(into).
        flat: whether it is stored so, rather than dim by dim (convolution kernels, position tables).
        active: the dim that replaces `stack` for the parameters a token uses, or None for all of them.
        trainable: False for buffers, which are no parameters.
        frozen: a parameter of the public class that gets no gradient all the same.
        rests: a parameter that this run does not train.
        whole: what it was divided from, where some of its layers are treated apart in this run.
        packed: how this run holds one matrix of it, where that is not its elements in one dtype (a quantized base).
        indices: layer indices that the template's `{i}` runs over (empty: no index).
        about: one sentence on what it is for.
    """

    __slots__ = (
        "about",
        "active",
        "dtype",
        "flat",
        "frozen",
        "indices",
        "into",
        "out",
        "packed",
        "part",
        "path",
        "rests",
        "role",
        "stack",
        "suffix",
        "trainable",
        "whole",
    )

    def __init__(
        self,
        path: str,
        suffix: str,
        out: Dims,
        into: Dims = (),
        *,
        flat: bool = True,
        stack: Dims = (),
        active: Dim | None = None,
        role: Role,
        part: Part,
        dtype: str,
        trainable: bool = True,
        frozen: bool = False,
        indices: tuple[int, ...] = (),
        about: str = "",
    ) -> None:
        self.path = path
        self.suffix = suffix
        self.out = out
        self.into = into
        self.flat = flat
        self.stack = stack
        self.active = active
        self.role: Role = role
        self.part: Part = part
        self.dtype = dtype
        self.trainable = trainable
        self.frozen = frozen
        self.rests = False
        self.whole: Weight | None = None
        self.packed: Callable[[Weight], tuple[Stored, ...]] | None = None
        self.indices = indices
        self.about = about

    def replace(self, **changes: Any) -> Weight:
        """The same weight with some attributes changed: one device's part, one layer's, another path's."""
        changed = Weight.__new__(Weight)
        for name in Weight.__slots__:
            setattr(changed, name, changes.pop(name) if name in changes else getattr(self, name))
        if changes:
            raise TypeError(f"a weight has no {', '.join(changes)}")
        return changed

    @property
    def trained(self) -> bool:
        """Whether training gives it a gradient and optimizer states."""
        return self.learnable and not self.rests

    @property
    def learnable(self) -> bool:
        """Whether training could: a parameter, and not one that no run trains."""
        return self.trainable and not self.frozen

    @property
    def of_vocabulary(self) -> bool:
        """Whether it has a row for each word: an embedding or a head, not a position table."""
        return any(d.axis == "vocab" for d in self.out)

    @property
    def copies(self) -> int:
        """Identical matrices: layers times stack."""
        return max(1, len(self.indices)) * product(self.stack)

    @property
    def matrix(self) -> int:
        """Elements of one matrix."""
        return product(self.out) * product(self.into)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one matrix in the checkpoint."""
        if not self.flat:
            return tuple(d.size for d in (*self.out, *self.into))
        return (product(self.out), product(self.into)) if self.into else (product(self.out),)

    @property
    def elements(self) -> int:
        """Elements of all copies."""
        return self.copies * self.matrix

    @property
    def active_elements(self) -> int:
        """Elements that one token uses: the stack replaced by `active` (DeepSeekMoE, arXiv:2401.06066)."""
        stack = product(self.stack) if self.active is None else self.active.size
        return max(1, len(self.indices)) * stack * self.matrix


class Stored(NamedTuple):
    """One tensor of a checkpoint: its name's last piece, its dtype and shape.

    `about`: whether it only describes the others (a shape, a table of values), so that each part of a divided matrix
    has all of it.
    """

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    about: bool = False

    @property
    def nbytes(self) -> int:
        """Tensor data [bytes]."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]
