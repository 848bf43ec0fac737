"""The `card` report: one screen about a model, for somebody who meets it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archcalc.arch.layers import StepKind
from archcalc.calc.kv_cache import sequence_cache
from archcalc.documents.ask import line
from archcalc.documents.conventions import span_words
from archcalc.documents.document import Amount, Column, Report, Table, Value
from archcalc.documents.flops import flops
from archcalc.documents.kv import kv_quantities
from archcalc.documents.params import params_quantities
from archcalc.documents.serve import serve
from archcalc.documents.serve_words import best_of
from archcalc.documents.weights import weights
from archcalc.errors import InputError
from archcalc.files.loader import bundled_file
from archcalc.files.model import Spec
from archcalc.tape import Segment, Tape, product
from archcalc.units import format_context, format_count
from archcalc.workload import Workload

COLUMNS = (Column("path", ""), Column("value", "", "own"), Column("about", ""))
NEXT = (Column("path", ""),)
LENGTHS = (32 << 10, 128 << 10)
"""Lengths of a sequence whose cache is shown [tokens]."""

PREFILL = 4096
"""Tokens of the prefill whose FLOPs are shown."""

MOST_KINDS = 6
"""Kinds of layers that are told apart; the others are counted."""

APART = {"routed experts": "routed_experts", "vision": "vision", "projector": "projector"}
"""Parts of the total that are named, by the quantity that counts each."""

QUANTITIES = tuple(f"params.{name}" for name in ("total", "active", "mtp", *APART.values()))

Row = dict[str, Any]


def card(spec: Spec, *, word: str | None = None) -> Report:
    """The `card` command: what a model is, in at most thirty lines. `word` is what a reader calls the spec. Raises
    InputError."""
    called = spec.name if word is None else word
    tape = spec.trace(Workload())
    counted = params_quantities(tape)
    found: dict[str, Value] = {name: counted[name] for name in QUANTITIES}
    found |= kv_quantities(tape, "bf16", LENGTHS[-1])
    stored = weights(spec).quantities
    found["weights.bytes"] = stored["weights.bytes"]
    found["flops.per_token"] = flops(spec, seq=PREFILL).quantities["flops.per_token"]
    served, assumed = _smallest(spec)
    rows = [*_counts(found), *_layers(spec, tape), *_sizes(spec, tape, {**found, **stored}), *_served(spec, served)]
    best = served if isinstance(served, Mapping) else None
    if best is not None:
        found["serve.gpus"] = best["gpus"]
    return Report(
        command="card",
        title=spec.title,
        answer=(
            Amount(found["params.total"], "scaled"),
            " parameters, ",
            Amount(found["params.active"], "scaled"),
            " active; ",
            f"fits on {best['gpus']} x {best['title']}" if best else "fits on no bundled GPU",
        ),
        inputs={"spec": spec.name},
        quantities=found,
        rows=Table("rows", "", COLUMNS, rows),
        rows_tell=True,
        tables=[Table("next", "what to ask next", NEXT, [{"path": text} for text in _next(spec, called, best)])],
        assumptions=assumed,
    )


def _row(label: str, value: Value | str, unit: str, about: str = "") -> Row:
    return {"path": label, "value": value, "unit": unit, "about": about}


def _counts(found: Mapping[str, Value]) -> Iterator[Row]:
    """Parameters, and those that a token uses."""
    parts = {name: int(found[f"params.{key}"]) for name, key in APART.items()}
    said = [f"{name} {format_count(n)}" for name, n in parts.items() if n]
    yield _row("parameters", found["params.total"], "scaled", ", ".join(said))
    yield _row("active", found["params.active"], "scaled", "of a text token, embedding and head among them")
    if found["params.mtp"]:
        yield _row("multi-token prediction", found["params.mtp"], "scaled", "apart from both")


def _layers(spec: Spec, tape: Tape) -> Iterator[Row]:
    """Layers by kind, the most frequent first."""
    yield _row("layers", spec.backbone.num_hidden_layers, "int")
    kinds = sorted(spec.backbone.runs().items(), key=lambda run: -len(run[1]))
    for kind, indices in kinds[:MOST_KINDS]:
        own = [s for s in tape.segments if s.part == "backbone" and set(s.indices) & set(indices)]
        yield _row("", len(indices), "int", " + ".join(_step(spec, step, own) for step in kind))
    if others := kinds[MOST_KINDS:]:
        yield _row("", sum(len(indices) for _, indices in others), "int", f"[{len(others)} other kinds]")


def _step(spec: Spec, step: StepKind, segments: Sequence[Segment]) -> str:
    """One residual step: its mixer's kind, and what bounds its work."""
    if step.section == "attention":
        return f"{spec.backbone.attention[step.mixer].kind}{_spans(segments)}"
    return f"{spec.backbone.ffn[step.mixer].kind}{_experts(segments)}"


