"""`archcalc plot`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from archcalc.cli.options import Units

if TYPE_CHECKING:
    from archcalc.documents.sweep.cases import Model, Range
    from archcalc.documents.sweep.figure import Figure
    from archcalc.documents.sweep.memory import Setup

PICTURES: dict[str, Literal["svg", "png"]] = {".svg": "svg", ".png": "png"}
"""File ending to the picture's format; every other ending is one of the report's."""

TAKES = {
    "memory": ("context", "batch", "kv-dtype", "gpu", "gpus", "tp"),
    "memory --plan": ("context", "plan", "set"),
    "kv": ("context", "batch", "kv-dtype", "tp"),
    "flops": ("context", "batch"),
    "train": ("plan", "set"),
}
"""What is drawn to the options that it looks at."""

_STDOUT = Path("-")


def command(
    kind: Annotated[
        Literal["memory", "kv", "flops", "train"],
        typer.Argument(
            metavar="KIND",
            help="memory: of each device against context, or with --plan of training against sequence length."
            " kv: cache against context. flops: of a prefill against its length."
            " train: every pipeline rank of a --plan.",
        ),
    ],
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="Spec files or bundled names.")],
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="FROM..TO",
            help="Lengths: 4k..256k. [default: to the model's limit; around the plan's seq]",
        ),
    ] = None,
    batch: Annotated[str | None, typer.Option("--batch", metavar="B,...", help="Sequences: 1,8. [default: 1]")] = None,
    kv_dtype: Annotated[
        str | None, typer.Option("--kv-dtype", metavar="NAME,...", help="Cache dtypes: bf16,fp8. [default: bf16]")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAME", help="A bundled GPU or hardware file, whose memory is the limit."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, metavar="N", help="Devices. [default: one server of --gpu, or 1]")
    ] = None,
    tp: Annotated[
        int | None, typer.Option("--tp", min=1, metavar="N", help="Tensor parallel. [default: all devices]")
    ] = None,
    plan: Annotated[
        list[str] | None, typer.Option("--plan", metavar="PLAN", help="A plan file, or a bundled plan. Repeatable.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override a plan field: parallel.pp=8. Repeatable."),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write a picture (.svg, .png) or its numbers (.csv, .json). Repeatable.",
        ),
    ] = None,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="The numbers as table, json, csv, markdown or github. [default: a text plot]",
        ),
    ] = None,
    units: Units = "gib",
) -> None:
    """Curves of memory, KV cache, FLOPs and training memory: as pictures, text, or the numbers behind them."""
    from archcalc.documents.sweep.cases import models
    from archcalc.units import format_bytes

    format_bytes(0, units)  # refuses unknown units before anything is computed
    given = {
        "context": context,
        "batch": batch,
        "kv-dtype": kv_dtype,
        "gpu": gpu,
        "gpus": gpus,
        "tp": tp,
        "plan": plan or None,
        "set": override or None,
    }
    _refuse_unused("memory --plan" if kind == "memory" and plan else kind, given)
    figure = _figure(kind, models(specs), given)
    _hand_out(figure, format_name, output or [], units)


def _refuse_unused(drawn: str, given: dict[str, Any]) -> None:
    """Raises InputError for an option that would change nothing, or a plan that is missing."""
    from archcalc.errors import InputError

    if drawn == "train" and given["plan"] is None:
        raise InputError("plot train needs a plan", hint="add --plan k2-pretrain, or a plan file")
    for name, value in given.items():
        if value is not None and name not in TAKES[drawn]:
            takes = ", ".join(f"--{option}" for option in TAKES[drawn])
            raise InputError(f"plot {drawn} does not look at --{name}", value=value, hint=f"it takes {takes}")


def _figure(kind: str, several: list[Model], given: dict[str, Any]) -> Figure:
    from archcalc.documents.sweep.cases import cases

    if given["plan"] is not None:
        return _training(kind, several, given)
    over = _range(given["context"], *_default(several))
    batches = _numbers("1" if given["batch"] is None else given["batch"])
    dtypes = _names("bf16" if given["kv-dtype"] is None else given["kv-dtype"])
    if kind == "flops":
        from archcalc.documents.sweep.flops import flops_figure

        return flops_figure(cases(several, [""], batches), over)
    if kind == "kv":
        from archcalc.documents.sweep.kv import kv_figure

        return kv_figure(cases(several, dtypes, batches), over, given["tp"] or 1)
    from archcalc.documents.sweep.memory import memory_figure

    return memory_figure(cases(several, dtypes, batches), over, _setup(given["gpu"], given["gpus"], given["tp"]))


def _training(kind: str, several: list[Model], given: dict[str, Any]) -> Figure:
    from archcalc.documents.sweep.training import train_figure, training_memory_figure, trainings

    found = trainings(several, given["plan"], tuple(given["set"] or ()))
    if kind == "train":
        return train_figure(found)
    seqs = [training.plan.batch.seq for training in found]
    return training_memory_figure(found, _range(given["context"], max(1, min(seqs) // 4), 8 * max(seqs)))


def _default(several: list[Model]) -> tuple[int, int]:
    """From 4k, or less for a short model, to the longest model's limit."""
    limit = max(model.spec.backbone.max_position_embeddings for model in several)
    return min(4096, max(1, limit // 16)), limit


def _range(text: str | None, low: int, high: int) -> Range:
    from archcalc.documents.sweep.cases import span
    from archcalc.errors import InputError, show_value
    from archcalc.units import parse_range

    if text is not None and ".." not in text:
        raise InputError(
            f"--context {show_value(text)} is no range", value=text, hint="write two lengths, such as 4k..256k"
        )
    return span(*(parse_range(text) if text is not None else (low, high)))


def _setup(gpu: str | None, gpus: int | None, tp: int | None) -> Setup:
    """What a memory plot runs on: one server of a GPU, unless counts say otherwise."""
    from archcalc.documents.sweep.memory import Setup
    from archcalc.errors import InputError
    from archcalc.hardware import load_hardware
    from archcalc.serving.deployment import Deployment
    from archcalc.serving.engine import load_engine

    engine, hardware = load_engine(), None if gpu is None else load_hardware(gpu)
    devices = gpus or tp or (hardware.devices_per_node if hardware else 1)
    group = tp or devices
    if devices % group:
        raise InputError(
            f"--tp {tp} does not divide {devices} devices", value=tp, hint="choose a --tp that divides --gpus"
        )
    where = Deployment(tp=group, dp=devices // group, vision=engine.tensor_parallel.vision)
    return Setup(engine=engine, where=where, hardware=hardware)


def _numbers(text: str) -> list[int]:
    """Whole positive numbers with commas between them, each once. Raises InputError."""
    from archcalc.errors import InputError, show_value

    words = _names(text)
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) < 10 and int(word)):
            raise InputError(
                f"--batch {show_value(word)} is no number of sequences", value=text, hint="write --batch 1,8"
            )
    return list(dict.fromkeys(map(int, words)))


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",")))


