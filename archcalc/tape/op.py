"""What a tape is made of: operations with the facts that calculators fold over, and segments of them."""

from __future__ import annotations

from collections.abc import Set
from copy import copy
from typing import Literal, NamedTuple

from archcalc.tape.dims import Dims, Number
from archcalc.tape.indices import ranges
from archcalc.tape.span import ALL, Span
from archcalc.tape.values import Part, Storage, Weight

Variant = Literal[
    "fused",
    "eager",
    "flash",
    "flash_copied",
    "unfused",
    "hidden_dropout",
    "attention_dropout",
    "attention_undropped",
    "rope_unfused",
    "probs_act",
    "probs_out",
    "deterministic",
    "loss_eager",
    "loss_fused",
    "loss_te",
    "loss_chunked",
    "fp8_tensorwise",
    "fp8_blockwise",
    "fp8_mxfp8",
]
"""How one kind of operation is run: elementwise kernels, attention's core, the place where router probabilities
multiply, the loss, rotation; whether there is dropout; and what linears multiply in, where that is FP8."""


Needs = Literal["any", "weight", "input"]
"""Which gradient asks for what is kept: any that the operation has, its weight's, its input's."""


class Save(NamedTuple):
    """A storage kept for backward, where all the variants of `when` are in use; always where there are none.

    `needs`: a frozen weight has no gradient, nor has an input with nothing trained before it. Plain operations keep
    what each gradient takes; a kernel written as one function keeps all of it for either. `copies`: what is kept in its
    place, each under a variant.
    """

    storage: Storage
    when: tuple[Variant, ...] = ()
    needs: Needs = "any"
    copies: tuple[tuple[Variant, Storage], ...] = ()

    def taken(self, variants: Set[Variant]) -> Storage | None:
        """What is kept in the storage's place, or None where that is kept itself."""
        return next((copy for variant, copy in self.copies if variant in variants), None)


class Work(NamedTuple):
    """A storage that an operation's kernels make and drop again while it runs, where all the variants of `when` are in
    use: forward, or backward before the gradients of its first two operands are made. Nothing counts twice that is
    kept."""

    storage: Storage
    backward: bool
    when: tuple[Variant, ...] = ()


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
        masks: variants under which the second of them is dropped out first: its gradient is a tensor of its own.
        works: what its kernels make beside that.
        bases: what fused kernels write beside an input that is a view, in one storage with it: kept by an ordinary
            checkpoint of this operation, which keeps the view.
        span: how far back it looks, where it scores pairs.
        turned: features of a head that it rotates.
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
    masks: tuple[Variant, ...] = ()
    works: tuple[Work, ...] = ()
    bases: tuple[Storage, ...] = ()
    span: Span | None = None
    turned: int = 0


class Segment:
    """A run of operations traced once that stands for all its `indices`: the unit a pipeline stage can hold.

    Attributes:
        entry: the residual that comes in.
        beside: what earlier segments left for it beside that; theirs to keep for backward.
        handed: what it makes for later segments, kept whatever is recomputed.
        ungraded: storages that need no gradient: nothing that is trained lies before them.
        learns: whether a gradient passes any of its operations; else it keeps nothing and has no backward.
    """

    __slots__ = ("beside", "entry", "handed", "indices", "learns", "ops", "part", "path", "ungraded")

    def __init__(self, path: str, indices: tuple[int, ...], part: Part, entry: Storage | None) -> None:
        self.path = path
        self.indices = indices
        self.part: Part = part
        self.entry = entry
        self.ops: list[Op] = []
        self.beside: tuple[Storage, ...] = ()
        self.handed: tuple[Storage, ...] = ()
        self.ungraded: frozenset[Storage] = frozenset()
        self.learns = True

    @property
    def count(self) -> int:
        """How many identical copies it stands for."""
        return max(1, len(self.indices))

    def without(self, sites: frozenset[str]) -> Segment:
        """The same run of operations, less those at some sites."""
        left = copy(self)
        left.ops = [op for op in self.ops if op.site not in sites]
        return left

    @property
    def name(self) -> str:
        """Its path with the layers it stands for written in: `model.layers.1-60`."""
        return self.path.replace("{i}", ranges(self.indices))
