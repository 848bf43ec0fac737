"""The `kv` report: how a sequence's cache grows, what it comes to, and what each device holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from archcalc.calc.kv_cache import LAYOUTS, Mesh, cache_rows, sequence_cache
from archcalc.calc.sharding import check_heads
from archcalc.documents.conventions import cache_lines, growth_lines, marker_lines, span_words
from archcalc.documents.document import Amount, Column, Report, Table, Value
from archcalc.documents.flops import context_notes, pixels, seen, vision_load
from archcalc.documents.paths import where
from archcalc.errors import InputError, in_its_case
from archcalc.files.model import Spec
from archcalc.tape import Tape
from archcalc.workload import Images, Videos, Workload

COLUMNS = (
    Column("path", "layers"),
    Column("kind", "cached"),
    Column("span", "of the sequence"),
    Column("elements", "elements an entry", "int"),
    Column("bytes_per_token_and_layer", "bytes an entry", "int"),
    Column("bytes_per_token", "a token more", "int", keep=True),
    Column("sequence_bytes", "one sequence", "bytes", keep=True),
)
LENGTHS = {"8k": 8 * 1024, "128k": 128 * 1024}
"""Lengths at which caches of different models are compared [tokens]."""


def whole_or_fraction(n: Fraction) -> int | Fraction:
    """The number as an int where it is one."""
    return n.numerator if n.denominator == 1 else n


def kv_quantities(tape: Tape, dtype: str, length: int) -> dict[str, int | float | bool | Fraction]:
    """How the cache of one sequence grows at a length, what of it does not, and what it is at two set lengths."""
    cache = sequence_cache(tape, dtype)
    return {
        "kv.bytes_per_token": whole_or_fraction(cache.growth(length)),
        "kv.fixed_bytes": whole_or_fraction(cache.fixed(length)),
        **{f"kv.sequence_bytes_{name}": cache.at(tokens) for name, tokens in LENGTHS.items()},
    }


def kv(
    spec: Spec,
    *,
    context: int | None = None,
    batch: int = 1,
    kv_dtype: str = "bf16",
    tp: int = 1,
    dcp: int = 1,
    pp: int = 1,
    dp: int = 1,
    block_size: int = 1,
    memory: int | None = None,
    image: Images = (),
    video: Videos = (),
) -> Report:
    """The `kv` command. `context` is the model's limit where it is left out; `memory` in [bytes]. Raises InputError."""
    length = spec.backbone.max_position_embeddings if context is None else context
    if length < 1:
        raise InputError(f"--context must be at least 1, not {length}", value=length)
    kv_dtype = in_its_case(kv_dtype, LAYOUTS)
    workload = Workload(batch=batch, context=length, **seen(image, video))
    mesh = Mesh(tp=tp, dcp=dcp, pp=pp, dp=dp, block_size=block_size)
    return kv_report(spec, workload, kv_dtype=kv_dtype, mesh=mesh, memory=memory)


def kv_report(
    spec: Spec, workload: Workload, *, kv_dtype: str = "bf16", mesh: Mesh, memory: int | None = None
) -> Report:
    """KV cache of `workload.batch` sequences of `workload.context` tokens (and their vision tokens).

    `memory` [bytes of each device] is inverted to how many tokens fit. Raises InputError.
    """
    if memory is not None and memory < 1:
        raise InputError(f"memory must be at least 1 byte, not {memory}", value=memory)
    tape = spec.trace(Workload())
    check_heads(tape, mesh.tp)
    length = workload.context + vision_load(spec, workload)[0]
    copy = sequence_cache(tape, kv_dtype, Mesh(block_size=mesh.block_size))
    device = sequence_cache(tape, kv_dtype, mesh)
    found = kv_quantities(tape, kv_dtype, length) | {
        "kv.total_bytes": workload.batch * copy.at(length),
        "kv.bytes_per_device": -(-workload.batch // mesh.dp) * device.at(length),
    }
    notes = [*context_notes(spec, length), *_mtp_notes(tape, kv_dtype, length)]
    if memory is not None:
        longest = device.longest(memory)
        if longest is None:
            notes.append("What a sequence keeps has an end, and fits: kv.max_tokens has no limit.")
        else:
            found["kv.max_tokens"] = longest * mesh.dp
    return Report(
        command="kv",
        title=f"{spec.title}: KV cache in {kv_dtype}, {workload.batch} x {length:,} tokens",
        answer=_answer(found),
        spec=spec,
        inputs={
            "spec": spec.name,
            "context": workload.context,
            "batch": workload.batch,
            "kv_dtype": kv_dtype,
            "tp": mesh.tp,
            "dcp": mesh.dcp,
            "pp": mesh.pp,
            "dp": mesh.dp,
            "block_size": mesh.block_size,
            "memory": memory,
            **pixels(workload),
        },
        quantities=found,
        rows=Table("rows", "what each layer keeps of a sequence", COLUMNS, _rows(tape, kv_dtype, length)),
        assumptions=spec.assumed_sizes,
        conventions=(
            "Total: one copy of the cache, in whole pages.",
            *cache_lines(tape, "Per device", "pp", "dp"),
            *growth_lines(tape),
            *marker_lines(workload, "--context"),
        ),
        notes=notes,
    )


def _answer(found: Mapping[str, Value]) -> list[str | Amount]:
    """The cache in all, of a device where that is less, and what fits where that was asked."""
    total, own = found["kv.total_bytes"], found["kv.bytes_per_device"]
    said = [Amount(total, "bytes"), *((", ", Amount(own, "bytes"), " on each device") if own != total else ())]
    if "kv.max_tokens" in found:
        said += ["; ", Amount(found["kv.max_tokens"], "int"), " tokens fit"]
    return said


def _mtp_notes(tape: Tape, dtype: str, length: int) -> list[str]:
    """What prediction modules would cache, which no total has: only drafting with them fills it."""
    if not any(segment.part == "mtp" for segment in tape.segments):
        return []
    beside, alone = (sequence_cache(tape, dtype, mtp=mtp).growth(length) for mtp in (True, False))
    return [
        "The cache of multi-token prediction is not in: drafting with it would keep"
        f" {float(beside - alone):,.10g} B a token more."
    ]


def _rows(tape: Tape, dtype: str, length: int) -> list[dict[str, Any]]:
    return [
        {
            **where(row.path, row.indices),
            "kind": row.kind,
            "span": span_words(row.span),
            "elements": row.elements,
            "layers": row.layers,
            "bytes_per_token_and_layer": row.nbytes,
            "bytes_per_token": whole_or_fraction(row.growth(length)),
            "sequence_bytes": row.at(length),
        }
        for row in cache_rows(tape, dtype)
    ]