def _hand_out(figure: Figure, format_name: str | None, outputs: list[Path], units: str) -> None:
    """Pictures into files by their endings, the numbers as any report; without either a text plot on stdout."""
    from archcalc.cli.output import emit, write_file
    from archcalc.errors import harmless

    pictures = [path for path in outputs if path.suffix.lower() in PICTURES]
    others = [path for path in outputs if path not in pictures]
    drawn = [(path, _picture(figure, PICTURES[path.suffix.lower()], units)) for path in pictures]
    texts = [path for path in others if path == _STDOUT and format_name is None]
    files = [path for path in others if path not in texts]
    if files or format_name is not None:
        emit(figure.report, format_name, files, units)
    if texts or not (outputs or format_name):
        _print(figure, units)
    for path, data in drawn:
        write_file(path, data)
    if drawn or texts or not (outputs or format_name):
        for note in figure.report.notes:
            print(harmless(note), file=sys.stderr)


def _print(figure: Figure, units: str) -> None:
    from archcalc.cli import output
    from archcalc.render.textplot import ASCII, BLOCKS, render

    text = render(figure, units, color=output.colored(sys.stdout.isatty()))
    try:
        BLOCKS.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = text.translate(ASCII)
    sys.stdout.write(text)
    sys.stdout.flush()


def _picture(figure: Figure, form: Literal["svg", "png"], units: str) -> bytes:
    from archcalc.errors import InputError

    try:
        from archcalc.render.plot import picture
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("archcalc"):
            raise
        raise InputError("a picture needs matplotlib: pip install 'archcalc[plot]'") from None
    return picture(figure, form, units)
