"""What the `train` report says beside its tables: notes, warnings, and what a plan assumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from archcalc.calc.sharding import paddings
from archcalc.documents.conventions import MEGATRON_PADS, padding_notes
from archcalc.documents.document import Amount
from archcalc.documents.flops import SOME, context_notes
from archcalc.documents.parts import parts_notes
from archcalc.documents.said import spare
from archcalc.documents.train_vision import vision_notes
from archcalc.files.model import Spec
from archcalc.hardware import Hardware
from archcalc.section import Section
from archcalc.tape import Tape
from archcalc.tape.indices import ranges
from archcalc.training.checkpoint import checkpoints
from archcalc.training.memory import RankMemory, training_memory, worst
from archcalc.training.plan import Plan
from archcalc.training.run import Run
from archcalc.units import format_bytes, format_count


def title_of(spec: Spec, plan: Plan, top: RankMemory, hardware: Hardware) -> str:
    """The verdict."""
    verdict = "fits" if top.peak <= hardware.memory_visible_bytes else "does not fit"
    return f"{spec.title} {verdict} on {plan.parallel.world} x {hardware.title} under {plan.name}"


def answer_of(plan: Plan, top: RankMemory, hardware: Hardware) -> list[str | Amount]:
    """What the worst rank takes and has, and the layout."""
    room = hardware.memory_visible_bytes
    return [
        f"rank {top.rank} takes ",
        Amount(top.peak, "bytes"),
        " of ",
        Amount(room, "bytes"),
        ", ",
        *spare(room - top.peak),
        f"; {layout(plan)}",
    ]


def layout(plan: Plan) -> str:
    """How a plan lays a model out: the sizes of its mesh, its schedule, micro-batches of a step."""
    p = plan.parallel
    tensor = f"tp {p.tp}{' with sp' if p.sp else ''}"
    mesh = f"pp {p.pp}, vpp {p.vpp}, {tensor}, ep {p.ep}, etp {p.etp}, cp {p.cp}, dp {p.dense_dp}, zero {p.zero}"
    several = "es" if plan.micro_batches > 1 else ""
    return f"{mesh}; {plan.schedule.kind}, {plan.micro_batches:,} micro-batch{several}"


def set_notes(overrides: Sequence[str]) -> list[str]:
    """Fields of a plan that the command line sets."""
    return [f"Set over the plan: {', '.join(overrides)}."] if overrides else []


def mtp_notes(tape: Tape) -> list[str]:
    """Whether multi-token prediction is counted, of a model that has it."""
    modules = sum(s.count for s in tape.segments if s.part == "mtp")
    if not modules:
        return []
    weights = sum(w.elements for w in tape.weights() if w.part == "mtp" and w.trained)
    who = "1 module in the last stage, with its" if modules == 1 else f"{modules} modules in the last stage, with their"
    return [
        f"Multi-token prediction is in: {who} {format_count(weights)} weights, gradients, optimizer states and"
        " activations, a head and a loss each."
    ]


def precision_notes(plan: Plan) -> list[str]:
    """What a plan says of Muon's layout and of FP8, and what rests on it."""
    notes, said = [], plan.precision
    if said.muon_layout == "whole":
        notes.append(
            "Muon's states go to devices by whole parameters, embedding and head among them: the fullest device counts."
        )
    if said.fp8 != "none":
        where = "in place of those in 16 bits" if said.fp8_params else "cached beside those in 16 bits"
        notes.append(
            f"Linears of layers multiply in FP8 ({said.fp8}): they keep their inputs in it, and their weights {where}."
            " Head, embedding, router, attention and a vision tower stay as they are."
        )
    return notes


def run_padding(run: Run) -> list[str]:
    """What the plan pads so that it divides, said once."""
    return padding_notes(paddings(run.tape.weights(), run.shards), MEGATRON_PADS)


def _uncounted(run: Run) -> list[str]:
    """What no fold counts yet: exchanges of some mixers."""
    notes = []
    mixers = {op.counts_as for op in run.tape.ops("backbone")} & SOME.keys()
    if run.shards.cp > 1 and mixers:
        notes.append(f"warning: what {' and '.join(sorted(mixers))} operations exchange among cp devices is not in.")
    return notes


