"""The `report` of everything about one spec: which commands it asks, with which arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from archcalc.calc.kv_cache import LAYOUTS
from archcalc.documents.ask import called, line
from archcalc.documents.book import Asked, Book, Section, Source, file_stem, quantities
from archcalc.documents.book_pictures import drawn
from archcalc.documents.document import Report
from archcalc.documents.headline import headline
from archcalc.documents.standing import IMAGE, SEQ
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.hardware import load_hardware
from archcalc.units import format_int

ABOUT = {"plan": ("training plan", "--plan PLAN"), "gpu": ("GPU", "--gpu NAME")}
"""What a report is about where it was asked: the words, and what to type."""


class Flags(NamedTuple):
    """What a report is asked beside its spec, plans and GPUs; None and () where the usual will do."""

    gpus: int | Literal["auto"] | None
    seq: int | None
    image: tuple[tuple[int, int], ...]
    context: int | None

    @property
    def given(self) -> dict[str, Any]:
        """The flags that were given, as a command line has them."""
        flags = {**self._asdict(), "image": list(self.image)}
        return {name: value for name, value in flags.items() if value not in (None, [])}

    @property
    def tokens(self) -> int:
        """Text tokens of the workloads."""
        return SEQ if self.seq is None else self.seq

    def length(self, spec: Spec) -> int:
        """Tokens of a cached and served sequence."""
        return spec.backbone.max_position_embeddings if self.context is None else self.context

    @property
    def serving(self) -> dict[str, Any]:
        """The flags of `serve` that were given."""
        return {name: value for name, value in self.given.items() if name in ("gpus", "context")}


def make_book(
    source: Source,
    checked: Report,
    *,
    plan: Sequence[str] = (),
    gpu: Sequence[str] = (),
    gpus: int | Literal["auto"] | None = None,
    seq: int | None = None,
    image: Sequence[Sequence[int]] = (),
    context: int | None = None,
) -> Book:
    """Everything about one spec; `checked` is what is known of its cross-check, which takes too long to be asked.

    Args:
        plan, gpu: files or bundled names, each with a section of its own.
        gpus: GPUs to serve on, the fewest that fit where it is left out.
        seq: text tokens of the FLOPs' workloads, SEQ where it is left out.
        image: (height, width) of the images whose FLOPs are told, IMAGE where none is given [pixels].
        context: tokens of a cached and served sequence, the model's limit where it is left out.

    Raises:
        InputError: a claim about no known quantity, a plan or GPU that is unknown or does not fit the spec, images
            where there is no tower.
    """
    plans, named = _named(plan, "plans"), _named(gpu, "hardware")
    flags = Flags(gpus, seq, tuple((h, w) for h, w in image), context)
    sections = [*_params(source), *_claims(source), *_flops(source, flags), *_kv(source, flags), *_weights(source)]
    sections += [*_serve(source, named, flags), *_train(source, plans)]
    seen = Asked(title="", command=line("crosscheck", source.word, {}), report=checked)
    sections.append(Section(name="crosscheck", title="Cross-check", asked=(seen,)))
    carried = {"plan": list(plans.values()), "gpu": list(named.values()), **flags.given}
    found = quantities(sections)
    return Book(
        source=source,
        carried=carried,
        sections=tuple(sections),
        headline=headline(sections, found, seq=flags.tokens, plans=plans),
        notes=tuple(_left_out(source, carried)),
    )


def report(spec: Spec, **flags: Any) -> Report:
    """The document of a spec's report, its cross-check apart: what a saved one is compared with. `flags` are those of
    `make_book`. Raises InputError."""
    unchecked = Report(command="crosscheck", title="", inputs={}, quantities={})
    return make_book(Source(spec=spec, word=spec.name), unchecked, **flags).report


def _left_out(source: Source, carried: Mapping[str, Any]) -> Iterator[str]:
    """What nobody asked about, and the command that does."""
    lacking = [name for name in ABOUT if not carried[name]]
    if lacking:
        words = " and ".join(f"no {ABOUT[name][0]}" for name in lacking)
        command = " ".join([line("report", source.word, carried), *(ABOUT[name][1] for name in lacking)])
        yield f"This report is about {words}: {command} adds {'it' if len(lacking) == 1 else 'them'}."


def _named(arguments: Sequence[str], folder: str) -> dict[str, str]:
    """Files by the names that pictures of them get, each once. Raises InputError for two of one name."""
    named: dict[str, str] = {}
    for argument in arguments:
        name = file_stem(Path(called(argument, folder)).stem)
        if named.setdefault(name, argument) != argument:
            raise InputError(f"{named[name]} and {argument} are named alike", value=argument, hint="leave one out")
    return named


def _over(source: Source) -> Iterator[str]:
    """What the curves go over, from SEQ to the model's limit; nothing for a model whose limit is below."""
    limit = source.spec.backbone.max_position_embeddings
    if limit > SEQ:
        yield f"{SEQ}..{limit}"


