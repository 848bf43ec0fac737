"""Saved activations: a fold over what the operations of a segment keep for backward, under kernels and
savers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from archcalc.calc.selective import kept_outputs
from archcalc.calc.sharding import Shards, local_bytes
from archcalc.tape import Op, Segment, Storage
from archcalc.tape.op import Variant


class Region(NamedTuple):
    """Sites whose operations are recomputed in backward.

    `discards_output`: what it produces is freed after use and made again (Megatron's
    CheckpointWithoutOutput), not only what it would save.
    """

    sites: frozenset[str]
    discards_output: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Savers:
    """How activations are kept.

    Attributes:
        variants: in use, one of each kind.
        regions: what is recomputed.
        fp8: sites whose first operand is stored in FP8.
        whole: every segment with an entry keeps only that and what it hands on, and recomputes the rest ("full").
        selective: the same, but what operations of these kinds put out is kept too; None: not in use.
    """

    variants: frozenset[Variant]
    regions: tuple[Region, ...] = ()
    fp8: frozenset[str] = frozenset()
    whole: bool = False
    selective: frozenset[str] | None = None


class Saved(NamedTuple):
    """One storage kept for backward: by which operation, at which site, how large on one device [bytes]."""

    path: str
    site: str
    storage: Storage
    fp8: bool
    nbytes: int


def saved_rows(segment: Segment, shards: Shards, savers: Savers) -> list[Saved]:
    """What one copy of a segment keeps for backward, each storage once.

    Kept is what operations outside active regions save, and every outside input of an active region; less
    what was produced inside one (always if it discards its output, else unless an operation outside saves
    it). An input that is a view keeps all of its storage. A segment that no gradient passes keeps nothing, whatever its
    savers. Context parallelism by all-to-all keeps attention's output twice: by heads for attention, by tokens for the
    projection after it (TransformerEngine).
    """
    if not segment.learns:
        return []
    if recomputed(segment, savers) and segment.entry is not None:
        ends = (segment.entry, *segment.handed)
        kept = [Saved(segment.path, "entry", each, False, local_bytes(each, shards)) for each in ends]
        more = kept_outputs(segment, shards, savers.selective or frozenset(), savers.variants)
        return kept + [Saved(each.op.path, each.op.site, each.storage, False, each.nbytes) for each in more]
    rows = []
    for op, storage, fp8 in kept_storages(segment, savers):
        rows.append(Saved(op.path, op.site, storage, fp8, local_bytes(storage, shards, fp8=fp8)))
        if shards.cp > 1 and shards.ulysses and op.exchange == "context" and storage is op.outputs[0]:
            rows.append(rows[-1]._replace(path=f"{op.path}, by heads", storage=_copy(storage)))
    return rows


def bare_rows(segment: Segment, shards: Shards, savers: Savers) -> list[Saved]:
    """What one copy of a segment has for its backward once all is there again that savers leave out.

    It is what it would keep without them. Of an input that is made again a GEMM in FP8 has no copy from its forward
    (see `_kept`): its backward makes one beside the input itself, which is there in 16 bits from the region's rerun on.
    """
    rows = saved_rows(segment, shards, Savers(variants=savers.variants))
    if not segment.learns or recomputed(segment, savers):
        return rows
    dropped, _ = _produced(segment.ops, savers.regions)
    missing = dropped - {row.storage for row in rows}
    for op in segment.ops:
        if not any(op.site in region.sites for region in savers.regions):
            for storage in [s.storage for s in op.saves if s.storage in missing and s.taken(savers.variants)]:
                rows.append(Saved(op.path, op.site, storage, False, local_bytes(storage, shards)))
                missing.discard(storage)
    return rows


def recomputed(segment: Segment, savers: Savers) -> bool:
    """Whether backward makes a segment again from its entry."""
    whole = savers.whole or savers.selective is not None
    return whole and segment.entry is not None and segment.part == "backbone" and bool(segment.indices)


def kept_storages(segment: Segment, savers: Savers) -> tuple[tuple[Op, Storage, bool], ...]:
    """What one copy of a segment keeps, whatever the devices: who keeps it, the storage, whether in FP8."""
    kept = _kept(segment.ops, savers)
    dropped, inner = _produced(segment.ops, savers.regions)
    return tuple(
        (op, storage, fp8)
        for storage, (op, outside, fp8) in kept.items()
        if storage not in dropped and (outside or storage not in inner)
    )


def _copy(storage: Storage) -> Storage:
    return Storage(storage.rows, storage.features, storage.dtype)


def saved_bytes(segment: Segment, shards: Shards, savers: Savers) -> int:
    """Sum of the rows of one copy of a segment on one device [bytes]."""
    return sum(row.nbytes for row in saved_rows(segment, shards, savers))


def kept_among(ops: Sequence[Op], savers: Savers) -> frozenset[Storage]:
    """Storages that some of a segment's operations keep, or that recomputing one of them starts from."""
    return frozenset(_kept(ops, savers))


Kept = dict[Storage, tuple[Op, bool, bool]]


def _kept(ops: Sequence[Op], savers: Savers) -> Kept:
    """Storage to (operation, saved outside every region, in FP8). FP8 needs every keeper to agree.

    Of an input that is made again a GEMM in FP8 keeps no copy (Megatron-LM core/extensions/transformer_engine.py,
    set_save_original_input).
    """
    kept: Kept = {}

    def keep(storage: Storage, op: Op, outside: bool, fp8: bool) -> None:
        first, was_outside, was_fp8 = kept.get(storage, (op, False, True))
        kept[storage] = (first, outside or was_outside, fp8 and was_fp8)

    dropped, _ = _produced(ops, savers.regions)
    for op in ops:
        regions = [region for region in savers.regions if op.site in region.sites]
        operand = op.inputs[0] if op.inputs and op.site in savers.fp8 else None
        if regions:
            for storage in op.inputs:
                keep(storage, op, False, storage is operand)
            if "fused" in savers.variants and not any(region.discards_output for region in regions):
                for storage in op.bases:
                    keep(storage, op, False, False)
        else:
            for save in op.saves:
                if savers.variants.issuperset(save.when):
                    copy = save.taken(savers.variants) if save.storage not in dropped else None
                    keep(copy or save.storage, op, True, copy is None and save.storage is operand)
    return kept


def _produced(ops: Sequence[Op], regions: Sequence[Region]) -> tuple[set[Storage], set[Storage]]:
    """Storages produced inside discarding regions, and inside any region."""
    dropped: set[Storage] = set()
    inner: set[Storage] = set()
    for region in regions:
        made = {storage for op in ops if op.site in region.sites for storage in op.outputs}
        inner |= made
        if region.discards_output:
            dropped |= made
    return dropped, inner
