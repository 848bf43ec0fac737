"""The pictures of a report: `plot` command lines, each with what it shows, worked out when it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from archcalc.documents.ask import line
from archcalc.documents.book import Picture, Source
from archcalc.documents.sweep.cases import Model, Range, cases, named, span
from archcalc.documents.sweep.figure import Figure
from archcalc.documents.sweep.flops import flops_figure
from archcalc.documents.sweep.kv import kv_figure
from archcalc.documents.sweep.memory import memory_figure
from archcalc.documents.sweep.training import train_figure, trainings
from archcalc.files.model import Spec
from archcalc.units import parse_range


def drawn(source: Source, name: str, kind: str, caption: str, **arguments: Any) -> Picture:
    """What `archcalc plot KIND` draws of a spec, as a file called by `name`."""
    return Picture(
        name=name,
        caption=caption,
        command=line(f"plot {kind}", source.word, arguments),
        figure=partial(FIGURES[kind], source.spec, **arguments),
    )


def _models(spec: Spec) -> list[Model]:
    return named({spec.name: spec})


def _range(context: str) -> Range:
    return span(*parse_range(context))


def _flops(spec: Spec, *, context: str) -> Figure:
    return flops_figure(cases(_models(spec), [""], [1]), _range(context))


def _kv(spec: Spec, *, context: str, kv_dtype: str) -> Figure:
    return kv_figure(cases(_models(spec), kv_dtype.split(","), [1]), _range(context))


def _memory(spec: Spec, *, context: str, gpu: str, gpus: int | None = None) -> Figure:
    return memory_figure(cases(_models(spec), ["bf16"], [1]), _range(context), [gpu], gpus=gpus)


def _train(spec: Spec, *, plan: str) -> Figure:
    return train_figure(trainings(_models(spec), [plan], ()))


FIGURES: dict[str, Callable[..., Figure]] = {"flops": _flops, "kv": _kv, "memory": _memory, "train": _train}
"""What `archcalc plot` draws, from its flags."""
