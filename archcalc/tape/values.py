"""What a tape is made of: storages, tensors, weights, operations, segments. All data-less and exact."""

from __future__ import annotations

from copy import copy
from math import prod
from typing import Any, Literal, NamedTuple

from archcalc.tape.dims import Dim, Dims, Number, product
from archcalc.tape.span import ALL, Span

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
    "float8_e4m3fn": 1,
}
"""Bytes of one element by dtype name (torch spelling)."""


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
        indices: layer indices that the template's `{i}` runs over (empty: no index).
        about: one sentence on what it is for.
    """

    __slots__ = (
        "about",
        "active",
        "dtype",
        "flat",
        "indices",
        "into",
        "out",
        "part",
        "path",
        "role",
        "stack",
        "suffix",
        "trainable",
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
        self.indices = indices
        self.about = about

    def replace(self, **changes: Any) -> Weight:
        """The same weight with some attributes changed: one device's part, one layer's, another path's."""
        changed = copy(self)
        for name, value in changes.items():
            setattr(changed, name, value)
        return changed

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
    """One tensor of a checkpoint: its name's last piece, its dtype and shape."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Tensor data [bytes]."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


class Save(NamedTuple):
    """A storage kept for backward.

    `when` names kernel variants that must all be in use (`fused`, `eager`, `flash`, `math`, `probs_act`, `probs_out`,
    `loss_eager`, `loss_fused`); empty means always.
    """

    storage: Storage
    when: tuple[str, ...] = ()


class Cache(NamedTuple):
    """What one layer keeps of a sequence between decode steps: entries of `features`, as many as `span` says.

    Attributes:
        kind: `latent`, `rope`, `key`, `value`, `index`, `state`, `conv`, ...: cache layouts store them in different
            dtypes.
        features: one entry; sharded through their logical axes.
        span: how many entries a sequence of a given length has.
        dtype: torch dtype name where the entry keeps its own whatever the cache's layout (a state in fp32), or None.
    """

    kind: str
    features: Dims
    span: Span = ALL
    dtype: str | None = None


FlopClass = Literal["linear", "attention", "index", "scan", "conv"]
"""What FLOPs count as: products with weights, attention scores and values, scores that only choose what attention
sees, recurrences over a state, convolutions."""

WeightGradient = Literal["none", "gemm", "accumulated"]
"""How a weight's gradient is made: not by a product that can be put off; by a product with the operation's input; or
by one that a fused kernel may add straight into the main gradient (Megatron-LM --gradient-accumulation-fusion)."""

Exchange = Literal["none", "tensor", "context", "send", "return"]
"""How an operation's operands travel: gathered before or scattered after it among tensor-parallel devices where
sequence parallelism divides their rows; keys and values (or heads) among context-parallel ones; the result sent to
the devices of its experts; the operand returned from there."""


class Op(NamedTuple):
    """One operation of the forward pass, with the facts that calculators fold over.

    `kind` is for people: no number depends on it.

    Attributes:
        kind: the name of the operation.
        path: local path, a template as a weight's.
        site: where savers may act.
        inputs, outputs: storages; the result is the first output, if there is one.
        weights: what it multiplies or adds, the main one first.
        flops: of the forward pass of one copy, and what they count as.
        backward_factor: backward over forward FLOPs.
        saves: what it keeps for backward.
        caches: what it keeps between decode steps.
        about: one sentence on what it is for.
        weight_gradient: whether that needs the input, and who adds it up.
        exchange: how its operands travel between devices.
        sums: its result is the sum of its operands, which share its gradient.
        span: how far back it looks, where it scores pairs.
    """

    kind: str
    path: str
    site: str
    inputs: tuple[Storage, ...]
    outputs: tuple[Storage, ...]
    weights: tuple[Weight, ...] = ()
    flops: Number = ()
    counts_as: FlopClass = "linear"
    backward_factor: int = 0
    saves: tuple[Save, ...] = ()
    caches: tuple[Cache, ...] = ()
    about: str = ""
    weight_gradient: WeightGradient = "none"
    exchange: Exchange = "none"
    sums: bool = False
    span: Span | None = None


class Segment:
    """A run of operations traced once that stands for all its `indices`: the unit a pipeline stage can hold."""

    __slots__ = ("entry", "indices", "ops", "part", "path")

    def __init__(self, path: str, indices: tuple[int, ...], part: Part, entry: Storage | None) -> None:
        self.path = path
        self.indices = indices
        self.part: Part = part
        self.entry = entry
        self.ops: list[Op] = []

    @property
    def count(self) -> int:
        """How many identical copies it stands for."""
        return max(1, len(self.indices))