def _params(source: Source) -> Iterator[Section]:
    yield Section(name="parts", title="Parameters", asked=(source.ask("", "params", by="component"),))
    yield Section(name="params", title="Parameters by module", asked=(source.ask("", "params"),))


def _claims(source: Source) -> Iterator[Section]:
    if source.spec.claims:
        yield Section(name="claims", title="Published claims, judged", asked=(source.ask("", "claims"),))


def _flops(source: Source, flags: Flags) -> Iterator[Section]:
    seq, longest = flags.tokens, flags.length(source.spec)
    n = format_int(seq)
    asked = [
        source.ask(f"prefill of {n} tokens", "flops", seq=seq),
        source.ask("with full scores", "flops", seq=seq, attention="full"),
        *(
            source.ask(f"decode, {format_int(cached)} tokens cached", "flops", phase="decode", context=cached)
            for cached in sorted({seq - 1, max(seq, longest) - 1})
        ),
        source.ask(f"training step of {n} tokens", "flops", phase="train", seq=seq),
    ]
    if source.spec.vision is not None or flags.image:
        images = list(flags.image or (IMAGE,))
        title = " and ".join(f"an image of {height} x {width}" for height, width in images)
        asked.append(source.ask(title, "flops", seq=1, image=images))
    caption = "Forward FLOPs of a prefill against its length"
    curve = (drawn(source, "flops", "flops", caption, context=over) for over in _over(source))
    yield Section(name="flops", title="FLOPs", asked=tuple(asked), pictures=tuple(curve))


def _kv(source: Source, flags: Flags) -> Iterator[Section]:
    length = flags.length(source.spec)
    first, *others = LAYOUTS
    asked = [source.ask(first, "kv", context=length)]
    for dtype in others:
        with suppress(InputError):  # a layout of another kind of attention
            asked.append(source.ask(dtype, "kv", context=length, kv_dtype=dtype))
    caption = "KV cache of one sequence against its context"
    curve = (drawn(source, "kv", "kv", caption, context=over, kv_dtype="bf16,fp8") for over in _over(source))
    yield Section(name="kv", title="KV cache", asked=tuple(asked), pictures=tuple(curve))


def _weights(source: Source) -> Iterator[Section]:
    others = (source.ask(name, "weights", as_=name) for name in ("bf16", "fp8"))
    yield Section(name="weights", title="Weights", asked=(source.ask("released", "weights"), *others))


def _serve(source: Source, named: dict[str, str], flags: Flags) -> Iterator[Section]:
    length = "full length" if flags.context is None else f"{format_int(flags.context)} tokens"
    few = "the fewest GPUs that hold" if flags.gpus in (None, "auto") else f"{flags.gpus} GPUs for"
    asked = source.ask("", "serve", gpu="all", **flags.serving)
    yield Section(name="serve", title=f"Serving: {few} one sequence of {length}", asked=(asked,))
    for n, (name, gpu) in enumerate(named.items()):
        asked = source.ask("", "serve", gpu=gpu, **flags.serving)
        gpus, file = asked.report.quantities["serve.gpus"], f"memory-{name}" if n else "memory"
        caption = f"Memory of each of {gpus} x {load_hardware(gpu).title} against the context"
        same = {"gpus": gpus} if flags.serving else {}
        curve = (drawn(source, file, "memory", caption, context=over, gpu=gpu, **same) for over in _over(source))
        yield Section(name=f"serve-{name}", title=f"Serving on {name}", asked=(asked,), pictures=tuple(curve))


def _train(source: Source, plans: dict[str, str]) -> Iterator[Section]:
    for name, plan in plans.items():
        try:
            asked = source.ask("", "train", plan=plan)
        except InputError as error:
            hint = f"leave {name} out of this report{f', or {error.hint}' if error.hint else ''}"
            raise InputError(f"{name}: {error.message}", value=error.value, hint=hint) from None
        caption = f"Training memory of every pipeline rank under {name}"
        picture = drawn(source, f"train-{name}", "train", caption, plan=plan)
        fits = "fits" if asked.report.quantities["train.fits"] else "does not fit"
        title = f"Training under {name}: {fits}"
        yield Section(name=f"train-{name}", title=title, asked=(asked,), pictures=(picture,))
