"""The `report` of everything about one spec: which commands it asks, with which arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from archcalc.calc.kv_cache import LAYOUTS
from archcalc.documents.ask import called, line
from archcalc.documents.book import Asked, Book, Section, Source, file_stem
from archcalc.documents.book_pictures import drawn
from archcalc.documents.document import Report
from archcalc.documents.standing import IMAGE, SEQ
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.hardware import load_hardware
from archcalc.units import format_int


def make_book(source: Source, checked: Report, *, plan: Sequence[str] = (), gpu: Sequence[str] = ()) -> Book:
    """Everything about one spec; `checked` is what is known of its cross-check, which takes too long to be asked.

    Raises:
        InputError: a claim about no known quantity, a plan or GPU that is unknown or does not fit the spec.
    """
    plans, gpus = _named(plan, "plans"), _named(gpu, "hardware")
    sections = [*_params(source), *_claims(source), *_flops(source), *_kv(source), *_weights(source)]
    sections += [*_serve(source, gpus), *_train(source, plans)]
    seen = Asked(title="", command=line("crosscheck", source.word, {}), report=checked)
    sections.append(Section(name="crosscheck", title="Cross-check", asked=(seen,)))
    carried = {"plan": list(plans.values()), "gpu": list(gpus.values())}
    return Book(source=source, carried=carried, sections=tuple(sections))


def report(spec: Spec, *, plan: Sequence[str] = (), gpu: Sequence[str] = ()) -> Report:
    """The document of a spec's report, its cross-check apart: what a saved one is compared with. Raises InputError."""
    unchecked = Report(command="crosscheck", title="", inputs={}, quantities={})
    return make_book(Source(spec=spec, word=spec.name), unchecked, plan=plan, gpu=gpu).report


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


def _flops(source: Source) -> Iterator[Section]:
    limit, n = source.spec.backbone.max_position_embeddings, format_int(SEQ)
    asked = [
        source.ask(f"prefill of {n} tokens", "flops", seq=SEQ),
        source.ask("with full scores", "flops", seq=SEQ, attention="full"),
        *(
            source.ask(f"decode, {format_int(cached)} tokens cached", "flops", phase="decode", context=cached)
            for cached in sorted({SEQ - 1, max(SEQ, limit) - 1})
        ),
        source.ask(f"training step of {n} tokens", "flops", phase="train", seq=SEQ),
    ]
    if source.spec.vision is not None:
        asked.append(source.ask(f"an image of {IMAGE[0]} x {IMAGE[1]}", "flops", seq=1, image=[IMAGE]))
    caption = "Forward FLOPs of a prefill against its length"
    curve = (drawn(source, "flops", "flops", caption, context=over) for over in _over(source))
    yield Section(name="flops", title="FLOPs", asked=tuple(asked), pictures=tuple(curve))


def _kv(source: Source) -> Iterator[Section]:
    limit = source.spec.backbone.max_position_embeddings
    first, *others = LAYOUTS
    asked = [source.ask(first, "kv", context=limit)]
    for dtype in others:
        with suppress(InputError):  # a layout of another kind of attention
            asked.append(source.ask(dtype, "kv", context=limit, kv_dtype=dtype))
    caption = "KV cache of one sequence against its context"
    curve = (drawn(source, "kv", "kv", caption, context=over, kv_dtype="bf16,fp8") for over in _over(source))
    yield Section(name="kv", title="KV cache", asked=tuple(asked), pictures=tuple(curve))


def _weights(source: Source) -> Iterator[Section]:
    others = (source.ask(name, "weights", as_=name) for name in ("bf16", "fp8"))
    yield Section(name="weights", title="Weights", asked=(source.ask("released", "weights"), *others))


def _serve(source: Source, named: dict[str, str]) -> Iterator[Section]:
    title = "Serving: the fewest GPUs that hold one sequence of full length"
    yield Section(name="serve", title=title, asked=(source.ask("", "serve", gpu="all"),))
    for n, (name, gpu) in enumerate(named.items()):
        asked = source.ask("", "serve", gpu=gpu)
        gpus, file = asked.report.quantities["serve.gpus"], f"memory-{name}" if n else "memory"
        caption = f"Memory of each of {gpus} x {load_hardware(gpu).title} against the context"
        curve = (drawn(source, file, "memory", caption, context=over, gpu=gpu) for over in _over(source))
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
