"""The pictures of a report: the `plot` command lines, and what each shows, worked out when it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from archcalc.documents.ask import line
from archcalc.documents.book import Picture, Source
from archcalc.documents.document import Report
from archcalc.documents.series import Figure, Range, span
from archcalc.documents.series_cases import Model, cases
from archcalc.documents.series_flops import flops_figure
from archcalc.documents.series_kv import kv_figure
from archcalc.documents.series_memory import Setup, memory_figure
from archcalc.documents.series_training import train_figure, trainings
from archcalc.files.model import Spec
from archcalc.hardware import load_hardware
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import load_engine
from archcalc.units import parse_range

LOW = 4096
"""Where the curves begin [tokens]."""


def flops_picture(source: Source) -> Iterator[Picture]:
    """FLOPs of a prefill against its length."""
    for over in _over(source):
        yield _picture(source, "flops", "flops", "Forward FLOPs of a prefill against its length", context=over)


def kv_picture(source: Source) -> Iterator[Picture]:
    """The cache of one sequence against its context, in two dtypes."""
    caption = "KV cache of one sequence against its context"
    for over in _over(source):
        yield _picture(source, "kv", "kv", caption, context=over, kv_dtype="bf16,fp8")


def memory_picture(source: Source, gpu: str, served: Report, name: str) -> Iterator[Picture]:
    """Memory of each of the GPUs that `serve` found to be the fewest."""
    gpus = served.quantities["serve.gpus"]
    caption = f"Memory of each of {gpus} x {load_hardware(gpu).title} against the context"
    for over in _over(source):
        yield _picture(source, "memory", name, caption, context=over, gpu=gpu, gpus=gpus)


def train_picture(source: Source, plan: str, name: str) -> Picture:
    """Every pipeline rank of a plan."""
    caption = f"Training memory of every pipeline rank under {name}"
    return _picture(source, "train", f"train-{name}", caption, plan=plan)


def _over(source: Source) -> Iterator[str]:
    """From LOW to the model's limit; nothing for a model whose limit is below."""
    limit = source.spec.backbone.max_position_embeddings
    if limit > LOW:
        yield f"{LOW}..{limit}"


def _picture(source: Source, kind: str, name: str, caption: str, **arguments: Any) -> Picture:
    return Picture(
        name=name,
        caption=caption,
        command=line(f"plot {kind}", source.word, arguments),
        figure=partial(FIGURES[kind], source.spec, **arguments),
    )


# -- what `archcalc plot` draws, from its flags -----------------------------------------------------------------------


def _model(spec: Spec) -> Model:
    return Model(spec.name, spec.title, spec)


def _range(context: str) -> Range:
    return span(*parse_range(context))


def _flops(spec: Spec, *, context: str) -> Figure:
    return flops_figure(cases([_model(spec)], [""], [1]), _range(context))


def _kv(spec: Spec, *, context: str, kv_dtype: str) -> Figure:
    return kv_figure(cases([_model(spec)], kv_dtype.split(","), [1]), _range(context))


def _memory(spec: Spec, *, context: str, gpu: str, gpus: int) -> Figure:
    engine = load_engine()
    where = Deployment(tp=gpus, vision=engine.tensor_parallel.vision)
    setup = Setup(engine=engine, where=where, hardware=load_hardware(gpu))
    return memory_figure(cases([_model(spec)], ["bf16"], [1]), _range(context), setup)


def _train(spec: Spec, *, plan: str) -> Figure:
    return train_figure(trainings([_model(spec)], [plan], ()))


FIGURES: dict[str, Callable[..., Figure]] = {"flops": _flops, "kv": _kv, "memory": _memory, "train": _train}
