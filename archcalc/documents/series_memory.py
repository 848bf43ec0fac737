"""Serving memory of each device against the context: weights, workspace, KV cache, and where they pass the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from archcalc.calc.kv_cache import SequenceCache
from archcalc.calc.sharding import Padding
from archcalc.documents.conventions import ENGINES_PAD, padding_notes
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.series import Curve, Figure, Limit, Mark, Panel, Range
from archcalc.documents.series_cases import (
    LENGTH,
    MOST_LINES,
    MOST_PANELS,
    Case,
    check_count,
    common,
    edge_within,
    hues_and_dashes,
    inputs_of,
    limit_notes,
    models_of,
    of_each,
    titled,
    varying,
)
from archcalc.documents.weights import what_if
from archcalc.hardware import Hardware, Links
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import Engine
from archcalc.serving.memory import Load, serve
from archcalc.units import format_int
from archcalc.workload import Workload

CASE = (Column("spec", "spec"), Column("kv_dtype", "cache"), Column("batch", "sequences", "int"))
TERMS = (
    Column("weights_bytes", "weights", "bytes"),
    Column("overhead_bytes", "workspace", "bytes"),
    Column("kv_bytes", "KV cache", "bytes"),
    Column("total_bytes", "total", "bytes"),
)
USABLE = Column("limit_bytes", "usable", "bytes")
LAYERS = (("weights", "weights_bytes", 0), ("workspace", "overhead_bytes", 5), ("KV cache", "kv_bytes", 3))
"""The stack from the bottom up: what a layer is called, its key in the rows, and the number of its colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the models run on; without `hardware` devices of any size, with the engine's larger defaults."""

    engine: Engine
    where: Deployment
    hardware: Hardware | None = None

    @property
    def subject(self) -> str:
        """Whose memory it is."""
        return "each device" if self.where.devices > 1 else "one device"

    def words(self) -> str:
        """The devices in a few words; none for a single one of any size."""
        spread = [f"{name} {n}" for name, n in (("tp", self.where.tp), ("dp", self.where.dp)) if n > 1]
        if self.hardware is None:
            return ", ".join([f"{self.where.devices} devices", *spread]) if spread else ""
        return ", ".join([f"{self.where.devices} x {self.hardware.title}", *spread])

    def limit(self, usable: int) -> Limit | None:
        """The line that the stack should stay under."""
        if self.hardware is None:
            return None
        share = f"{self.engine.utilization * 100:g} %"
        return Limit(usable, f"usable, {share} of the visible memory ({self.engine.name})")


class Budget(NamedTuple):
    """A device of one case [bytes]: what does not depend on the context, and the cache of each of its sequences.

    `room` is what weights and workspace leave for the cache.
    """

    weights: int
    overhead: int
    usable: int
    room: int
    sequences: int
    cache: SequenceCache
    padded: tuple[Padding, ...]

    def at(self, context: int) -> dict[str, int]:
        """The terms at a context, and their sum."""
        kv = self.sequences * self.cache.at(context)
        return {
            "weights_bytes": self.weights,
            "overhead_bytes": self.overhead,
            "kv_bytes": kv,
            "total_bytes": self.weights + self.overhead + kv,
        }

    def last(self) -> int | None:
        """The longest context that fits, in whole pages; 0 where none does, None where all do [tokens]."""
        return self.cache.longest(self.room, self.sequences)


