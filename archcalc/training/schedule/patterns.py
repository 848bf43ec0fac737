"""Two ways to write an order down in full: a forward and a backward in turn; phases that repeat a pattern."""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, zip_longest

from .base import Op, OpKind

Phase = tuple[int, str]  # times, pattern


def alternate(
    forwards: Sequence[Op],
    backwards: Sequence[Op],
    *,
    warmup: int,
    weights: Sequence[Op] = (),
    delay: int = 0,
) -> tuple[Op, ...]:
    """`warmup` forwards, then a forward and a backward in turn, then the backwards that are left.

    In the steady state the forward comes first, as in Megatron-LM: one more is alive than the warm-up left.
    weights: the weight gradients, if backwards are split; each runs after `delay` later input gradients.
    """
    rows = zip_longest(forwards[warmup:], backwards, (None,) * delay + tuple(weights))
    return (*forwards[:warmup], *(op for op in chain.from_iterable(rows) if op is not None))


@lru_cache(maxsize=256)
def single_chunk(kind: OpKind, micro_batches: int) -> tuple[Op, ...]:
    """One kind of operation on chunk 0, for each micro-batch in turn."""
    return tuple(Op(kind, 0, micro_batch) for micro_batch in range(micro_batches))


def repeat(phases: Iterable[Phase]) -> tuple[Op, ...]:
    """Write out phases such as (3, "F0 I1 W F1"): each operation takes its chunk's next micro-batch.

    "W" without a chunk is the weight gradient that has waited longest.
    """
    following: dict[str, int] = defaultdict(int)  # by kind and chunk; a B counts as an I
    waiting: deque[tuple[int, int]] = deque()
    order: list[Op] = []
    for times, pattern in phases:
        words = pattern.split()
        for _ in range(times):
            for word in words:
                order.append(_next(word, following, waiting))
    return tuple(order)


def _next(word: str, following: dict[str, int], waiting: deque[tuple[int, int]]) -> Op:
    if word == "W":
        return Op("W", *waiting.popleft())
    key = "I" + word[1:] if word[0] == "B" else word
    chunk, micro_batch = int(word[1:]), following[key]
    following[key] += 1
    if word[0] == "F":
        return Op("F", chunk, micro_batch)
    if word[0] == "B":
        return Op("B", chunk, micro_batch)
    if word[0] == "I":
        waiting.append((chunk, micro_batch))
        return Op("I", chunk, micro_batch)
    waiting.remove((chunk, micro_batch))
    return Op("W", chunk, micro_batch)


def two_way(pp: int, rank: int, micro_batches: int) -> tuple[Op, ...]:
    """The order DualPipe and DualPipeV share, for `micro_batches` each way through chunks 0 and 1.

    pp: ranks from where micro-batches of chunk 0 come in to where they meet those of chunk 1 [ranks]; rank:
    the place on that way, from 0. Eight phases, of which the fourth, the steady state, pairs a forward of
    each chunk with a backward of the other; halfway through the sixth the backwards begin to be split, so
    that weight gradients fill the end of the step. Source: github.com/deepseek-ai/DualPipe, the phases of
    `DualPipe.step` (arXiv:2412.19437).
    """
    below, upto = pp - 1 - rank, rank + 1
    return repeat(
        [
            (2 * below, "F0"),
            (upto, "F0 F1"),
            (below, "I1 W F1"),
            (micro_batches - 2 * pp + upto, "F0 B1 F1 B0"),
            (below, "B1 F1 B0"),
            (upto // 2, "B1 B0"),
            (upto % 2, "B1 I0"),
            (upto // 2, "I1 I0"),
            (below, "W I0"),
            (upto, "W"),
        ]
    )
