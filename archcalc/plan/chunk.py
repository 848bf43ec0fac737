"""One chunk of a pipeline rank: what it keeps for backward, and what lives only while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from archcalc.calc.activations import Saved, Savers, forward_peak, gradient_peak, saved_rows
from archcalc.calc.sharding import Shards, local_bytes
from archcalc.plan.placement import Chunk
from archcalc.tape import Op, Segment, Tape

CHUNKED_LOSS_TOKENS = 1024
"""Tokens of one piece of a chunked head and loss; assumed, no source gives one number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMemory:
    """Bytes of one micro-batch of a chunk.

    Attributes:
        saved: kept from its forward to its backward.
        offloadable: the part of it that may wait in host memory.
        waiting: the part that a split backward's weight gradient still needs: inputs of linears.
        forward: what its forward takes beside what is kept at its end.
        backward: what its backward takes beside what was kept at its start: recomputed tensors and gradients, less what
            later segments have freed by then.
        forward_at, backward_at: the segment where that is most.
    """

    saved: int
    offloadable: int
    waiting: int
    forward: int
    backward: int
    forward_at: str
    backward_at: str


@lru_cache(maxsize=1024)
def segment_rows(tape: Tape, n: int, shards: Shards, savers: Savers) -> tuple[Saved, ...]:
    """What one copy of a segment keeps, cached."""
    return tuple(saved_rows(tape.segments[n], shards, savers))


@lru_cache(maxsize=1024)
def chunk_memory(
    tape: Tape, chunk: Chunk, shards: Shards, savers: Savers, offload: frozenset[str] | None, gathered: int
) -> ChunkMemory:
    """Fold a chunk. `offload` holds the sites whose storages wait in host memory, None all; `gathered` is ZeRO-3's working set."""
    saved = offloadable = waiting = 0
    forward = [(0, "")]
    backward = [(0, "")]
    later = sum(count * _sum(segment_rows(tape, n, shards, savers)) for n, count in chunk)
    for n, count in chunk:
        segment, rows = tape.segments[n], segment_rows(tape, n, shards, savers)
        size = _sum(rows)
        saved += count * size
        offloadable += count * sum(r.nbytes for r in rows if offload is None or r.site in offload)
        needed = linear_inputs(segment)
        waiting += count * sum(r.nbytes for r in rows if r.storage in needed)
        later -= count * size
        ahead, back = segment_transient(tape, n, shards, savers)
        forward.append((ahead + gathered - later, segment.path))
        backward.append((back + gathered - later, segment.path))
    most_forward, most_backward = max(forward), max(backward)
    return ChunkMemory(
        saved=saved,
        offloadable=offloadable,
        waiting=waiting,
        forward=most_forward[0],
        backward=most_backward[0],
        forward_at=most_forward[1],
        backward_at=most_backward[1],
    )


@lru_cache(maxsize=1024)
def segment_transient(tape: Tape, n: int, shards: Shards, savers: Savers) -> tuple[int, int]:
    """What one copy of a segment takes while it runs forward, and backward, beside what is kept [bytes]."""
    segment = tape.segments[n]
    rows = segment_rows(tape, n, shards, savers)
    kept = {row.storage for row in rows}
    bare = Savers(variants=savers.variants)
    recomputed = max(0, _sum(segment_rows(tape, n, shards, bare)) - _sum(rows))
    logits = head_transient(segment, shards, savers)
    if logits is not None:
        return logits, logits
    exchange = sum(local_bytes(op.outputs[0], shards) for op in segment.ops if op.kind == "dispatch")
    ahead = max(forward_peak(segment, shards, kept), exchange)
    return ahead, recomputed + max(gradient_peak(segment, shards), exchange)


def head_transient(segment: Segment, shards: Shards, savers: Savers) -> int | None:
    """Logits and loss beside what they save, or None for a segment without a loss [bytes].

    With TV = tokens x vocabulary: eager code holds bf16 logits, an fp32 copy, log-probabilities (saved) and their gradient,
    14 TV in all; Megatron-LM's vocab-parallel loss bf16 logits and fp32 ones made in place (saved), 6 TV; TransformerEngine's
    writes the gradient over the bf16 logits (saved), 2 TV; a chunked one 14 bytes for each of a piece's tokens and words.
    """
    loss = next((op for op in segment.ops if op.kind == "cross_entropy"), None)
    if loss is None:
        return None
    logits = local_bytes(loss.inputs[0], shards)
    if "loss_eager" in savers.variants:
        return 5 * logits
    if "loss_fused" in savers.variants:
        return logits
    if "loss_te" in savers.variants:
        return 0
    tokens = max(1, _tokens(loss, shards))
    return 7 * logits * min(tokens, CHUNKED_LOSS_TOKENS) // tokens


def _tokens(op: Op, shards: Shards) -> int:
    count = 1
    for d in op.inputs[0].rows:
        count *= d.size
    return count // shards.cp


def linear_inputs(segment: Segment) -> set[object]:
    """Storages that the weight gradients of a segment are made from."""
    kinds = ("linear", "grouped_linear", "router", "conv_patch")
    return {op.inputs[0] for op in segment.ops if op.kind in kinds}


def _sum(rows: tuple[Saved, ...]) -> int:
    return sum(row.nbytes for row in rows)
