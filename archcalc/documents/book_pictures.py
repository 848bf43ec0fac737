"""The pictures of a report: what each one shows, worked out when it is drawn."""

from __future__ import annotations

from collections.abc import Iterator

from archcalc.documents.book import Picture, Source
from archcalc.documents.document import Report
from archcalc.documents.sweep.cases import Model, Range, cases, span
from archcalc.documents.sweep.flops import flops_figure
from archcalc.documents.sweep.kv import kv_figure
from archcalc.documents.sweep.memory import memory_figure, setup_of
from archcalc.documents.sweep.training import train_figure, trainings
from archcalc.hardware import load_hardware

GPU = "h200"
"""The GPU of the memory picture."""

LOW = 4096
DTYPES = ("bf16", "fp8")


def _model(source: Source) -> Model:
    return Model(source.spec.name, source.spec.title, source.spec)


def _over(source: Source) -> Range | None:
    """From 4,096 tokens to the model's limit; None for a model whose limit is below."""
    limit = source.spec.backbone.max_position_embeddings
    return span(LOW, limit) if limit > LOW else None


def flops_picture(source: Source) -> Iterator[Picture]:
    """FLOPs of a prefill against its length."""
    over = _over(source)
    if over is not None:
        yield Picture(
            name="flops",
            caption="Forward FLOPs of a prefill against its length",
            command=source.command("plot flops", f"--context {over.low}..{over.high}"),
            figure=lambda: flops_figure(cases([_model(source)], [""], [1]), over),
        )


def kv_picture(source: Source) -> Iterator[Picture]:
    """The cache of one sequence against its context, in two dtypes."""
    over = _over(source)
    if over is not None:
        yield Picture(
            name="kv",
            caption="KV cache of one sequence against its context",
            command=source.command("plot kv", f"--context {over.low}..{over.high} --kv-dtype {','.join(DTYPES)}"),
            figure=lambda: kv_figure(cases([_model(source)], DTYPES, [1]), over),
        )


def memory_picture(source: Source, served: Report) -> Iterator[Picture]:
    """Memory of each of the GPUs that the serving table found to be the fewest."""
    rows = served.rows.rows if served.rows else ()
    gpus = next((row["gpus"] for row in rows if row["path"] == GPU), None)
    over = _over(source)
    if gpus is None or over is None:
        return
    yield Picture(
        name="memory",
        caption=f"Memory of each of {gpus} x {load_hardware(GPU).title} against the context",
        command=source.command("plot memory", f"--context {over.low}..{over.high} --gpu {GPU} --gpus {gpus}"),
        figure=lambda: memory_figure(cases([_model(source)], ["bf16"], [1]), over, setup_of(GPU, gpus)),
    )


def train_picture(source: Source, plan: str) -> Iterator[Picture]:
    """Every pipeline rank of a plan."""
    yield Picture(
        name=f"train-{plan}",
        caption=f"Training memory of every pipeline rank under {plan}",
        command=source.command("plot train", f"--plan {plan}"),
        figure=lambda: train_figure(trainings([_model(source)], [plan], ())),
    )
