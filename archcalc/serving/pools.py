"""How an engine's pages are shared by layers that cache different stretches of a sequence, and what that wastes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from archcalc.calc.kv_cache import SequenceCache, Stage
from archcalc.serving.engine import Engine
from archcalc.tape import ALL, Span

MOSTLY_ALIKE = Fraction(3, 2)
"""Where the commonest sort of layer is less than this many times the rarest, groups have the commonest's size (vLLM,
v1/core/kv_cache_utils.py, _get_kv_cache_groups_uniform_page_size)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How one stage's pages are shared.

    Attributes:
        hybrid: whether layers cache by different spans.
        group: layers of a group, which a page serves; 0 where all layers are alike.
        groups: how many there are.
        padding: layers that pad the last group of each span.
        windows, states: whether some of the spans are windows or chunks, and whether one is a state.
        whole: whether windows are kept as if they were whole sequences.
        more: what that takes beyond what a sequence of the load caches [bytes].
    """

    hybrid: bool = False
    group: int = 0
    groups: int = 1
    padding: int = 0
    windows: bool = False
    states: bool = False
    whole: bool = False
    more: int = 0


def pooled(
    cache: SequenceCache, layers: dict[Span, int], engine: Engine, step_tokens: int
) -> tuple[SequenceCache, Pool]:
    """A stage's cache as the engine pages it, from what its layers keep and how many layers keep each span.

    With `hybrid_groups` layers of a span stand in groups of equal size, the last one padded; windows and chunks hold
    what a step adds to them, a window a page more (vLLM, v1/kv_cache_interface.py, max_memory_usage_bytes of
    SlidingWindowSpec and ChunkedLocalAttentionSpec). A state takes a page, and a page has so many tokens that it holds
    one. Without, every layer keeps all tokens.
    """
    (stage,) = cache.stages
    if not layers:
        return cache, Pool()
    if not engine.hybrid_groups:
        mixed = len(layers) > 1
        kept = tuple((ALL if mixed and span.kind in ("window", "chunk") else span, n) for span, n in stage)
        return replace(cache, stages=(kept,)), Pool(whole=kept != stage)
    page, state = _page_of_a_state(stage, layers, cache.mesh.block_size)

    def held(span: Span) -> Span:
        grown = {"window": span.size - 1 + step_tokens + page, "chunk": span.size + step_tokens}
        return span._replace(size=grown.get(span.kind, span.size))

    if len(layers) == 1:
        return replace(cache, stages=(tuple((held(span), n) for span, n in stage),)), Pool()
    counts = sorted(layers.values())
    size = counts[-1] if counts[-1] < MOSTLY_ALIKE * counts[0] else counts[0]
    groups = {span: -(-n // size) for span, n in layers.items()}

    def padded(span: Span, n: int) -> int:
        n = state * layers[span] if span.kind == "sequence" else n
        return -(-n * groups[span] * size // layers[span])

    kept = tuple((held(span), padded(span, n)) for span, n in stage)
    total, kinds = sum(groups.values()), {span.kind for span in layers}
    pool = Pool(
        hybrid=True,
        group=size,
        groups=total,
        padding=total * size - sum(counts),
        windows=not kinds.isdisjoint(("window", "chunk")),
        states="sequence" in kinds,
    )
    return replace(cache, stages=(kept,), mesh=replace(cache.mesh, block_size=page)), pool


def _page_of_a_state(stage: Stage, layers: dict[Span, int], page: int) -> tuple[int, int]:
    """Tokens of a page that holds a layer's state, in whole pages of `page` tokens, and what a state takes [bytes].

    vLLM, platforms/interface.py: attn_block_size, mamba_page_size_padded. Without states, or with nothing else, a page
    stays as it is.
    """
    state = sum(-(-n // layers[span]) for span, n in stage if span.kind == "sequence")
    token = max((-(-n // layers[span]) for span, n in stage if span.kind not in ("sequence", "stride")), default=0)
    if not state or not token:
        return page, state
    tokens = -(-state // (page * token)) * page
    return tokens, tokens * token
