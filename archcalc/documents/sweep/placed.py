"""Cases on GPUs: each in the layout that `serve` finds for the longest context, and asked again at every length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from typing import Any, NamedTuple

from archcalc.documents.serve import serve
from archcalc.documents.serve_question import inputs_of, question_of
from archcalc.documents.serve_words import assumptions
from archcalc.documents.sweep.cases import Case, Model, models_of, of_each, told_apart
from archcalc.errors import InputError
from archcalc.hardware import Hardware, load_hardware
from archcalc.limits import LINES, hold
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import End
from archcalc.serving.memory import Serving
from archcalc.serving.search import Found, Question, called
from archcalc.units import format_int

OF_EACH = ("spec", "context", "batch", "kv_dtype", "price")
"""Inputs of `serve` that a plot has several of, or none."""


class Gpu(NamedTuple):
    """A kind of GPU on a picture: `key` in rows, `label` for people; both differ between those of one picture."""

    key: str
    label: str
    hardware: Hardware


def gpus_of(arguments: Sequence[str]) -> list[Gpu]:
    """Hardware files by path or bundled name, each once. Raises InputError."""
    if "all" in arguments:
        hint = "repeat it: --gpu h200 --gpu b200; archcalc serve --gpu all lists every GPU"
        raise InputError("a plot draws GPUs that --gpu names, and all are too many", value="all", hint=hint)
    loaded = {argument: load_hardware(argument) for argument in arguments}
    return [Gpu(*names, hardware) for names, hardware in zip(told_apart(loaded), loaded.values(), strict=True)]


def unlimited(devices: int) -> Hardware:
    """Devices that everything fits on, all in one node, for a question that names none."""
    title, memory = "a device without a limit", 1 << 60
    return Hardware(
        kind="hardware", name="unlimited", title=title, memory_visible_bytes=memory, devices_per_node=devices
    )


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A case on a kind of GPU, or on devices of any size.

    Attributes:
        case: what is served.
        gpu: where; None for devices of any size.
        question: for the longest context.
        hardware: the GPU's, or one without a limit.
        inputs: what was asked of it, as `serve` has them.
        found: what `serve` finds for the longest context.
    """

    case: Case
    gpu: Gpu | None
    question: Question
    hardware: Hardware
    inputs: dict[str, Any]
    found: Found

    @property
    def model(self) -> Model:
        return self.case.model

    @property
    def cells(self) -> dict[str, Any]:
        return {**self.case.cells, **({"gpu": self.gpu.key} if self.gpu else {})}

    @property
    def names(self) -> tuple[str, ...]:
        return self.model.label, self._words(self.gpu.key if self.gpu else ""), *self.case.setting

    @property
    def setting(self) -> tuple[str, ...]:
        return self.words, *self.case.setting

    @property
    def where(self) -> Deployment:
        """The layout."""
        return self.found.best.where

    @property
    def layout(self) -> str:
        """In the words of its flags; the cache dtype with it where that was left open."""
        dtype = self.found.best.load.kv_dtype
        return called(self.where) + (f", {dtype}" if dtype != self.case.kv_dtype else "")

    @property
    def words(self) -> str:
        """Devices and layout; nothing for a single device of any size."""
        return self._words(self.gpu.label if self.gpu else "")

    def _words(self, gpu: str) -> str:
        count = self.where.devices
        layout = [self.layout] if count > 1 else []
        devices = [f"{count} x {gpu}" if gpu else f"{count} devices"] if gpu or count > 1 else []
        return ", ".join([*devices, *layout])

    @cached_property
    def _known(self) -> dict[int, Serving]:
        return {}

    def at(self, context: int) -> Serving:
        """What `serve` says of the layout at a context."""
        if context not in self._known:
            asked = replace(self.question, load=replace(self.question.load, context=context))
            self._known[context] = asked.at(self.where, self.hardware, self.found.best.load.kv_dtype)
        return self._known[context]

    def fits(self, context: int, end: End = "middle") -> bool:
        """Whether a context fits on every device where overhead is at that end."""
        return all(device.margin(end) >= 0 for device in self.at(context).devices)

    def last(self, xs: Sequence[int], end: End = "middle") -> int | None:
        """The longest context that fits where overhead is at that end, found from some lengths on: 0 where none does,
        None where all do [tokens]."""
        fitting = [n for n, x in enumerate(xs) if self.fits(x, end)]
        if fitting and fitting[-1] == len(xs) - 1:
            devices = self.at(xs[-1]).devices
            ends = [device.cache.longest(device.pool(end), device.sequences) for device in devices]
            return min((n for n in ends if n is not None), default=None)
        low, high = (xs[fitting[-1]], xs[fitting[-1] + 1]) if fitting else (0, xs[0])
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.fits(middle, end) else (low, middle)
        return low

    def notes(self) -> list[str]:
        """How its layout was found, where it was left open."""
        spread, where = self.question.spread, self.where
        counted = spread.tp is not None and spread.tp * (spread.pp or 1) * (spread.dp or 1) == where.devices
        if self.gpu is None or (counted and (spread.ep is not None or where.dp == 1)):
            return []
        tokens, searched = format_int(self.question.load.context), self.found.searched
        said = "layout found" if self.found.best.fits else "no layout fits, this one lacks least"
        return [f"{self.words}: {said} for {tokens} tokens" + (f"; searched: {searched}." if searched else ".")]


def placed(found: Sequence[Case], gpu: Sequence[str], longest: int, **flags: Any) -> list[Placed]:
    """Every case on every GPU, or on devices of any size where none is named.

    Raises:
        InputError: no such GPU, too many cases, a model that can't be divided so.
    """
    several: list[Gpu | None] = [*gpus_of(gpu)] or [None]
    hold(LINES, len(found) * len(several))

    def place(case: Case) -> list[Placed]:
        own = {"context": longest, "batch": case.batch, "kv_dtype": case.kv_dtype}
        bound = signature(serve).bind(case.model.spec, **own, **flags)
        bound.apply_defaults()
        asked = question_of(**bound.arguments)
        inputs = {name: value for name, value in inputs_of(asked).items() if name not in OF_EACH}
        made = []
        for each in several:
            question, spread = asked.question, asked.question.spread
            if each is None and spread.gpus is None:
                question = replace(question, spread=replace(spread, tp=spread.tp or 1))
            hardware = each.hardware if each else unlimited(spread.gpus or 1)
            best = question.on(hardware)
            made.append(Placed(case=case, gpu=each, question=question, hardware=hardware, inputs=inputs, found=best))
        return made

    return [each for row in of_each(found, place) for each in row]


def assumed(several: Sequence[Placed]) -> list[str]:
    """What the answers rest on; a line that is not true of every model names its own."""
    lines: dict[str, list[Model]] = {}
    for model in models_of(several):
        own = [each for each in several if each.model.key == model.key]
        pairs = {each.cells.get("gpu"): (each.hardware, each.found.best) for each in own}
        for line in assumptions(own[0].question, list(pairs.values())):
            lines.setdefault(line, []).append(model)
    count = len(models_of(several))
    return [
        line if len(models) == count else f"{', '.join(model.label for model in models)}: {line}"
        for line, models in lines.items()
        if several[0].gpu or ": utilization " not in line
    ]
