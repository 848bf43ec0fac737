"""What a layer or the head takes while it runs, beside what it keeps: forward, backward, recomputation,
exchange, loss."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from archcalc.calc.activations import Saved, Savers
from archcalc.calc.liveness import Alive, backward_alive, forward_alive
from archcalc.calc.sharding import Shards, local_bytes
from archcalc.tape import Op, Segment, Storage
from archcalc.tape.dims import product
from archcalc.tape.op import Variant
from archcalc.training.fp8 import gradient_copies, input_copy
from archcalc.training.packed import unpacked
from archcalc.training.weight_grads import (
    NO_GRADS,
    WeightGrads,
    after_operands,
    beside_operands,
    head_gradient,
    staying_bytes,
    staying_to_end,
)

CHUNKED_LOSS_TOKENS = 1024
"""Tokens of one piece of a chunked head and loss; assumed, no source gives one number."""


UNSAVED_LOGITS: dict[Variant, int] = {"loss_eager": 7, "loss_fused": 3, "loss_te": 1}
"""Logits, and what a whole loss makes beside them and would save, in sizes of the bf16 logits."""


def layer_forward(segment: Segment, shards: Shards, rows: Sequence[Saved], variants: Set[Variant] = frozenset()) -> int:
    """What one copy of a segment without a loss takes forward, beside `rows`, which it keeps [bytes]."""
    kept = {row.storage for row in rows if not row.fp8}
    return max(running_forward(segment, shards, kept, variants).total, routed_copies(segment, shards, kept))


def running_forward(segment: Segment, shards: Shards, kept: Set[Storage], variants: Set[Variant]) -> Alive:
    """What is alive at the worst moment of a segment's forward, beside what is `kept` [bytes]. An input that needs no
    gradient nobody keeps for the norm that reads it: it stands until its last use."""
    return forward_alive(
        segment,
        shards,
        kept,
        variants=variants,
        entry=segment.entry in segment.ungraded,
        beside=lambda op: unpacked(op, shards) + input_copy(op, shards, variants),
    )


def layer_backward(
    segment: Segment,
    shards: Shards,
    bare: Sequence[Saved],
    variants: Set[Variant] = frozenset(),
    grads: WeightGrads = NO_GRADS,
) -> int:
    """All that one copy of a segment takes backward [bytes]. `bare` is what it has for that once what savers leave
    out is made again: all of it is there before its backward starts. `grads` says how weights' gradients are made."""
    return running_backward(segment, shards, bare, variants, grads).total + ring_buffers(segment, shards)


def running_backward(
    segment: Segment, shards: Shards, bare: Sequence[Saved], variants: Set[Variant], grads: WeightGrads
) -> Alive:
    """What is alive at the worst moment of that, buffers of a ring apart [bytes]."""
    kept = {row.storage: row.nbytes for row in bare}
    made = beside_operands(segment, shards, grads, one_gemm="fused" in variants)
    beside = {
        i: made.get(i, 0) + unpacked(op, shards) + gradient_copies(op, shards, variants)
        for i, op in enumerate(segment.ops)
    }
    after = after_operands(segment, shards, grads)
    stays = staying_to_end(segment, shards, grads)
    return backward_alive(segment, shards, kept, variants, beside=beside, after=after, staying=stays)


def routed_copies(segment: Segment, shards: Shards, kept: Set[Storage]) -> int:
    """Copies of the routed tokens that stand at the end of a MoE layer's forward, beside what it keeps [bytes].

    Where a layer has several mixtures of experts they run one after the other: the largest counts.
    """
    cuts = [i for i, op in enumerate(segment.ops) if op.exchange == "send"] + [len(segment.ops)]
    return max((_copies(segment.ops[a:b], shards, kept) for a, b in pairwise(cuts)), default=0)


def _copies(ops: Sequence[Op], shards: Shards, kept: Set[Storage]) -> int:
    """The same of one mixture, from its dispatch on.

    Megatron-LM's MoELayer.forward (core/transformer/moe/moe_layer.py, since core 0.14) still holds by name,
    when expert outputs come back: the tokens sorted for sending, the tokens received, expert outputs sorted
    for return, those returned, the shared expert's output and the sum. Just before, expert outputs stand in
    both orders. One expert a device needs no sorting by expert, one device no exchange.
    """
    dispatch, combine = ops[0], next(op for op in ops if op.exchange == "return")
    here = replace(shards, etp=1, imbalance=Fraction(1))
    sent, received = local_bytes(dispatch.outputs[0], here), local_bytes(dispatch.outputs[0], shards)
    experts = next(product(w.stack) for op in ops for w in op.weights if w.stack)
    output = local_bytes(combine.outputs[0], shards)
    if shards.ep == 1:
        most = sent + received
    elif experts == shards.ep:
        most = 2 * sent + received
    else:
        most = max(2 * (sent + received) + output, sent + 3 * received)
    returned = sent if combine.inputs[0] in kept else 0
    shared = next((local_bytes(op.outputs[0], shards) for op in ops if op.site == "shared_fc2"), 0)
    return most - returned + shared


