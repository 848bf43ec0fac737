"""How it was counted, in words that are true for the model at hand: its spans, its axes, its caches."""

from __future__ import annotations

from collections.abc import Iterable

from archcalc.calc.sharding import Padding
from archcalc.tape import FlopClass, Span, Tape
from archcalc.workload import Workload

PAIRS = {
    "all": "n new tokens on c cached ones score n(c+n) pairs (full), or n·c + n²/2 (causal: half of the new-by-new"
    " scores); a decoded token scores c + 1 under either",
    "window": "n new tokens on c cached ones score n·min(c+n, w) pairs (full), or k·c + k²/2 + (n-k)·w with k = w - c"
    " between 0 and n (causal); a decoded token scores min(c + 1, w)",
    "chunk": "each chunk is counted as a sequence of its own",
    "top": "n new tokens on c cached ones score as in a window of {n}; all keys stay cached",
    "stride": "an entry is scored once its tokens are there",
}
"""What mixers of each span score."""

WHERE = {
    "all": "all tokens",
    "window": "the last w = {n} tokens",
    "chunk": "their own chunk of {n} tokens",
    "top": "the best {n} keys",
    "stride": "one entry for {n} tokens",
}
"""What they see; said where a model has several."""

SCORES: dict[FlopClass, str] = {"attention": "Layers", "index": "Index scores"}

SPANS = {"all": "every token", "top": "every token", "sequence": "one state"}


def span_words(span: Span) -> str:
    """Which tokens an entry is kept for, in a few words."""
    if span.kind in SPANS:
        return SPANS[span.kind]
    if span.kind == "stride":
        return f"one for {span.size:,} tokens"
    return f"{'the last' if span.kind == 'window' else 'a chunk of'} {span.size:,}"


def pair_lines(tape: Tape) -> list[str]:
    """What the mixers of this model score, a sentence for each part of a sequence that some of them see."""
    sizes: dict[tuple[str, str], dict[int, None]] = {}
    for op in tape.ops("backbone"):
        if op.span is not None:
            sizes.setdefault((SCORES[op.counts_as], op.span.kind), {})[op.span.size] = None
    lines = []
    for (who, kind), of in sizes.items():
        n = " or ".join(f"{size:,}" for size in sorted(of))
        says = PAIRS[kind].format(n=n)
        alone = len(sizes) == 1 and kind == "all"
        lines.append(f"{says}." if alone else f"{who} that see {WHERE[kind].format(n=n)}: {says}.")
    return lines


def packing_lines(workload: Workload) -> list[str]:
    """How sequences of several lengths that run in one row are counted."""
    if not workload.lengths:
        return []
    return [
        "Packed sequences: products with weights over the tokens of all of them; scores, windows, chunks and states of"
        " each on its own, none across a boundary, no padding."
    ]


def logits_line(workload: Workload) -> list[str]:
    """Over which tokens the head runs, where there is a choice."""
    if workload.phase == "decode":
        return []
    if workload.logits == "last":
        return ["Logits of the last token of each sequence (--logits last), as vLLM and SGLang make them in a prefill."]
    if workload.phase == "train":
        return ["Logits of all tokens: each has a loss."]
    return ["Logits of all tokens (--logits all); vLLM and SGLang make those of a sequence's last one (--logits last)."]


def marker_lines(workload: Workload, where: str) -> list[str]:
    """What stands around pictures in a prompt; `where` names the flag that its tokens may be counted in."""
    if not workload.images and not workload.videos:
        return []
    return [
        "Marker tokens that a prompt has around each image or video chunk (begin, content, end; timestamps) are text:"
        f" not among the vision tokens, count them in {where}."
    ]


def cache_lines(tape: Tape, whose: str, *more: str) -> list[str]:
    """How this model's cache is spread over devices and over a sequence; `more` are the other axes that divide it."""
    caches = [cache for op in tape.ops("backbone") for cache in op.caches]
    axes = [{d.axis for d in cache.features} for cache in caches]
    said = []
    if any("kv_heads" in named for named in axes):
        said.append("key-value heads divided by tp and replicated past their number")
    whole = [cache for cache, named in zip(caches, axes, strict=True) if not named & {"kv_heads", "heads"}]
    shared = dict.fromkeys(cache.kind for cache in whole if cache.span.kind != "sequence")
    if shared:
        said.append(f"{', '.join(shared)}, which all heads share, never divided by tp, only by dcp")
    if any("heads" in named for named in axes):
        said.append("states divided by tp with their heads")
    if len(shared) < len({cache.kind for cache in whole}):
        said.append("states without heads whole on every device")
    layers = {"pp": "layers by pp", "dp": "sequences by dp"}
    lines = [f"{whose}: {'; '.join([*said, *(layers[name] for name in more)])}."] if said else []
    if any(cache.dtype for cache in caches):
        lines.append("States keep a dtype of their own, whatever the cache's.")
    return lines


def growth_lines(tape: Tape) -> list[str]:
    """What growth and fixed mean for this model's cache."""
    kinds = {cache.span.kind for op in tape.ops("backbone") for cache in op.caches}
    if not kinds & {"window", "chunk", "sequence"}:
        return []
    return ["What has an end (a full window, a state) counts as fixed; per token is what one token more adds."]


ENGINES_PAD = "vLLM and SGLang pad to multiples of 64"
MEGATRON_PADS = "Megatron-LM pads to multiples of 128 x tp"


def padding_notes(padded: Iterable[Padding], rule: str) -> list[str]:
    """A sentence for each size that is padded so that it divides, once."""
    lines = (f"{d.name} {d.size:,} does not divide: it is padded to {d.padded:,} rows ({rule})." for d in padded)
    return list(dict.fromkeys(lines))