def _empty(run: Run) -> list[str]:
    """Chunks without a layer, which `parallel.layout: auto` makes where there are more stages than layers."""
    held = [chunk for rank in run.ranks for chunk in rank.chunks]
    empty = sum(not chunk for chunk in held)
    if not empty:
        return []
    hold = "holds" if empty == 1 else "hold"
    return [f"warning: {empty} of the {len(held)} chunks of a pipeline {hold} nothing: more stages than layers."]


def _routed(run: Run, top: RankMemory) -> list[str]:
    """How far the peak follows from what is assumed of the router."""
    if run.shards.ep == 1 or not any(w.stack for w in run.tape.weights()):
        return []
    typical, worse = run.routing.typical, run.routing.worst
    if worse == 1:
        others = 'the table "if the router is uneven" has others'
        return [f"Routing is counted as uniform: a lower bound of the routing term; {others}."]
    low, high = (worst(training_memory(run.routed(factor))).peak for factor in (Fraction(1), worse))
    counted = (
        f"{format_bytes(top.peak)} where the busiest device gets {float(typical):g} times the mean of the routed rows"
    )
    return [
        f"The peak is {counted}; {format_bytes(low)} under uniform routing, a lower bound of the routing term, and"
        f" {format_bytes(high)} at {float(worse):g} times, the worst."
    ]


def _one_device(plan: Plan, run: Run) -> list[str]:
    """That an imbalance does not count where there is nothing to balance."""
    said = plan.activations.moe_imbalance
    if said == 1 or run.shards.ep > 1 or not any(w.stack for w in run.tape.weights()):
        return []
    return ["activations.moe_imbalance does not count: with ep 1 each device has all experts and gets all its rows."]


def assumed(plan: Plan) -> list[str]:
    """Fields that the plan itself says no source gives, with their values."""
    lines = []
    for path in plan.assumed:
        value: Any = plan
        for key in path.split("."):
            value = getattr(value, key, None)
        lines.append(f"{path} = {plain(value)}")
    return lines


def plain(value: Any) -> str:
    """A value as a plan's file has it."""
    if isinstance(value, Section):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_sides(key, each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _sides(key: str, value: Any) -> str:
    return "x".join(map(str, value)) if key == "size" else plain(value)


ELSEWHERE = dict.fromkeys(("activations.hidden_dropout", "activations.attention_dropout"), "; Megatron-LM's own is 0.1")
"""What else a default might have been, by its field."""


def unlisted(plan: Plan) -> list[str]:
    """Fields that the plan leaves to their defaults."""
    left = []
    for section in ("schedule", "activations", "memory", "fsdp"):
        block = getattr(plan, section)
        for key in () if block is None else type(block).model_fields:
            path = f"{section}.{key}"
            if key not in block.model_fields_set and path not in plan.assumed and key not in ("group", "selective"):
                resolved = {"cross_entropy": plan.activations.loss, "extra_warmup": plan.schedule.longer_by}
                value = resolved.get(key, getattr(block, key))
                left.append(f"{path} = {plain(value)} (default{ELSEWHERE.get(path, '')})")
    return left


def notes_of(spec: Spec, plan: Plan, run: Run, ranks: list[RankMemory]) -> list[str]:
    """Notes and warnings."""
    top = worst(ranks)
    equals = ranges([r.rank for r in ranks if r.peak == top.peak])
    notes = context_notes(spec, plan.batch.seq)
    notes += [
        *parts_notes(run),
        *run_padding(run),
        *_uncounted(run),
        *_empty(run),
        *_routed(run, top),
        *_one_device(plan, run),
        *mtp_notes(run.tape),
        *precision_notes(plan),
    ]
    if equals != str(top.rank):
        notes.append(f"Ranks {equals} take as much as the worst.")
    written = checkpoints(run)
    notes.append(
        "A training checkpoint that all devices write together: the fullest, of rank"
        f" {written.index(max(written))}, writes {format_bytes(max(written))}."
    )
    if plan.parallel.zero >= 2 and plan.parallel.pp > 1 and plan.fsdp is None:
        notes.append(
            f"warning: zero {plan.parallel.zero} with pipeline stages is what Megatron-LM's distributed optimizer and"
            " DeepSpeed's pipeline engine refuse; torch's FSDP2 has it: `fsdp`."
        )
    return notes + vision_notes(spec, plan, run)