def _spans(segments: Sequence[Segment]) -> str:
    """How far a layer looks back, where that has an end."""
    spans = (op.span for segment in segments for op in segment.ops if op.span is not None and op.span.size)
    words = (f"the best {s.size:,} keys" if s.kind == "top" else f"{span_words(s)} tokens" for s in spans)
    return "".join(f", {where}" for where in dict.fromkeys(words))


def _experts(segments: Sequence[Segment]) -> str:
    """How many experts a token uses, of how many."""
    routed = (w for segment in segments for op in segment.ops for w in op.weights if w.active is not None)
    return next((f", {w.active.size} of {product(w.stack):,} experts" for w in routed if w.active), "")


def _sizes(spec: Spec, tape: Tape, found: Mapping[str, Value]) -> Iterator[Row]:
    """Context, cache, released weights and work."""
    limit = spec.backbone.max_position_embeddings
    yield _row("context", limit, "int", "tokens at most")
    cache = sequence_cache(tape, "bf16")
    for n, tokens in enumerate(LENGTHS):
        past = f", past its {limit:,}" if tokens > limit else ""
        about = f"at {format_context(tokens)}{past}"
        yield _row("" if n else "cache of a sequence", cache.at(tokens), "bytes", about if n else f"{about}, in bf16")
    bits = found["weights.bits_per_parameter"]
    yield _row("released weights", found["weights.bytes"], "bytes", f"{float(bits):.4g} bits an element")
    yield _row("FLOPs a token", found["flops.per_token"], "flops", f"forward, in a prefill of {PREFILL:,} tokens")


def _smallest(spec: Spec) -> tuple[Mapping[str, Any] | str, Sequence[str]]:
    """The fewest bundled GPUs that serve a sequence of full length, the least memory among them, with room for what is
    assumed; or why none does. Beside it what that rests on."""
    try:
        report = serve(spec, gpu="all", engine=bundled_file("vllm", "engines"))
    except InputError as error:
        return error.message, ()
    best = best_of(report.rows.rows if report.rows else ())
    return best or "none holds it", report.assumptions


def _served(spec: Spec, best: Mapping[str, Any] | str) -> Iterator[Row]:
    if isinstance(best, str):
        yield _row("served by", "none", "text", best)
        return
    tight = "" if best["verdict"] == "fits" else ", tight"
    about = f"{best['layout']} under vLLM, its full context{tight}"
    yield _row("served by", f"{best['gpus']} x {best['path']}", "text", about)


def _next(spec: Spec, called: str, best: Mapping[str, Any] | None) -> Iterator[str]:
    """Three commands that go on from here."""
    limit = spec.backbone.max_position_embeddings
    where = {"gpu": "all"} if best is None else {"gpu": best["path"], **_spread(best)}
    yield line("serve", called, {**where, "context": format_context(limit)})
    yield line("plot memory", called, {"gpu": best["path"]}) if best else line("kv", called, {})
    yield line("claims" if spec.claims else "params", called, {})


def _spread(best: Mapping[str, Any]) -> dict[str, int]:
    """The flags that ask for a layout again: a number of GPUs is tensor parallel alone, any other names its sizes."""
    sizes = {name: best[name] for name in ("tp", "pp", "dp", "ep", "dcp") if best[name] > 1}
    return {"gpus": best["gpus"]} if best["tp"] == best["gpus"] and sizes.keys() <= {"tp"} else sizes
