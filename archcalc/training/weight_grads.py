"""Weights' own gradients: tensors that stand beside the accumulation buffer until they are added to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from archcalc.calc.sharding import Shards, local_elements
from archcalc.tape import Op, Segment, Tape, Weight


class WeightGrads(NamedTuple):
    """How the gradients of weights reach the accumulation buffer.

    Whatever the kernels, an embedding's is a tensor as large as its table: no kernel adds rows into the buffer (torch
    embedding_dense_backward; Megatron-LM core/tensor_parallel/layers.py, VocabParallelEmbedding). Of linears:

    - `fused`: the product is added into the buffer itself, and one cached placeholder serves autograd.
    - `blank`: it is added so too, but autograd is handed a new tensor without contents each time, when the linear's
      own operands are freed (TransformerEngine up to 2.2, pytorch/module/linear.py, and up to 2.9, grouped_linear.py,
      handle_custom_ddp_from_mcore; the head in Megatron-LM up to core 0.13, core/tensor_parallel/layers.py).
    - `made`: autograd makes it, and a hook adds it to the buffer and drops it (Megatron-LM
      core/distributed/distributed_data_parallel.py, _make_backward_post_hook: param.grad = None, so that nothing stays
      between steps). Norms, biases and routers too.
    - `staying`: every weight's, an embedding's too, stays to the end of its segment's backward, where it is reduced
      (FSDP2: torch distributed/fsdp/_fully_shard/_fsdp_param_group.py, `post_backward`).

    Attributes:
        item: of a parameter, whose dtype the tensor has [bytes].
        linears: which of them.
    """

    item: int = 0
    linears: Literal["fused", "blank", "made", "staying"] = "fused"


NO_GRADS = WeightGrads()


def beside_operands(segment: Segment, shards: Shards, how: WeightGrads, *, one_gemm: bool) -> dict[int, int]:
    """Bytes of the gradients that each operation makes while its operands are alive, by its place in the segment.

    `one_gemm`: linears of one site with one input are one weight and make one gradient.
    """
    found: dict[int, int] = {}
    for i, op in enumerate(segment.ops if how.linears != "staying" else ()):
        looked_up = bool(op.weights) and op.weights[0].role == "embedding"
        if op.weights and (how.linears == "made" or looked_up):
            found[i] = _bytes(_together(segment, op) if one_gemm else (op,), shards, how)
    return found


def after_operands(segment: Segment, shards: Shards, how: WeightGrads) -> dict[int, tuple[int, int]]:
    """Bytes of the empty gradients that each fused linear hands on once its operands are freed, and the place of the
    first operation of its GEMM, which keeps them; by the place of the last, which runs backward first."""
    found: dict[int, tuple[int, int]] = {}
    if how.linears == "blank":
        places = {id(op): i for i, op in enumerate(segment.ops)}
        for op in segment.ops:
            if op.weight_gradient == "accumulated":
                gemm = _together(segment, op)
                found[places[id(gemm[-1])]] = _bytes(gemm, shards, how), places[id(gemm[0])]
    return found


def staying_to_end(segment: Segment, shards: Shards, how: WeightGrads) -> dict[int, int]:
    """Bytes of the gradients that stay from the operation that makes them first, which is the last that has the weight,
    to the end of the segment's backward; by its place."""
    found: dict[int, int] = {}
    if how.linears == "staying":
        made: set[int] = set()
        for i, op in reversed(list(enumerate(segment.ops))):
            fresh = [w for w in op.weights if w.trained and id(w) not in made]
            made.update(map(id, fresh))
            found[i] = how.item * sum(local_elements(w, shards) for w in fresh)
    return found


def staying_bytes(segment: Segment, shards: Shards, how: WeightGrads) -> int:
    """Bytes of a head's gradients that stay: all that its segment makes, or, where a layer comes before it
    (multi-token prediction), those of the head alone."""
    found = staying_to_end(segment, shards, how)
    whole = segment.part != "mtp"
    return sum(size for i, size in found.items() if whole or segment.ops[i].site == "head")


def _together(segment: Segment, op: Op) -> tuple[Op, ...]:
    """The operations that share an operation's GEMM: gate and up; query, key and value."""
    if op.weight_gradient == "none":
        return (op,)
    return tuple(
        o for o in segment.ops if o.site == op.site and o.weight_gradient != "none" and _input(o) is _input(op)
    )


def _input(op: Op) -> object:
    return op.inputs[0] if op.inputs else None


def _bytes(ops: Iterable[Op], shards: Shards, how: WeightGrads) -> int:
    return how.item * sum(local_elements(w, shards) for op in ops for w in op.weights if w.trained)


def head_gradient(segment: Segment, shards: Shards, how: WeightGrads) -> int:
    """Bytes of the output head's gradient while its linear runs backward; 0 where it is added up in place."""
    if how.linears in ("fused", "staying"):
        return 0
    return _bytes((op for op in segment.ops if op.site == "head"), shards, how)


def lookup_gradient(tape: Tape, segment: Segment, shards: Shards, how: WeightGrads) -> int:
    """Bytes of the embedding's gradient that a prediction module makes, which embeds the tokens it predicts from
    (Megatron-LM core/transformer/multi_token_prediction.py, `_get_embeddings`); 0 for other segments."""
    return sum(size for _, size in _looked_up(tape, segment, shards, how)) if segment.part == "mtp" else 0


def waiting(tape: Tape, chunk: Sequence[tuple[int, int]], shards: Shards, how: WeightGrads) -> dict[int, int]:
    """Bytes of gradients that wait while a segment of a chunk runs backward, by its position there.

    Of a weight that several of them use (a head that is the embedding, the head and embedding of prediction modules)
    autograd adds all gradients up before it hands them on (torch, autograd engine: one input buffer of
    `AccumulateGrad`), so that the first one stays until the last one is made.
    """
    if how.linears == "staying":
        return {}
    segments = [tape.segments[n] for n, _ in chunk]
    if sum(not s.indices or s.part == "mtp" for s in segments) < 2:
        return {}
    used: dict[int, list[tuple[int, int]]] = {}
    for i, segment in enumerate(segments):
        if not segment.indices or segment.part == "mtp":
            multiplied = [(op, how.linears != "fused") for op in segment.ops if op.site == "head" and op.weights]
            sizes = [(op.weights[0], made * _bytes((op,), shards, how)) for op, made in multiplied]
            for w, size in (*sizes, *_looked_up(tape, segment, shards, how)):
                used.setdefault(id(w), []).append((i, size))
    found: dict[int, int] = {}
    for uses in used.values():
        made = max((i for i, size in uses if size), default=0)
        for i in range(uses[0][0], made + (chunk[made][1] > 1)):
            found[i] = found.get(i, 0) + max(size for _, size in uses)
    return found


def _looked_up(tape: Tape, segment: Segment, shards: Shards, how: WeightGrads) -> Iterator[tuple[Weight, int]]:
    """Tables of words that a segment looks up in, and the bytes of their gradients."""
    backbone = [s for s in tape.segments if s.part == "backbone" and not s.indices]
    for s in backbone if segment.part == "mtp" else [segment]:
        for op in s.ops:
            if op.weights and op.weights[0].role == "embedding" and op.weights[0].of_vocabulary and not op.flops:
                yield op.weights[0], _bytes((op,), shards, how)