def budget(case: Case, setup: Setup) -> Budget:
    """The device of one case. Raises InputError where the model can't be divided so."""
    tape = case.model.spec.trace(Workload())
    found = serve(
        tape,
        what_if(case.model.spec, "released"),
        setup.hardware or unlimited(),
        setup.engine,
        setup.where,
        Load(context=1, batch=case.batch, kv_dtype=case.kv_dtype),
    )
    return Budget(
        weights=found.weights_bytes,
        overhead=found.overhead_bytes,
        usable=found.usable,
        room=found.kv_budget,
        sequences=-(-case.batch // setup.where.dp),
        cache=found.cache,
        padded=found.padded,
    )


@cache
def unlimited() -> Hardware:
    """A device that everything fits on, for a question that names none."""
    return Hardware(
        kind="hardware",
        name="unlimited",
        title="a device without a limit",
        sources={},
        memory_bytes=1 << 60,
        memory_visible_bytes=1 << 60,
        memory_bandwidth=1,
        peak_flops={},
        links=Links(nvlink_bytes_per_s=1, pcie_bytes_per_s=1, network_bytes_per_s=1),
        devices_per_node=1,
    )


def memory_figure(found: Sequence[Case], over: Range, setup: Setup) -> Figure:
    """Weights, workspace and KV cache of each device against the context: a stack for each case, or else lines.

    Raises:
        InputError: a model that can't be divided so, a cache dtype that does not fit it, or too many cases.
    """
    check_count(len(found), MOST_LINES, "cases")
    budgets = of_each(found, lambda case: budget(case, setup))
    lines = len(found) > MOST_PANELS
    title = titled(found, f"memory of {setup.subject} against context")
    panels = [_stack(case, b, name, over, setup) for case, b, name in zip(found, budgets, varying(found), strict=True)]
    return Figure(
        title=title,
        setting=", ".join(filter(None, [setup.words(), common(found)])),
        shape="lines" if lines else "areas",
        x_label="context of a sequence [tokens]",
        x_unit="tokens",
        y_label=f"memory of {setup.subject}",
        y_unit="bytes",
        panels=(_as_lines(panels, found),) if lines else tuple(panels),
        report=_report(title, found, budgets, over, setup),
    )


def _stack(case: Case, b: Budget, name: str, over: Range, setup: Setup) -> Panel:
    xs = over.drawn()
    terms = [b.at(x) for x in xs]
    last, limit = b.last(), setup.limit(b.usable)
    return Panel(
        title=name,
        verdict=_verdict(last, b.room, over) if limit else "",
        xs=xs,
        points=over.points(),
        curves=tuple(Curve(label, tuple(term[key] for term in terms), hue) for label, key, hue in LAYERS),
        limit=limit,
        marks=_crossing(last, b.usable, over) if limit else (),
        edge=edge_within(case.model.spec, over),
    )


def _crossing(last: int | None, usable: int, over: Range) -> tuple[Mark, ...]:
    """The mark where the stack reaches the limit, if that is within the range."""
    if last is None or not over.low <= last < over.high:
        return ()
    return (Mark(last, usable, f"fits up to {format_int(last)} tokens"),)


def _verdict(last: int | None, room: int, over: Range) -> str:
    if last is None:
        return "fits at any length"
    if last < 1:
        return "the cache does not fit at any length" if room else "weights and workspace alone do not fit"
    if last < over.low:
        return f"fits up to {format_int(last)} tokens, before this range"
    return f"fits up to {format_int(last)} tokens{', past this range' if last >= over.high else ''}"


def _as_lines(panels: Sequence[Panel], found: Sequence[Case]) -> Panel:
    """The heights of the stacks as lines on one picture."""
    curves = [
        Curve(f"{panel.title}: {panel.verdict}" if panel.verdict else panel.title, panel.totals(), hue, dash)
        for panel, (hue, dash) in zip(panels, hues_and_dashes(found), strict=True)
    ]
    marks = tuple(mark._replace(text="") for panel in panels for mark in panel.marks)
    first = panels[0]
    return Panel(xs=first.xs, points=first.points, curves=tuple(curves), limit=first.limit, marks=marks)


def _report(title: str, found: Sequence[Case], budgets: Sequence[Budget], over: Range, setup: Setup) -> Report:
    limited = setup.hardware is not None
    rows: list[dict[str, Any]] = []
    crossings: list[dict[str, Any]] = []
    for case, b in zip(found, budgets, strict=True):
        limit = {"limit_bytes": b.usable} if limited else {}
        for x in over.points():
            terms = b.at(x)
            fits = {"fits": terms["total_bytes"] <= b.usable} if limited else {}
            rows.append({**case.row(x), "context": x, **terms, **limit, **fits})
        last_context = b.last()
        crossings.append({**case.row(last_context or 0), "last_context": last_context, **limit})
    more = (USABLE, Column("fits", "fits", "bool")) if limited else ()
    last = (*CASE, Column("last_context", "longest that fits", "tokens"), USABLE)
    return Report(
        command="plot",
        title=", ".join(filter(None, [title, setup.words()])),
        inputs={
            "kind": "memory",
            **inputs_of(found, over),
            "gpu": setup.hardware.name if setup.hardware else None,
            "gpus": setup.where.devices,
            "tp": setup.where.tp,
            "engine": setup.engine.name,
        },
        quantities={},
        rows=Table("rows", f"memory of {setup.subject}", (*CASE, LENGTH, *TERMS, *more), rows),
        tables=[Table("crossings", "where the memory ends", last, crossings)] if limited else [],
        assumptions=[f"{setup.engine.name}: {line}" for line in setup.engine.assumed],
        conventions=(
            "weights as released, divided over tp. workspace: activations, CUDA graphs and non-torch memory by"
            f" {setup.engine.title}. KV cache in whole pages.",
        ),
        notes=[
            *limit_notes(models_of(found), over.high),
            *padding_notes((each for b in budgets for each in b.padded), ENGINES_PAD),
        ],
    )
