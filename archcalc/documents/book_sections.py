"""The sections of a report: the reports of the commands, each cut to what a page has room for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from archcalc.calc.kv_cache import LAYOUTS, Mesh, sequence_cache
from archcalc.documents.book import PLANS, Book, Section, Source, gathered
from archcalc.documents.book_model import model_report
from archcalc.documents.book_pictures import flops_picture, kv_picture, memory_picture, train_picture
from archcalc.documents.claims import claims_report
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.flops import flops_quantities, flops_report
from archcalc.documents.kv import kv_report, whole_or_fraction
from archcalc.documents.params import params_report
from archcalc.documents.serve import Question, serve_all_report
from archcalc.documents.train import train_report
from archcalc.documents.weights import weights_report
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.hardware import hardware_names, load_hardware
from archcalc.serving.deployment import Spread
from archcalc.serving.engine import load_engine
from archcalc.serving.memory import Load
from archcalc.training.load import load_plan
from archcalc.units import format_int
from archcalc.workload import Workload

SEQ = 4096
"""Text tokens of the workloads; `archcalc diff` compares specs at the same."""

IMAGE = (1024, 768)

PHASES = (
    Column("phase", "phase"),
    Column("forward", "forward", "flops"),
    Column("backward", "backward", "flops"),
    Column("attention_core", "attention core", "flops"),
    Column("per_token", "forward per token", "flops"),
    Column("per_token", "per token, exact", "number"),
)
PICTURE = (Column("term", "one image of 1024 x 768"), Column("value", "value", "number"), Column("flops", "", "flops"))
CONTEXTS = (SEQ, 32 * 1024, 128 * 1024, 1024 * 1024)
STORED = (
    Column("as", "stored as"),
    Column("bytes", "bytes", "bytes"),
    Column("bits", "bits per element", "number"),
)


def make_book(source: Source, checked: Report) -> Book:
    """Everything about one spec; `checked` is the cross-check's section.

    Raises:
        InputError: a claim about no known quantity.
    """
    made = (_model, _params, _claims, _flops, _kv, _weights, _serve, _train)
    sections = [section for make in made for section in make(source)]
    sections.append(
        Section(name="crosscheck", title="Cross-check", commands=(source.command("crosscheck"),), report=checked)
    )
    return Book(
        stem=source.stem,
        spec=source.spec.name,
        title=source.spec.title,
        command=source.command("report"),
        sections=(*sections, *_assumptions(source, sections)),
    )


def whole_report(spec: Spec) -> Report:
    """The document of a spec's report, its cross-check apart: what a saved one is compared with. Raises InputError."""
    unchecked = Report(command="crosscheck", title="", inputs={}, quantities={})
    return make_book(Source(spec=spec, word=spec.name), unchecked).report


def _model(source: Source) -> Iterator[Section]:
    report = model_report(source.spec)
    yield Section(name="model", title="What it is", commands=(source.command("show"),), report=report)


def _params(source: Source) -> Iterator[Section]:
    report = params_report(source.spec)
    yield Section(name="params", title="Parameters", commands=(source.command("params"),), report=report)


def _claims(source: Source) -> Iterator[Section]:
    if source.spec.claims:
        report = claims_report(source.spec)
        yield Section(
            name="claims", title="Published claims, judged", commands=(source.command("claims"),), report=report
        )


def _flops(source: Source) -> Iterator[Section]:
    spec = source.spec
    report = flops_report(spec, Workload(seq=SEQ))
    phases = Table("phases", "one sequence", PHASES, list(_phases(spec)), leads=True)
    tables = [phases] if spec.vision is None else [phases, Table("image", "an image", PICTURE, _picture(spec))]
    commands = [
        source.command("flops"),
        source.command("flops", "--attention full"),
        source.command("flops", f"--phase decode --context {SEQ - 1}"),
        source.command("flops", "--phase train"),
    ]
    if spec.vision is not None:
        commands.append(source.command("flops", f"--seq 1 --image {IMAGE[0]}x{IMAGE[1]}"))
    yield Section(
        name="flops",
        title="FLOPs",
        commands=tuple(commands),
        report=replace(report, tables=tables),
        pictures=tuple(flops_picture(source)),
    )


def _phases(spec: Spec) -> Iterator[dict[str, Any]]:
    workloads = {
        f"prefill of {format_int(SEQ)} tokens, causal": Workload(seq=SEQ),
        f"prefill of {format_int(SEQ)} tokens, full scores": Workload(seq=SEQ, attention="full"),
        f"decode, {format_int(SEQ - 1)} tokens cached": Workload(phase="decode", context=SEQ - 1),
    }
    limit = spec.backbone.max_position_embeddings
    if limit > SEQ:
        workloads[f"decode, {format_int(limit - 1)} tokens cached"] = Workload(phase="decode", context=limit - 1)
    workloads[f"training step of {format_int(SEQ)} tokens, causal"] = Workload(phase="train", seq=SEQ)
    for phase, workload in workloads.items():
        found = flops_quantities(spec, workload)
        yield {
            "path": phase,
            "phase": phase,
            "forward": found["flops.forward"],
            "backward": found["flops.backward"],
            "attention_core": found["flops.attention_core"],
            "per_token": found["flops.per_token"],
        }


