"""Functions that count: parameters, claims about them, FLOPs, KV cache, weight bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from archcalc.api.arguments import READERS, Count, Image, Length, Memory, Video, read
from archcalc.api.report import Report
from archcalc.api.specs import SpecLike, load


def answered(command: str, spec: SpecLike, **given: Any) -> Report:
    """The report of one of documents.ask.COMMANDS. Raises InputError."""
    from archcalc.documents.ask import answer

    arguments = read(given, READERS)
    return Report(answer(command, load(spec).model, arguments))


def params(
    spec: SpecLike,
    *,
    depth: int | None = None,
    top: int | None = None,
    by: str | None = None,
    explain: str | None = None,
) -> Report:
    """Exact parameter counts: totals, then the tree of modules.

    Args:
        spec: a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.
        depth: levels of the module tree to list.
        top: only the largest parts, so many.
        by: group by `component`, `role` or `dtype`.
        explain: the path of one part: what it is for, and how its count comes about.

    Raises:
        InputError: a spec that can't be read, or an argument that can't be used.
        SpecError: a file that is no valid spec.
    """
    return answered("params", **locals())


def card(spec: SpecLike) -> Report:
    """One screen about a model: sizes, cache, the fewest GPUs that serve it, what to ask next.

    Args:
        spec: a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.

    Raises:
        InputError: a spec that can't be read.
        SpecError: a file that is no valid spec.
    """
    from archcalc.documents.card import card

    called = spec if isinstance(spec, str) else None
    return Report(card(load(spec).model, word=called))


def claims(spec: SpecLike) -> Report:
    """Judge the spec's published claims: `findings` with verdict, cause and explanation.

    Args:
        spec: a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.

    Raises:
        InputError: a spec that can't be read, or a claim about no quantity.
        SpecError: a file that is no valid spec.
    """
    return answered("claims", spec)


def flops(
    spec: SpecLike,
    *,
    phase: Literal["train", "prefill", "decode"] = "prefill",
    batch: int = 1,
    seq: Length | None = None,
    lengths: str | Sequence[Length] | None = None,
    context: Length = 0,
    attention: Literal["causal", "full"] = "causal",
    logits: Literal["all", "last"] = "all",
    mla: Literal["auto", "expanded", "absorbed"] = "auto",
    image: Image | Sequence[Image] | None = None,
    video: Video | Sequence[Video] | None = None,
    tokens: Count | None = None,
) -> Report:
    """FLOPs of a training step, a prefill or a decode step, part by part.

    Args:
        spec: a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.
        phase: what is run.
        batch: sequences.
        seq: new text tokens a sequence [tokens], or text such as "4k"; 4,096 if left out, 1 in decode.
        lengths: new text tokens of each of several packed sequences [tokens], in place of `seq` and `batch`:
            [512, 1024], or text such as "4096,1024x3".
        context: tokens already cached [tokens], or text such as "128k".
        attention: `causal` counts half of the new-by-new scores, `full` all of them.
        logits: the head over `all` new tokens, or the `last` of each sequence.
        mla: form of latent attention; `auto` is absorbed in decode.
        image: images of each sequence [pixels]: (1024, 768), "1024x768", or several.
        video: videos of each sequence [frames, pixels, pixels]: (16, 448, 448), "16x448x448", or several.
        tokens: of a whole run, to which a training step is scaled: 15.5e12, or "15.5T".

    Raises:
        InputError: a spec that can't be read, or an argument that can't be used.
        SpecError: a file that is no valid spec.
    """
    return answered("flops", **locals())


def kv(
    spec: SpecLike,
    *,
    context: Length | None = None,
    batch: int = 1,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    dcp: int | None = None,
    kv_dtype: str = "bf16",
    block_size: Length | None = None,
    memory: Memory | None = None,
    image: Image | Sequence[Image] | None = None,
    video: Video | Sequence[Video] | None = None,
) -> Report:
    """KV cache: bytes a token, in total, on each device; or how many tokens fit.

    Args:
        spec: a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.
        context: tokens a sequence [tokens], or text such as "256k"; the model's limit if left out.
        batch: sequences.
        tp: tensor parallel devices.
        pp: pipeline stages.
        dp: data parallel replicas of attention.
        dcp: decode context parallel, within tp.
        kv_dtype: bf16, fp8, fp8_ds_mla or int8.
        block_size: tokens of a cache page [tokens]; sequences take whole pages.
        memory: of each device [bytes], or text such as "46.80GiB": how many tokens fit into it is `kv.max_tokens`.
        image: images of each sequence [pixels]: (1024, 768), "1024x768", or several.
        video: videos of each sequence [frames, pixels, pixels]: (16, 448, 448), "16x448x448", or several.

    Raises:
        InputError: a spec that can't be read, or an argument that can't be used.
        SpecError: a file that is no valid spec.
    """
    return answered("kv", **locals())


def weights(spec: SpecLike, *, as_: str = "released", optimizer: str | None = None) -> Report:
    """Weight bytes of the released checkpoint, or of another storage.

    Args:
        spec: a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.
        as_: `released`, `bf16`, `fp8`, or a bundled spec whose storage to use.
        optimizer: size a training checkpoint too: adamw, muon, ...

    Raises:
        InputError: a spec that can't be read, or an argument that can't be used.
        SpecError: a file that is no valid spec.
    """
    return answered("weights", **locals())
