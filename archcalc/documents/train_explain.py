"""`train --explain TERM`: what a term of a rank's peak is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archcalc.calc.sharding import Shards, local_rows, local_size
from archcalc.documents.document import Column, Report, Table, Value
from archcalc.documents.paths import folded
from archcalc.errors import InputError, did_you_mean, in_its_case
from archcalc.tape import Segment, Storage, product
from archcalc.training.memory import RankMemory
from archcalc.training.run import Run
from archcalc.training.unfold import REST, Held, held_tensors, transient_parts
from archcalc.units import format_bytes, format_int

TERMS = ("activations", "transient")
"""Terms that unfold."""

HELD_COLUMNS = (
    Column("path", "kept by"),
    Column("site", "site"),
    Column("maker", "made by"),
    Column("tensor", "tensor on one device", keep=True),
    Column("bytes_each", "each", "bytes", keep=True),
    Column("copies", "copies", "int", keep=True),
    Column("bytes", "bytes", "bytes", keep=True),
)
PART_COLUMNS = (Column("part", "part"), Column("bytes", "bytes", "bytes"), Column("what", "what it is"))

WHAT = {
    "recomputed": "what the running layer has again for its backward: recomputed, or back from FP8",
    "used up": "kept or recomputed tensors of that layer that its backward is through with",
    "gradients": "of the running layer's tensors",
    "results nobody keeps": "of the running layer, until they are used",
    "routed copies": "of tokens, sorted, sent and received, at the end of the mixture of experts",
    "kept to the layer's end": "selected results that no backward asks for: they stay until the layer is done",
    "exchanged": "sent, received or gathered among devices within the layer",
    "logits and loss": "logits, their copies and gradients",
    "gathered weights": "whole weights and gradients of a layer under ZeRO-3",
    "freed before": "what later layers of the chunk kept: gone by now, and counted in the activations",
    "not made yet": "what later layers of the chunk will keep: counted in the activations",
    "fetched": "offloaded tensors on their way back for the next backward",
    "head's gradient": "waits for that of the embedding, whose weight it shares",
    "loader's mask": "of attention, which the data loader makes",
    "messages": "between stages",
    "optimizer step": "what the optimizer's step takes",
    REST: "",
}


def checked_term(term: str) -> str:
    """A term that unfolds. Raises InputError."""
    term = in_its_case(term, TERMS)
    if term not in TERMS:
        raise InputError(
            f"{term} does not unfold", value=term, hint=did_you_mean(term, TERMS) or f"{' and '.join(TERMS)} do"
        )
    return term


def explained(
    title: str,
    run: Run,
    shown: RankMemory,
    term: str,
    found: Mapping[str, Value],
    inputs: Mapping[str, Any],
) -> Report:
    """One term of a rank at its worst moment, unfolded. `title` and `found` are the report's: title, and quantities,
    of which the verdict stays."""
    tables: list[Table] = []
    notes: list[str] = []
    columns: tuple[Column, ...]
    if term == "activations":
        held = held_tensors(run, shown)
        rows = [_held_row(run, each, each.here) for each in held if each.here]
        outside = [_held_row(run, each, each.outside) for each in held if each.outside]
        if outside:
            apart = f"in host memory meanwhile: {format_bytes(sum(row['bytes'] for row in outside))}"
            tables.append(Table("offloaded", apart, HELD_COLUMNS, _sorted(outside)))
        rest = shown.activation - sum(row["bytes"] for row in rows)
        rows = _sorted(rows) + ([{"path": _rest(run, shown), "bytes": rest}] if rest else [])
        notes.append("copies: layers times micro-batches alive.")
        columns, total = HELD_COLUMNS, shown.activation
    else:
        parts = transient_parts(run, shown)
        rows = [{"path": name, "part": name, "bytes": n, "what": WHAT[name]} for name, n in parts.items()]
        columns, total = PART_COLUMNS, shown.transient
    if not rows:
        notes.append(f"Nothing: {shown.moment}.")
    return Report(
        command="train",
        title=title,
        inputs={**inputs, "explain": term},
        quantities={"train.fits": found["train.fits"]},
        rows=Table("rows", f"{term} of rank {shown.rank} at its worst moment: {shown.moment}", columns, rows),
        tables=tables,
        notes=[*notes, f"result: the sum of {len(rows)} rows, {format_int(total)} B"],
    )


def _rest(run: Run, shown: RankMemory) -> str:
    """What stands among a rank's activations and is no tensor of its chunks."""
    if shown.state is not None and shown.state.beside is not None:
        return "what is there of the two micro-batches that run side by side"
    if run.tower is None:
        return "the loader's mask, which recomputed layers start from" if run.mask and run.savers.whole else REST
    return "vision outputs and their gradients" if shown.state is not None else "kept in the vision tower's phase"


def _sorted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -row["bytes"])


def _held_row(run: Run, held: Held, copies: int) -> dict[str, Any]:
    segment, storage = run.tape.segments[held.segment], held.row.storage
    shape = local_shape(storage, run.shards)
    dtype = "float8_e4m3fn" if held.row.fp8 else storage.dtype
    return {
        "path": _named(held.row.path, segment),
        "site": held.row.site,
        "maker": _maker(run, segment, storage),
        "tensor": f"{' x '.join(map(format_int, shape))} {dtype}",
        "shape": shape,
        "dtype": dtype,
        "bytes_each": held.row.nbytes,
        "copies": copies,
        "bytes": copies * held.row.nbytes,
    }


def local_shape(storage: Storage, shards: Shards) -> list[int]:
    """A storage on one device: its token rows together, then its features [elements]."""
    return [
        local_rows(storage.rows, storage.features, shards),
        *(local_size(d, shards) for d in storage.features),
    ]


def _named(path: str, segment: Segment) -> str:
    experts = max((product(w.stack) for op in segment.ops for w in op.weights), default=0)
    return folded(path, segment.indices, experts)


def _maker(run: Run, segment: Segment, storage: Storage) -> str:
    """The operation that makes a tensor, by the end of its path within the layer; none for what comes into it."""
    if storage is segment.entry:
        return "what comes in"
    for each in (segment, *run.tape.segments):
        for op in each.ops:
            if storage in op.outputs:
                return _named(op.path, each).rpartition(".")[2] if each is segment else _named(op.path, each)
    return ""
