"""How it was counted, in words that are true for the model at hand: its spans, its axes, its caches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from archcalc.calc.sharding import Padding
from archcalc.tape import Op, Span, Tape

PAIRS = {
    "all": "n new tokens on c cached ones score n(c+n) pairs (full), or n·c + n²/2 (causal: half of the new-by-new"
    " scores); a decoded token scores c + 1 under either.",
    "window": "Within a window of {n} tokens n new ones on c cached score n·min(c+n, w) pairs (full), or k·c + k²/2 +"
    " (n-k)·w with k = w - c between 0 and n (causal).",
    "chunk": "Attention stays within chunks of {n} tokens, each counted as a sequence of its own.",
    "top": "Attention takes the best {n} keys: n new tokens on c cached score n·min(c+n, k) pairs (full), or as a"
    " window of k would (causal); all keys stay cached.",
    "stride": "One cached entry stands for {n} tokens, and is scored once they are there.",
}
"""What mixers of each span score."""

SPANS = {"all": "every token", "top": "every token", "sequence": "one state"}


def span_words(span: Span) -> str:
    """Which tokens an entry is kept for, in a few words."""
    if span.kind in SPANS:
        return SPANS[span.kind]
    if span.kind == "stride":
        return f"one for {span.size:,} tokens"
    return f"{'the last' if span.kind == 'window' else 'a chunk of'} {span.size:,}"


def pair_lines(tape: Tape) -> list[str]:
    """What the attention of this model scores, a sentence for each span of it."""
    sizes: dict[str, dict[int, None]] = {}
    for op in _backbone(tape):
        if op.span is not None:
            sizes.setdefault(op.span.kind, {})[op.span.size] = None
    return [PAIRS[kind].format(n=" or ".join(f"{size:,}" for size in sorted(of))) for kind, of in sizes.items() if of]


def cache_lines(tape: Tape, whose: str, *more: str) -> list[str]:
    """How this model's cache is spread over devices and over a sequence; `more` are the other axes that divide it."""
    caches = [cache for op in _backbone(tape) for cache in op.caches]
    axes = [{d.axis for d in cache.features} for cache in caches]
    said = []
    if any("kv_heads" in named for named in axes):
        said.append("key-value heads divided by tp and replicated past their number")
    whole = [cache for cache, named in zip(caches, axes, strict=True) if not named & {"kv_heads", "heads"}]
    shared = dict.fromkeys(cache.kind for cache in whole if cache.span.kind != "sequence")
    if shared:
        said.append(f"{' and '.join(shared)}, which all heads share, never divided by tp, only by dcp")
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
    kinds = {cache.span.kind for op in _backbone(tape) for cache in op.caches}
    if not kinds & {"window", "chunk", "sequence"}:
        return []
    return ["What has an end (a full window, a state) counts as fixed; per token is what one token more adds."]


ENGINES_PAD = "vLLM and SGLang pad to multiples of 64"
MEGATRON_PADS = "Megatron-LM pads to multiples of 128 x tp"


def padding_notes(padded: Iterable[Padding], rule: str) -> list[str]:
    """A sentence for each size that is padded so that it divides, once."""
    lines = (f"{d.name} {d.size:,} does not divide: it is padded to {d.padded:,} rows ({rule})." for d in padded)
    return list(dict.fromkeys(lines))


def _backbone(tape: Tape) -> Iterator[Op]:
    return (op for segment in tape.segments if segment.part == "backbone" for op in segment.ops)
