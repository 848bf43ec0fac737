"""What a report says of a plan that does not train all of a model: which parts train, and what the others cost."""

from __future__ import annotations

from typing import Any

from archcalc.calc.activations import saved_bytes
from archcalc.documents.document import Column, Table
from archcalc.training.packed import NF4, whole_bytes
from archcalc.training.parts import part_of
from archcalc.training.run import Run

COLUMNS = (
    Column("part", "part"),
    Column("way", "trained"),
    Column("parameters", "parameters", "int"),
    Column("trained", "of them trained", "int"),
    Column("weights_bytes", "weights", "bytes"),
    Column("grads_bytes", "gradients", "bytes"),
    Column("kept_bytes", "kept for backward, a micro-batch", "bytes"),
)
PARTS = ("backbone", "embedding", "head", "vision", "projector", "mtp")
ASSUMED = (
    "adapters stand beside every linear layer of attention and feed-forward, each expert's too where there are experts"
    " (PEFT target_modules all-linear), and not beside routers",
    "adapters are in precision.params, as Megatron-Bridge makes them (PEFT makes them in fp32 unless"
    " autocast_adapter_dtype is false), without dropout",
    "under sequence parallelism an adapter keeps its device's rows of its input (Megatron-Bridge"
    " sequence_parallel_input_regather)",
)


def parts_table(run: Run) -> list[Table]:
    """Every part of the model with its way, where any is not trained as a whole."""
    if run.train.everything:
        return []
    return [Table("parts", "what trains, on one copy of the model", COLUMNS, part_rows(run))]


def part_rows(run: Run) -> list[dict[str, Any]]:
    """A row for each part that the model has. Layers keep tensors, so embedding and head have those of their ends."""
    weights = run.tape.weights()
    ways, (param_item, grad_item) = run.train.ways, run.item_bytes
    rows = []
    for part in PARTS:
        own = [w for w in weights if part_of(w) == part and w.learnable]
        if own:
            trained = sum(w.elements for w in own if w.trained)
            how = ways[part]
            rows.append(
                {
                    "path": part,
                    "part": part,
                    "way": f"{how.kind}({how.rank})" if how.adapted else how.kind,
                    "parameters": sum(w.elements for w in own),
                    "trained": trained,
                    "weights_bytes": sum(whole_bytes(w, param_item) for w in own),
                    "grads_bytes": grad_item * trained,
                    "kept_bytes": _kept(run, part),
                }
            )
    return rows


def _kept(run: Run, part: str) -> int:
    """What the segments of a part keep of one micro-batch on one device of each stage [bytes]."""
    total = 0
    for segment in run.tape.segments:
        own = [part_of(w) for op in segment.ops for w in op.weights]
        of = segment.part if segment.indices or segment.part != "backbone" else _end(own)
        if of == part:
            total += segment.count * saved_bytes(segment, run.shards, run.savers)
    return total


def _end(parts: list[str]) -> str:
    """Of a segment at an end of the backbone: the part that is not its norm's."""
    return next((part for part in reversed(parts) if part != "backbone"), "backbone")


def parts_notes(run: Run) -> list[str]:
    """What trains, in numbers."""
    if run.train.everything:
        return []
    rows = part_rows(run)
    trained, whole = (sum(row[key] for row in rows) for key in ("trained", "parameters"))
    ways = ", ".join(f"{row['part']} {row['way']}" for row in rows)
    if not trained:
        return [f"warning: nothing trains ({ways}): no gradients, no optimizer states, nothing kept for backward."]
    return [f"Trains {trained:,} of {whole:,} parameters ({100 * trained / whole:.2f} %): {ways}."]


def parts_assumed(run: Run) -> list[str]:
    """What adapters and a quantized base rest on."""
    kinds = {how.kind for how in run.train.ways.values()}
    lines = list(ASSUMED) if kinds & {"lora", "qlora"} else []
    if any(w.stack and w.rests and run.train.ways[part_of(w)].adapted for w in run.tape.weights()):
        lines.append(
            "each expert has adapters of its own; Megatron-Bridge shares one among a device's experts unless"
            " share_expert_adapters is false"
        )
    if any(w.packed == NF4.stored for w in run.tape.weights()):
        lines.append(
            "a matrix with an adapter is held in NF4 with double quantization, blocks of 64 and 256 (bitsandbytes)"
        )
    elif any(w.packed is not None for w in run.tape.weights()):
        lines.append("a matrix with an adapter is held as the release stores it")
    return lines
