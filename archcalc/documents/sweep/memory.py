"""Serving memory of each device against the context: weights, workspace, KV cache, and where they pass the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from archcalc.documents.conventions import ENGINES_PAD, padding_notes
from archcalc.documents.document import Column
from archcalc.documents.sweep.cases import CONTEXT, MOST_LINES, MOST_PANELS, Case, Range, check_count, of_each
from archcalc.documents.sweep.figure import Figure, Layer, Limit, Mark, Series, series
from archcalc.documents.weights import what_if
from archcalc.errors import InputError
from archcalc.hardware import Hardware, Links, load_hardware
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import Engine, load_engine
from archcalc.serving.memory import Load, Serving, serve
from archcalc.units import format_int
from archcalc.workload import Workload

USABLE = Column("limit_bytes", "usable", "bytes")
TERMS = (
    Column("weights_bytes", "weights", "bytes"),
    Column("overhead_bytes", "workspace", "bytes"),
    Column("kv_bytes", "KV cache", "bytes"),
    Column("total_bytes", "total", "bytes"),
    USABLE,
    Column("fits", "fits", "bool"),
)
CROSSINGS = ("where the memory ends", (Column("last_context", "longest that fits", "tokens"), USABLE))
LAYERS = (
    Layer("weights", ("weights_bytes",), hue=0),
    Layer("workspace", ("overhead_bytes",), hue=5),
    Layer("KV cache", ("kv_bytes",), hue=3),
)


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

    def serving(self, case: Case) -> Serving:
        """The devices with one case's weights. Raises InputError where the model can't be divided so."""
        scheme, load = what_if(case.model.spec, "released"), Load(context=1, batch=case.batch, kv_dtype=case.kv_dtype)
        tape = case.model.spec.trace(Workload())
        return serve(tape, scheme, self.hardware or unlimited(), self.engine, self.where, load)


def setup_of(gpu: str | None, gpus: int | None = None, tp: int | None = None) -> Setup:
    """One server of a GPU, or one device of any size, unless counts say otherwise. Raises InputError."""
    engine, hardware = load_engine(), None if gpu is None else load_hardware(gpu)
    devices = gpus or tp or (hardware.devices_per_node if hardware else 1)
    group = tp or devices
    if devices % group:
        raise InputError(
            f"--tp {tp} does not divide {devices} devices", value=tp, hint="choose a --tp that divides --gpus"
        )
    where = Deployment(tp=group, dp=devices // group, vision=engine.tensor_parallel.vision)
    return Setup(engine=engine, where=where, hardware=hardware)


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
    held = list(zip(found, of_each(found, setup.serving), strict=True))
    lines, words = len(found) > MOST_PANELS, setup.words()
    return Figure(
        kind="memory",
        text=f"memory of {setup.subject} against context",
        series=[_series(case, serving, over, setup, lines=lines) for case, serving in held],
        over=over,
        shape="lines" if lines else "areas",
        across=CONTEXT,
        x_label="context of a sequence [tokens]",
        y_label=f"memory of {setup.subject}",
        heading=f"memory of {setup.subject}",
        columns=TERMS,
        setup=words,
        subtitle=words,
        inputs={
            "gpu": setup.hardware.name if setup.hardware else None,
            "gpus": setup.where.devices,
            "tp": setup.where.tp,
            "engine": setup.engine.name,
        },
        crossings=CROSSINGS,
        assumptions=[f"{setup.engine.name}: {line}" for line in setup.engine.assumed],
        conventions=(
            "weights as released, divided over tp. workspace: activations, CUDA graphs and non-torch memory by"
            f" {setup.engine.title}. KV cache in whole pages.",
        ),
        notes=padding_notes((each for _, serving in held for each in serving.padded), ENGINES_PAD),
    )


def _series(case: Case, serving: Serving, over: Range, setup: Setup, *, lines: bool) -> Series:
    """A stack with the model's own limit, or as one of many lines its height, whose name has the verdict."""
    sequences, limit = -(-case.batch // setup.where.dp), setup.limit(serving.usable)
    last = serving.cache.longest(serving.kv_budget, sequences)
    rows = {x: _row(serving, sequences * serving.cache.at(x), limit) for x in over.drawn()}
    verdict = _verdict(last, serving.kv_budget, over) if limit else ""
    marks: tuple[Mark, ...] = ()
    if limit and last is not None and over.low <= last < over.high:
        marks = (Mark(last, limit.value, f"fits up to {format_int(last)} tokens"),)
    return series(
        case,
        rows,
        (Layer(verdict, ("total_bytes",)),) if lines else LAYERS,
        over,
        {"last_context": last, "limit_bytes": limit.value} if limit else None,
        verdict=verdict,
        limit=limit,
        marks=marks,
        edge=None if lines else over.edge(case.model.spec),
    )


def _row(serving: Serving, kv: int, limit: Limit | None) -> dict[str, Any]:
    weights, overhead = serving.weights_bytes, serving.overhead_bytes
    total = weights + overhead + kv
    fits = {"limit_bytes": limit.value, "fits": total <= limit.value} if limit else {}
    return {"weights_bytes": weights, "overhead_bytes": overhead, "kv_bytes": kv, "total_bytes": total, **fits}


def _verdict(last: int | None, room: int, over: Range) -> str:
    """In words, the longest context that fits in whole pages: 0 where none does, None where all do [tokens]."""
    if last is None:
        return "fits at any length"
    if last < 1:
        return "the cache does not fit at any length" if room else "weights and workspace alone do not fit"
    if last < over.low:
        return f"fits up to {format_int(last)} tokens, before this range"
    return f"fits up to {format_int(last)} tokens{', past this range' if last >= over.high else ''}"
