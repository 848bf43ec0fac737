"""What a layer or the head takes while it runs, beside what it keeps: forward, backward, recomputation,
exchange, loss."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from archcalc.calc.activations import Saved, Savers
from archcalc.calc.liveness import backward_peak, forward_peak
from archcalc.calc.sharding import Shards, local_bytes, local_elements
from archcalc.tape import Op, Segment, Storage
from archcalc.tape.dims import product

CHUNKED_LOSS_TOKENS = 1024
"""Tokens of one piece of a chunked head and loss; assumed, no source gives one number."""


def layer_forward(segment: Segment, shards: Shards, rows: Sequence[Saved]) -> int:
    """What one copy of a segment without a loss takes forward, beside `rows`, which it keeps [bytes]."""
    kept = {row.storage for row in rows if not row.fp8}
    return max(forward_peak(segment, shards, kept), routed_copies(segment, shards, kept))


def layer_backward(segment: Segment, shards: Shards, bare: Sequence[Saved], weight_item: int = 0) -> int:
    """All that one copy of a segment takes backward [bytes]. `bare` is what it would keep without savers: all
    of it is there again before its backward starts. `weight_item`: see `backward_peak`."""
    kept = {row.storage: row.nbytes for row in bare}
    return backward_peak(segment, shards, kept, weight_item=weight_item) + _ring_buffers(segment, shards)


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


def _ring_buffers(segment: Segment, shards: Shards) -> int:
    """Two buffers of keys and values that travel around a ring of context-parallel devices [bytes]."""
    if shards.cp == 1 or shards.ulysses:
        return 0
    cores = [op for op in segment.ops if op.exchange == "context"]
    return max((2 * sum(local_bytes(s, shards) for s in op.inputs[1:3]) for op in cores), default=0)


def head_transient(segment: Segment, shards: Shards, savers: Savers, weight_item: int = 0) -> tuple[int, int] | None:
    """Logits and loss beside what they save, forward and backward, or None for a segment without a loss
    [bytes].

    With TV = tokens x vocabulary: eager code holds bf16 logits, an fp32 copy, log-probabilities (saved) and
    their gradient, 14 TV in all; Megatron-LM's vocab-parallel loss bf16 logits and fp32 ones made in place
    (saved), 6 TV, and backward the gradient in both dtypes, 6 TV; TransformerEngine's writes the gradient
    over the bf16 logits (saved), 2 TV, so that the gradient of the head's input is what its backward adds; a
    chunked one 14 bytes for each of a piece's tokens and words. Gradients of the head's and the norm's weights, of
    `weight_item` bytes an element, come when the loss's own backward is over: eager code has only the logits' gradient
    in bf16 left by then, the others as much as before; where they are counted, forward and backward gather differently,
    and its forward, 10 TV in all, counts by itself.
    """
    loss = next((op for op in segment.ops if op.site == "loss"), None)
    if loss is None:
        return None
    logits = local_bytes(loss.inputs[0], shards)
    weights = dict.fromkeys(w for op in segment.ops for w in op.weights if w.trained) if weight_item else ()
    grads = sum(weight_item * local_elements(w, shards) for w in weights)
    if "loss_eager" in savers.variants:
        if not weight_item:
            return 5 * logits, 5 * logits
        return 3 * logits, max(5 * logits, grads + local_bytes(head_input(segment), shards) - logits)
    if "loss_fused" in savers.variants:
        return logits, logits + grads
    if "loss_te" in savers.variants:
        part = grads + local_bytes(head_input(segment), shards)
        return 0, part if not shards.sp else part + gathered_head_input(segment, shards)
    tokens = max(1, _tokens(loss, shards))
    piece = 7 * logits * min(tokens, CHUNKED_LOSS_TOKENS) // tokens
    return piece, piece + grads


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
