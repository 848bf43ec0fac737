"""What a report opens with: sizes, on which GPUs the model fits, and the peak of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archcalc.documents.book import Asked, Section
from archcalc.documents.document import Column, Report, Table, Value
from archcalc.documents.quantities import quantity
from archcalc.documents.serve_words import best_of, verdict
from archcalc.hardware import load_hardware
from archcalc.training.load import load_plan
from archcalc.units import format_bytes, format_int

COLUMNS = (Column("question", "asked"), Column("value", "answer", "own"), Column("more", "more"))

SIZES = {
    "params.total": "parameters",
    "params.active": "parameters that a token uses",
    "flops.per_token": "forward FLOPs of a token in a prefill of {seq}, causal",
    "kv.bytes_per_token": "KV cache of one token more, bf16",
    "kv.sequence_bytes_128k": "KV cache of a sequence of 131,072 tokens, bf16",
    "weights.bytes": "released weights",
    "weights.bits_per_parameter": "bits of a released weight",
}
"""What a reader asks first of a model; `{seq}` are the tokens of the prefill."""


def headline(sections: Sequence[Section], found: Mapping[str, Value], *, seq: int, plans: Mapping[str, str]) -> Table:
    """A row for each size, for the fewest GPUs of all and of each kind that was asked about, and for each plan.

    Args:
        found: the quantities of the report.
        seq: text tokens of its prefill.
        plans: the plans that it is about, as `--plan` names them, by the names of their sections.
    """
    rows = [
        {"path": name, "question": words.format(seq=format_int(seq)), "value": found[name], "unit": quantity(name).unit}
        for name, words in SIZES.items()
        if name in found
    ]
    rows += _fits({section.name: section.asked[0] for section in sections})
    rows += [_peak(name, plan, section.asked[0].report) for name, plan, section in _trained(sections, plans)]
    return Table("headline", "at a glance", COLUMNS, rows)


def _trained(sections: Sequence[Section], plans: Mapping[str, str]) -> Iterator[tuple[str, str, Section]]:
    for section in sections:
        name = section.name.removeprefix("train-")
        if name != section.name:
            yield name, plans[name], section


def _fits(asked: Mapping[str, Asked]) -> Iterator[dict[str, Any]]:
    """On which GPUs a sequence fits: the best of all, then each that was asked about."""
    for name, each in asked.items():
        report = each.report
        if name == "serve" and report.rows:
            rows, length = report.rows.rows, format_int(report.inputs["context"])
            few = "the fewest GPUs" if report.inputs["gpus"] == "auto" else "GPUs"
            question = f"{few} that serve a sequence of {length} tokens"
            best = best_of(rows) or rows[0]
            yield _fit(name, question, best["path"], best["gpus"], best["verdict"], best["fits"], best["margin_bytes"])
        elif name.startswith("serve-"):
            q, gpu = report.quantities, report.inputs["gpu"]
            fits, margin = q["serve.fits"], q["serve.margin_bytes"]
            said = verdict(report.extra["verdict"], bool(fits))
            yield _fit(name, f"the same on {gpu}", gpu, q["serve.gpus"], said, fits, margin)


def _fit(path: str, question: str, gpu: str, gpus: Value, said: str, fits: Value, margin: Value) -> dict[str, Any]:
    value = {"path": path, "question": question, "value": f"{gpus} x {gpu}", "unit": "text"}
    return value | {"fits": bool(fits), "margin_bytes": margin, "more": f"{said}, {_left(int(margin))}"}


def _left(margin: int) -> str:
    return f"{format_bytes(abs(margin))} {'left' if margin >= 0 else 'missing'} on each"


def _peak(name: str, plan: str, report: Report) -> dict[str, Any]:
    """The peak of the worst rank beside the memory of the plan's GPUs."""
    peak, read = int(report.quantities["train.peak_bytes"]), load_plan(plan)
    hardware = load_hardware(read.hardware)
    margin = hardware.memory_visible_bytes - peak
    more = f"{'fits' if margin >= 0 else 'does not fit'}, {_left(margin)} of {read.parallel.world} x {hardware.name}"
    row = {"path": f"train-{name}", "question": f"peak of training under {name}", "value": peak, "unit": "bytes"}
    return row | {"fits": margin >= 0, "margin_bytes": margin, "more": more}
