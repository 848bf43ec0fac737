"""What plan tests have in common: bundled plans with overrides, and the ranks they give, remembered."""

from __future__ import annotations

from functools import lru_cache

from archcalc.calc.activations import Savers
from archcalc.calc.sharding import Shards
from archcalc.documents.train import training_tape
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.tape import Tape
from archcalc.training.chunk import ChunkMemory, chunk_memory, segment_memory
from archcalc.training.load import load_plan
from archcalc.training.memory import RankMemory, training_memory
from archcalc.training.placement import Chunk
from archcalc.training.plan import Plan
from archcalc.training.run import Run, compiled
from archcalc.workload import Workload

GB = 10**9


@lru_cache
def spec(name: str) -> Spec:
    return load_spec(name)


def k2_plan(*overrides: str) -> Plan:
    return load_plan("k2-pretrain", overrides)


@lru_cache
def traced(name: str, batch: int, seq: int) -> Tape:
    return spec(name).trace(Workload(phase="train", batch=batch, seq=seq))


def tape_of(name: str, plan: Plan) -> Tape:
    return traced(name, plan.batch.micro_batch, plan.batch.seq)


def chunk(
    tape: Tape,
    pieces: Chunk,
    shards: Shards,
    how: Savers,
    offload: frozenset[str] | None = frozenset(),
    gathered: int = 0,
) -> ChunkMemory:
    """A chunk of segments of a tape, each by its place and its number of copies."""
    return chunk_memory([(segment_memory(tape, n, shards, how, offload), count) for n, count in pieces], gathered)


def run_of(name: str, plan: Plan) -> Run:
    return compiled(tape_of(name, plan), plan)


@lru_cache
def ranks(name: str, *overrides: str) -> tuple[RankMemory, ...]:
    plan = k2_plan(*overrides)
    assert training_tape(spec(name), plan).segments
    return tuple(training_memory(run_of(name, plan)))
