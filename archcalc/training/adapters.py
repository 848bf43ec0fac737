"""Low-rank adapters on a tape: two small linears and a sum beside each linear that has them.

y = W·x + B·A·x·(alpha/R), A [R, in], B [out, R] (LoRA, arXiv:2106.09685, section 4.1; PEFT, tuners/lora/layer.py,
`Linear.forward`). Every linear layer has one but routers, embedding and head, as PEFT's target `all-linear` says of
dense models; of a stack of experts each expert's matrix has its own (PEFT where experts are modules of their own;
Megatron-Bridge with share_expert_adapters false). They are made in the model's dtype, without dropout.

Tensor parallelism divides B by its outputs, and A by its inputs beside a row-parallel matrix, by its rank beside a
column-parallel one, whose result is gathered; adapters of what is not divided are whole (Megatron-Bridge,
peft/utils.py, `ParallelLinearAdapter`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from archcalc.tape import Dim, Dims, Op, Save, Segment, Storage, Term, Weight

PARALLEL = {
    "heads": "ffn",
    "kv_heads": "ffn",
    "ffn": "ffn",
    "vocab": "ffn",
    "vision_heads": "vision_ffn",
    "vision_ffn": "vision_ffn",
    "expert_ffn": "expert_ffn",
}
"""Axes that divide a matrix, each with the one that divides its adapter's other side alike."""


def adapts(op: Op) -> bool:
    """Whether an operation is a linear layer that adapters are for, its head included where that has adapters."""
    return op.weight_gradient == "accumulated" and op.weights[0].role not in ("router", "embedding")


Pairs = dict[int, tuple[Weight, Weight]]
"""A and B of matrices, by the identity of each: a matrix that several operations multiply with has one pair."""


def adapted(segment: Segment, swapped: Mapping[int, Weight], rank_of: Callable[[Weight], int], pairs: Pairs) -> Segment:
    """A segment with other weights in the place of its own, and adapters of a rank beside its linear layers.

    Args:
        swapped: by the identity of a weight.
        rank_of: of the adapters of a weight, 0 where it has none.
        pairs: those made so far.
    """
    new = Segment(segment.path, segment.indices, segment.part, segment.entry)
    new.beside, new.handed = segment.beside, segment.handed
    for op in segment.ops:
        other = op._replace(weights=tuple(swapped.get(id(w), w) for w in op.weights))
        rank = rank_of(op.weights[0]) if op.weights and adapts(op) else 0
        if rank:
            own, dim = op.weights[0], Dim("lora_rank", rank)
            pair = pairs[id(own)] = pairs.get(id(own)) or _pair(other.weights[0], dim)
            new.ops += _with_adapter(other, dim, pair)
        else:
            new.ops.append(other)
    return new


def _with_adapter(op: Op, rank: Dim, pair: tuple[Weight, Weight]) -> Iterator[Op]:
    """A linear, A, B, the scale, and the sum, which takes the place of the linear's result."""
    w, x, y = op.weights[0], op.inputs[0], op.outputs[0]
    rows = y.rows
    base, low, up, scaled = (Storage(rows, features, y.dtype) for features in (w.out, (rank,), w.out, w.out))
    a, b = pair
    yield op._replace(outputs=(base, *op.outputs[1:]))
    yield _linear(op, "lora_A", a, x, low, (*rows, *w.into, rank))
    yield _linear(op, "lora_B", b, low, up, (*rows, rank, *w.out))
    yield _between(op, "scale", "lora_scale", (up,), scaled)
    yield _between(op, "add", "lora_add", (base, scaled), y)


def _linear(op: Op, name: str, w: Weight, x: Storage, y: Storage, dims: Dims) -> Op:
    return Op(
        kind=op.kind,
        path=f"{op.path}.{name}",
        site=op.site,
        inputs=(x,),
        outputs=(y,),
        weights=(w,),
        flops=(Term(2, dims),),
        backward_factor=2,
        saves=(Save(x, needs="weight"),),
        weight_gradient=op.weight_gradient,
        exchange=op.exchange,
    )


def _between(op: Op, kind: str, name: str, inputs: tuple[Storage, ...], y: Storage) -> Op:
    path = f"{op.path}.{name}"
    return Op(kind=kind, path=path, site=op.site, inputs=inputs, outputs=(y,), sums=len(inputs) > 1)


def _pair(w: Weight, rank: Dim) -> tuple[Weight, Weight]:
    """A [R, in] and B [out, R] of a matrix, divided as it is."""
    across = [PARALLEL[d.axis] for d in w.out if d.axis in PARALLEL]
    along = [PARALLEL[d.axis] for d in w.into if d.axis in PARALLEL]
    inner = rank.on(across[0]) if across else rank
    last = w.out[-1:]
    out = (*w.out[:-1], *(d.on(along[0]) for d in last)) if along else w.out
    return (
        _beside(w, "lora_A", (inner,), w.into, "Brings the matrix's input down to the adapter's rank."),
        _beside(w, "lora_B", out, (rank,), "Brings it up to the matrix's outputs, to which it is added."),
    )


def _beside(w: Weight, name: str, out: Dims, into: Dims, about: str) -> Weight:
    path = f"{w.path}.{name}"
    new = w.replace(path=path, suffix="weight", out=out, into=into, about=about, flat=True, rests=False, packed=None)
    return new
