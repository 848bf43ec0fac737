"""The `flops` report: arithmetic of a forward pass, a training step, a decode step or a whole run, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from archcalc.calc.flops import flop_rows, totals
from archcalc.calc.params import count
from archcalc.documents.conventions import logits_line, marker_lines, packing_lines, pair_lines
from archcalc.documents.document import Amount, Column, Report, Table
from archcalc.documents.paths import PART_ORDER, where
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.tape import FlopClass, Tape, formula
from archcalc.units import format_int
from archcalc.workload import Images, Phase, Videos, Workload

COUNTING = "2 FLOPs a multiply-add. Not counted: norms, softmax, rope, activations, other elementwise work."

SOME: dict[FlopClass, str] = {"index": "index scores", "scan": "scans", "conv": "convolutions"}
"""Classes of FLOPs that few models have, in words: named where there are any."""

COLUMNS = (
    Column("path", "operation"),
    Column("forward", "forward", "flops"),
    Column("share", "share", "share"),
)
BACKWARD = Column("backward", "backward", "flops")


def counting(tape: Tape) -> tuple[str, ...]:
    """How the FLOPs of this pass were counted."""
    classes = {op.counts_as for op in tape.ops("backbone")}
    known = {"attention": "attention", **SOME}
    twice = [words for name, words in known.items() if name in classes - {"index"}]
    patches = " (none for the patch convolution)" if any(s.part == "vision" for s in tape.segments) else ""
    backward = [f"Backward: weight gradient + input gradient{patches}"]
    backward += [f"{', '.join(twice)}: twice the forward"] if twice else []
    backward += ["what chooses keys for attention: none, no loss reaches it"] if "index" in classes else []
    return (COUNTING, *pair_lines(tape), f"{'; '.join(backward)}.")


def flops_quantities(spec: Spec, workload: Workload) -> dict[str, int | float | bool]:
    """All `flops.*` and `vision.*` quantities of one workload."""
    sums = totals(flop_rows(spec.trace(workload)))
    tokens, patches = vision_load(spec, workload)
    found: dict[str, int | float | bool] = {
        f"flops.{name}": n for name, n in asdict(sums).items() if name != "mtp" and (n or name not in SOME)
    }
    whole = workload.text_tokens + workload.sequences * tokens
    found["flops.per_token"] = sums.forward // whole if sums.forward % whole == 0 else sums.forward / whole
    return found | {
        "vision.tokens": workload.sequences * tokens,
        "vision.patches": workload.sequences * patches,
    }


def vision_load(spec: Spec, workload: Workload) -> tuple[int, int]:
    """Backbone tokens and patches that one sequence's images and videos make; (0, 0) without any.

    Raises:
        InputError: images or videos for a model without a vision tower.
    """
    if spec.vision is None:
        if workload.images or workload.videos:
            raise InputError(f"{spec.title} has no vision tower", hint="leave out --image and --video")
        return 0, 0
    groups = spec.vision.groups(workload)
    return spec.vision.tokens(groups), sum(group.patches for group in groups)


def flops(
    spec: Spec,
    *,
    phase: Phase = "prefill",
    batch: int = 1,
    seq: int | None = None,
    lengths: Sequence[int] = (),
    context: int = 0,
    attention: Literal["causal", "full"] = "causal",
    logits: Literal["all", "last"] = "all",
    mla: Literal["auto", "expanded", "absorbed"] = "auto",
    image: Images = (),
    video: Videos = (),
    tokens: int | None = None,
) -> Report:
    """The `flops` command. `seq` is 4,096 where it is left out, in decode 1; `lengths` stand in place of `batch` and
    `seq`. Raises InputError."""
    if lengths and (seq is not None or batch != 1):
        raise InputError(
            "lengths say how long each sequence is, and how many there are",
            value=seq,
            hint="leave out --seq and --batch, or --lengths",
        )
    if tokens is not None and tokens < 1:
        raise InputError(f"a run has at least 1 token, not {tokens}", value=tokens, hint="write --tokens 15.5T")
    if seq is None:
        seq = 1 if lengths or phase == "decode" else 4096
    workload = Workload(
        phase=phase,
        batch=batch,
        seq=seq,
        lengths=tuple(lengths),
        context=context,
        attention=attention,
        logits=logits,
        choices=() if mla == "auto" else (("mla", mla),),
        **seen(image, video),
    )
    return flops_report(spec, workload, tokens=tokens)


def flops_report(spec: Spec, workload: Workload, *, tokens: int | None = None) -> Report:
    """FLOPs of one workload; `tokens` scales it to a whole run and sets 6ND beside it."""
    found = flops_quantities(spec, workload)
    tape = spec.trace(workload)
    rows = [row for row in flop_rows(tape) if row.forward]
    rows.sort(key=lambda row: PART_ORDER.index(row.part))
    forward = found["flops.forward"]
    lines: list[dict[str, Any]] = [
        {
            **where(row.path, row.indices, row.experts),
            "part": row.part,
            "kind": row.kind,
            "counts_as": row.counts_as,
            "copies": row.copies,
            "forward": row.forward,
            "backward": row.backward,
            "share": row.forward / forward,
            "formula": formula(row.number),
        }
        for row in rows
        if row.part != "mtp"
    ]
    columns = (*COLUMNS[:2], BACKWARD, COLUMNS[2]) if workload.phase == "train" else COLUMNS
    notes = _notes(spec, workload, found)
    mtp = totals(rows).mtp
    if mtp:
        notes.append(
            f"The multi-token-prediction module would add {format_int(mtp)} FLOPs, its pass through the shared head"
            " among them; it is in no total."
        )
    if tokens is not None:
        found |= _run(spec, workload, found, tokens)
    return Report(
        command="flops",
        title=f"{spec.title}: FLOPs of {_described(spec, workload)}",
        answer=(Amount(found["flops.total"], "flops"),),
        spec=spec,
        inputs={"spec": spec.name, **_inputs(workload), "tokens": tokens},
        quantities=found,
        rows=Table("rows", "by operation, all layers together", columns, lines),
        assumptions=tuple(tape.assumed),
        conventions=(
            *counting(tape),
            *packing_lines(workload),
            *logits_line(workload),
            *marker_lines(workload, _counted_in(workload)),
        ),
        notes=notes,
    )


def _run(spec: Spec, workload: Workload, found: dict[str, Any], tokens: int) -> dict[str, int | float | bool]:
    """A whole run: the training step's FLOPs a token times tokens, and 6ND with N the active parameters."""
    if workload.phase != "train":
        raise InputError("a whole run needs --phase train", value=workload.phase, hint="add --phase train")
    step = workload.text_tokens + int(found.get("vision.tokens", 0))
    total = int(found["flops.total"]) * tokens // step
    rule = 6 * count(spec.trace(Workload())).active * tokens
    return {"flops.run_total": total, "flops.run_6nd": rule, "flops.run_ratio": total / rule}