def _picture(spec: Spec) -> list[dict[str, Any]]:
    found = flops_quantities(spec, Workload(seq=1, images=(IMAGE,)))
    return [
        {"path": "patches", "term": "patches", "value": found["vision.patches"]},
        {"path": "tokens", "term": "backbone tokens", "value": found["vision.tokens"]},
        {
            "path": "tower",
            "term": "tower, forward FLOPs",
            "value": found["flops.vision"],
            "flops": found["flops.vision"],
        },
        {
            "path": "projector",
            "term": "projector, forward FLOPs",
            "value": found["flops.projector"],
            "flops": found["flops.projector"],
        },
    ]


def _kv(source: Source) -> Iterator[Section]:
    spec = source.spec
    limit = spec.backbone.max_position_embeddings
    report = kv_report(spec, Workload(context=limit), mesh=Mesh())
    lengths = [n for n in CONTEXTS if n < limit] + [limit]
    columns = (
        Column("dtype", "cache dtype"),
        Column("bytes_per_token", "a token more", "int"),
        *(Column(f"at_{n}", f"{format_int(n)} tokens", "bytes") for n in lengths),
    )
    table = Table("dtypes", "one sequence, one copy", columns, list(_dtypes(spec, lengths)), leads=True)
    yield Section(
        name="kv",
        title="KV cache",
        commands=(source.command("kv", f"--context {limit}"),),
        report=replace(report, tables=[table]),
        pictures=tuple(kv_picture(source)),
    )


def _dtypes(spec: Spec, lengths: list[int]) -> Iterator[dict[str, Any]]:
    for dtype in LAYOUTS:
        try:
            cache = sequence_cache(spec.trace(Workload()), dtype)
        except InputError:  # a layout of another kind of attention
            continue
        sizes = {f"at_{n}": cache.at(n) for n in lengths}
        growth = whole_or_fraction(cache.growth(lengths[-1]))
        yield {"path": dtype, "dtype": dtype, "bytes_per_token": growth, **sizes}


def _weights(source: Source) -> Iterator[Section]:
    report = weights_report(source.spec)
    rows = []
    for name in ("released", "bf16", "fp8"):
        found = weights_report(source.spec, as_name=name).quantities
        rows.append(
            {
                "path": name,
                "as": name,
                "bytes": found["weights.bytes"],
                "bits": found["weights.bits_per_parameter"],
            }
        )
    tables = [*report.tables, Table("what_if", "stored otherwise", STORED, rows, leads=True)]
    commands = (
        source.command("weights"),
        source.command("weights", "--as bf16"),
        source.command("weights", "--as fp8"),
    )
    yield Section(name="weights", title="Weights", commands=commands, report=replace(report, rows=None, tables=tables))


def _serve(source: Source) -> Iterator[Section]:
    spec, engine = source.spec, load_engine()
    limit = spec.backbone.max_position_embeddings
    asked = Question(
        spec=spec, engine=engine, spread=Spread(vision=engine.tensor_parallel.vision), load=Load(context=limit)
    )
    report = serve_all_report(asked, [load_hardware(name) for name in hardware_names()])
    yield Section(
        name="serve",
        title="Serving: the fewest GPUs that hold one sequence of full length",
        commands=(source.command("serve", "--gpu all"),),
        report=report,
        pictures=tuple(memory_picture(source, report)),
    )


def _train(source: Source) -> Iterator[Section]:
    """A section for each plan that the spec is known to be trained under; only bundled specs are."""
    for name in PLANS.get(source.word, ()):
        yield Section(
            name="train",
            title=f"Training under {name}",
            commands=(source.command("train", f"--plan {name}"),),
            report=train_report(source.spec, load_plan(name)),
            pictures=tuple(train_picture(source, name)),
        )


def _assumptions(source: Source, sections: list[Section]) -> Iterator[Section]:
    """What no source gives and the numbers above rest on, together at the end."""
    assumed = gathered(sections, "assumptions")
    if assumed:
        report = Report(
            command="report",
            title="assumptions",
            inputs={"spec": source.spec.name},
            quantities={},
            assumptions=[
                f"{section.name}: {line}" for section in sections for line in dict.fromkeys(section.report.assumptions)
            ],
        )
        yield Section(name="assumptions", title="What the numbers rest on", commands=(), report=report)