def ring_buffers(segment: Segment, shards: Shards) -> int:
    """Two buffers of keys and values that travel around a ring of context-parallel devices [bytes]."""
    if shards.cp == 1 or shards.ulysses:
        return 0
    cores = [op for op in segment.ops if op.exchange == "context"]
    return max((2 * sum(local_bytes(s, shards) for s in op.inputs[1:3]) for op in cores), default=0)


def loss_transient(
    segment: Segment, shards: Shards, savers: Savers, rows: Sequence[Saved], grads: WeightGrads
) -> tuple[int, int] | None:
    """The larger of `head_transient` and, backward, of `head_backward` where the head's weight has a gradient of its
    own, beside `rows`, which the segment keeps [bytes]."""
    head, gradient = head_transient(segment, shards, savers, grads), head_gradient(segment, shards, grads)
    if head is None or not gradient:
        return head
    return head[0], max(head[1], head_backward(segment, shards, rows, gradient))


def head_transient(
    segment: Segment, shards: Shards, savers: Savers, grads: WeightGrads = NO_GRADS
) -> tuple[int, int] | None:
    """Logits and loss beside what they save, forward and backward, or None for a segment without a loss
    [bytes].

    With TV = tokens x vocabulary: eager code holds bf16 logits, an fp32 copy, log-probabilities (saved) and
    their gradient, 14 TV in all; Megatron-LM's vocab-parallel loss bf16 logits and fp32 ones made in place
    (saved), 6 TV, and backward the gradient in both dtypes, 6 TV; TransformerEngine's writes the gradient
    over the bf16 logits (saved), 2 TV, so that the gradient of the head's input is what its backward adds; a
    chunked one 14 bytes for each of a piece's tokens and words. Where nothing before the loss is trained and the head
    is not either, it has no backward, and what it would save lives in its forward alone. Gradients of weights that stay
    (`grads`) come when the loss's own backward is over: eager code has only the logits' gradient in bf16 left by then,
    the others as much as before; where they are counted, forward and backward gather differently, and its forward, 10
    TV in all, counts by itself.
    """
    loss = next((op for op in segment.ops if op.site == "loss"), None)
    if loss is None:
        return None
    logits = local_bytes(loss.inputs[0], shards)
    unsaved = next((n for way, n in UNSAVED_LOGITS.items() if way in savers.variants), None)
    if not segment.learns and unsaved is not None:
        return unsaved * logits, 0
    own = staying_bytes(segment, shards, grads)
    if "loss_eager" in savers.variants:
        if grads.linears != "staying":
            return 5 * logits, 5 * logits
        return 3 * logits, max(5 * logits, own + local_bytes(head_input(segment), shards) - logits)
    if "loss_fused" in savers.variants:
        return logits, logits + own
    if "loss_te" in savers.variants:
        part = own + local_bytes(head_input(segment), shards)
        return 0, part if not shards.sp else part + gathered_head_input(segment, shards)
    tokens = max(1, _tokens(loss, shards))
    piece = 7 * logits * min(tokens, CHUNKED_LOSS_TOKENS) // tokens
    return piece, piece * segment.learns + own


def head_backward(segment: Segment, shards: Shards, rows: Sequence[Saved], gradient: int) -> int:
    """What the head's linear takes backward where its weight's `gradient` is a tensor of its own, beside what the
    segment keeps [bytes]: the logits' gradient in place of what the loss kept, its input's, and that one."""
    loss = next(op for op in segment.ops if op.site == "loss")
    kept = sum(row.nbytes for row in rows if row.site == "loss")
    part = local_bytes(head_input(segment), shards)
    whole = gathered_head_input(segment, shards)
    return local_bytes(loss.inputs[0], shards) - kept + part + whole + gradient


def head_input(segment: Segment) -> Storage:
    """The storage that the output head multiplies."""
    return next(op.inputs[0] for op in segment.ops if op.site == "head")


def gathered_head_input(segment: Segment, shards: Shards) -> int:
    """The head's input with the rows of all sequence-parallel devices [bytes]; 0 without sequence
    parallelism."""
    if not shards.sp or all(op.site != "head" for op in segment.ops):
        return 0
    return shards.tp * local_bytes(head_input(segment), shards)


def _tokens(op: Op, shards: Shards) -> int:
    return product(op.inputs[0].rows) // shards.cp
