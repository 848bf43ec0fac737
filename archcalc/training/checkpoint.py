"""A training checkpoint: all of it, and what the fullest device of a pipeline rank writes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from archcalc.calc.sharding import Shards, local_elements
from archcalc.tape import Weight, product
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.optimizer import Optimizer
from archcalc.training.owners import handed_out
from archcalc.training.packed import held_bytes, whole_bytes
from archcalc.training.placement import Held
from archcalc.training.run import Run
from archcalc.training.static import Owners, Static


def checkpoint_bytes(weights: Iterable[Weight], item: int, how: Optimizer) -> int:
    """Every weight once, states of the trained ones once, and buffers [bytes]; `item` is of a parameter."""
    total, how = 0, how.beside(item)
    for w in weights:
        total += whole_bytes(w, item) if w.learnable else ITEM_BYTES[w.dtype] * w.elements
        total += how.state_bytes(w) * w.elements if w.trained else 0
    return total


def checkpoints(run: Run) -> list[int]:
    """What the fullest device of each pipeline rank writes of a checkpoint [bytes]."""
    once = written_once([rank.weights for rank in run.ranks])
    return [
        written_bytes(own, rank.static, run.shards, run.owners, run.item_bytes[0])
        for own, rank in zip(once, run.ranks, strict=True)
    ]


def written_once(stages: Sequence[Held]) -> Iterator[Held]:
    """What each pipeline rank writes of the weights that it holds: one that several hold is the first one's.

    So Megatron-LM does with the copies of an embedding (core/models/common/language_module/language_module.py,
    tie_embeddings_and_output_weights_state_dict); of a vision tower on every rank it is assumed.
    """
    seen: set[int] = set()
    for held in stages:
        yield tuple((w, n) for w, n in held if id(w) not in seen)
        seen |= {id(w) for w, _ in held if not w.indices or w.part in ("vision", "projector")}


def written_bytes(own: Held, static: Static, shards: Shards, owners: Owners, item: int) -> int:
    """What the fullest device of a rank writes of a checkpoint that all devices write together [bytes].

    Its shard of the optimizer's states, and of the weights, which data-parallel devices have alike, those tensors that
    are handed to it, the largest first to whoever writes least (Megatron-LM core/dist_checkpointing/strategies/
    fully_parallel.py, determine_main_replica_uniform_distribution, and exchange_utils.py, distribute_shards_to_ranks).
    Experts and all else are handed out each on their own. ZeRO-3 has each device write its part.
    """
    total = static.states
    for expert, devices in ((False, owners.dense), (True, owners.expert)):
        tensors = [each for w, n in own if bool(w.stack) == expert for each in _tensors(w, n, shards, item)]
        if owners.zero >= 3:
            total += -(-sum(size * count for size, count in tensors) // devices)
        else:
            total += handed_out(sorted(tensors, reverse=True), devices)
    return total


def _tensors(w: Weight, layers: int, shards: Shards, item: int) -> Iterator[tuple[int, int]]:
    """The tensors that a device has of a weight: their size [bytes] and number, experts each on their own."""
    size = held_bytes(w, shards, item) if w.learnable else ITEM_BYTES[w.dtype] * local_elements(w, shards)
    stack = product(w.stack) // shards.ep if w.stack else 1
    yield size // stack, layers * stack