def _counted_in(workload: Workload) -> str:
    """The flag that text tokens beside pictures are counted in."""
    if workload.phase == "decode":
        return "--context"
    return "--lengths" if workload.lengths else "--seq"


def _described(spec: Spec, workload: Workload) -> str:
    tokens, _ = vision_load(spec, workload)
    what = {"train": "a training step", "prefill": "a prefill", "decode": "a decode step"}[workload.phase]
    if workload.lengths:
        count, text, tokens, on = workload.sequences, workload.text_tokens, workload.sequences * tokens, ", each on"
        words = f"{what}, {format_int(count)} packed sequence{'s' if count > 1 else ''}, {_text(text)}"
    else:
        words, on = f"{what}, batch {workload.batch}, {_text(workload.seq)}", " on"
    if tokens:
        words += f" and {format_int(tokens)} vision tokens"
    return words + (f"{on} {format_int(workload.context)} cached" if workload.context else "")


def _text(tokens: int) -> str:
    return f"{format_int(tokens)} text token{'' if tokens == 1 else 's'}"


def _notes(spec: Spec, workload: Workload, found: dict[str, Any]) -> list[str]:
    length = workload.context + workload.longest + vision_load(spec, workload)[0]
    notes = [*context_notes(spec, length), *spec.trace(workload).remarks]
    if workload.phase == "decode" and (workload.images or workload.videos):
        notes.insert(0, "warning: decode runs no vision tower: count an image's tokens in --context.")
    return notes


def context_notes(spec: Spec, length: int) -> list[str]:
    """A warning where a sequence is longer than the model's context."""
    limit = spec.backbone.max_position_embeddings
    if length <= limit:
        return []
    return [f"warning: {format_int(length)} tokens are more than max_position_embeddings, {format_int(limit)}."]


def seen(image: Images, video: Videos) -> dict[str, Any]:
    """The flags `image` and `video` as a workload has them. Raises ValueError for sizes of another number."""
    return {"images": tuple((h, w) for h, w in image), "videos": tuple((f, h, w) for f, h, w in video)}


def pixels(workload: Workload) -> dict[str, Any]:
    """The inputs `image` and `video` of a report."""
    return {"image": [list(sides) for sides in workload.images], "video": [list(sides) for sides in workload.videos]}


def _inputs(workload: Workload) -> dict[str, Any]:
    return {
        "phase": workload.phase,
        "batch": workload.batch,
        "seq": None if workload.lengths else workload.seq,
        "lengths": list(workload.lengths),
        "context": workload.context,
        "attention": workload.attention,
        "logits": workload.logits,
        "mla": workload.choice("mla"),
        **pixels(workload),
    }
