"""Operations that mix tokens or send them elsewhere: attention, scans, routing, dispatch and combine.

Legend: T rows (tokens), R routed rows, h hidden, E experts, k experts a token, n heads, d head dim.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from archcalc.tape.dims import Dim, Dims, Number, Term
from archcalc.tape.op import Cache, Save, Work
from archcalc.tape.ops.pointwise import in_fp32
from archcalc.tape.recorder import Recorder
from archcalc.tape.span import ALL, SEQUENCE, Span
from archcalc.tape.values import Storage, Tensor, Weight

Correction = Literal["none", "buffer", "parameter"]
"""How a router holds the bias that steers its choice."""


class MixingOperations(Recorder):
    """Attention, scans over a state, and mixture of experts."""

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        name: str,
        *,
        heads: Dim,
        qk_dim: Dim,
        v_dim: Dim,
        pairs: Number,
        span: Span = ALL,
        sinks: bool = False,
        choice: Tensor | None = None,
        caches: tuple[Cache, ...] = (),
        site: str = "core_attn",
        bases: tuple[Storage, ...] = (),
    ) -> Tensor:
        """softmax(q·kᵀ)·v: FLOPs pairs·n·(d_qk + d_v), where `pairs` already holds 2 a multiply-add (1 where causal
        halves) and follows from `span`. Flash kernels save q, k, v, out and fp32 log-sum-exp (arXiv:2205.14135), under
        dropout too, whose mask they make again. Unfused: see `_unfused`. Where the layer has tokens before sequences
        and the kernel sequences before tokens, the output stands in both orders, and backward needs both: the kernel's
        one of them, the projection behind it the other (`flash_copied`; TransformerEngine, attention/
        dot_product_attention/backends.py, `FlashAttention`, which calls the flash-attn package). It is counted behind
        every core, also where what follows keeps something else.

        `sinks`: a learned logit a head takes part in the softmax, as a bare parameter of the module (gpt-oss,
        arXiv:2508.10925): n more weights, next to no FLOPs, nothing saved beside the log-sum-exp. `choice`: the keys
        that each query takes, which a sparse kernel needs again in backward. `bases`: see `Op`."""
        out = Tensor(q.rows, (heads, v_dim), Storage(q.rows, (heads, v_dim), self.dtype))
        lse = Storage(q.rows, (heads,), "float32")
        chosen = () if choice is None else (choice,)
        flash = (q.storage, k.storage, v.storage, out.storage, lse, *(t.storage for t in chosen))
        copied = Save(Storage(q.rows, (heads, v_dim), self.dtype), ("flash", "flash_copied"))
        unfused, works = self._unfused(q, k, v, heads, qk_dim, v_dim)
        flops = tuple(Term(c, (*dims, heads, d)) for c, dims in pairs for d in (qk_dim, v_dim))
        self._emit(
            "attention",
            name,
            site,
            (q, k, v, *chosen),
            out,
            temps=(lse, copied.storage, *(save.storage for save in unfused)),
            weights=(self.weight("", "sinks", (heads,), (), "attention"),) if sinks else (),
            flops=flops,
            counts_as="attention",
            saves=(*(Save(s, ("flash",)) for s in flash), copied, *unfused),
            caches=caches,
            backward=2,
            exchange="context",
            span=span,
            works=works,
            bases=bases,
        )
        return out

    def _unfused(
        self, q: Tensor, k: Tensor, v: Tensor, heads: Dim, qk_dim: Dim, v_dim: Dim
    ) -> tuple[tuple[Save, ...], tuple[Work, ...]]:
        """What attention keeps that writes its n·T·T' scores out, and what it makes while it runs.

        Fused kernels in 16 bit: q, k and v (all heads' where several share one key), the softmax, and under dropout a
        mask of one byte and the dropped softmax: 5 bytes a score (arXiv:2205.05198, section 4.1). The scores themselves
        stand until the end, with what the last product makes before it is put into order; backward one gradient of them
        at a time, since that of the softmax is written over the one that comes in (TransformerEngine,
        attention/dot_product_attention/backends.py, `UnfusedDotProductAttention`, softmax.py, `ScaledMaskedSoftmax`;
        Megatron-LM, core/transformer/dot_product_attention.py, whose scores start from a buffer kept for the whole run
        that is not counted here). Where no such kernel serves (T' above 16,384, b·n/tp no multiple of 4) they keep
        more.

        Plain code in fp32: q, k, v and the softmax, under dropout a mask and the dropped softmax too. Scores and
        softmax are two tensors, and so are their gradients, which under dropout come when the dropped one is gone
        (torch, `_scaled_dot_product_attention_math`, on CUDA).
        """
        keys = Dim("keys", k.rows[-1].size if k.rows else 1)
        q32 = Storage(q.rows, (heads, qk_dim), "float32")
        k32 = Storage(k.rows, (heads, qk_dim), "float32")
        v32 = Storage(v.rows, (heads, v_dim), "float32")
        wide, wide_dropped = (Storage(q.rows, (heads, keys), "float32") for _ in range(2))
        probs, dropped, scores = (Storage(q.rows, (heads, keys), self.dtype) for _ in range(3))
        mask = Storage(q.rows, (heads, keys), "bool")
        many = k.features[0].size == heads.size
        k16 = k.storage if many else Storage(k.rows, (heads, qk_dim), self.dtype)
        v16 = v.storage if many else Storage(v.rows, (heads, v_dim), self.dtype)
        context = Storage(q.rows, (heads, v_dim), self.dtype)
        saves = (
            *(Save(s, ("unfused", "fused")) for s in (q.storage, k16, v16, probs)),
            *(Save(s, ("unfused", "fused", "attention_dropout")) for s in (mask, dropped)),
            *(Save(s, ("unfused", "eager")) for s in (q32, k32, v32, wide)),
            *(Save(s, ("unfused", "eager", "attention_dropout")) for s in (mask, wide_dropped)),
        )
        again, more = (Storage(q.rows, (heads, keys), "float32") for _ in range(2))
        operands = (q.storage, k.storage, v.storage)
        works = (
            *(Work(save.storage, False, save.when) for save in saves if save.storage not in operands),
            *(Work(s, False, ("unfused", "fused")) for s in (scores, context)),
            Work(scores, True, ("unfused", "fused")),
            Work(again, False, ("unfused", "eager", "attention_undropped")),
            Work(again, True, ("unfused", "eager")),
            Work(more, True, ("unfused", "eager", "attention_undropped")),
        )
        return saves, works

    def index_scores(
        self,
        q: Tensor,
        k: Tensor,
        weights: Tensor,
        name: str,
        *,
        heads: Dim,
        dim: Dim,
        top_k: Dim,
        pairs: Number,
        caches: tuple[Cache, ...] = (),
    ) -> Tensor:
        """Scores that choose which keys attention sees: the sum over heads of weights·relu(q·kᵀ), then the best k.

        FLOPs pairs·n·d + pairs·n (DeepSeek-V3.2's lightning indexer, arXiv:2512.02556, section 2.1); int32 indices out.
        The choice has no gradient: record it under `no_grad`.
        """
        index = Tensor(q.rows, (top_k,), Storage(q.rows, (top_k,), "int32"), requires_grad=False)
        flops = tuple(Term(c, (*dims, *more)) for c, dims in pairs for more in ((heads, dim), (heads,)))
        self._emit(
            "index_scores",
            name,
            "index",
            (q, k, weights),
            index,
            flops=flops,
            counts_as="index",
            caches=caches,
            backward=2,
            span=ALL,
        )
        return index

    def scan(
        self,
        inputs: tuple[Tensor, ...],
        name: str,
        *,
        heads: Dim,
        key_dim: Dim,
        value_dim: Dim,
        cell_flops: int,
        beside: tuple[Tensor, ...] = (),
        keeps: tuple[Storage, ...] = (),
        state_dtype: str = "float32",
    ) -> Tensor:
        """A recurrence over a state of n matrices d_k x d_v: [T, ...] -> [T, n, d_v].

        FLOPs cell_flops·T·n·d_k·d_v: 6 for the gated delta rule (read, write and decay, arXiv:2412.06464), 4 for
        lightning attention (arXiv:2401.04658). Saves its inputs, not what it reads `beside` them, and what the kernel
        `keeps`. Its state, one a sequence, has a dtype of its own.
        """
        y = Tensor(inputs[0].rows, (heads, value_dim), Storage(inputs[0].rows, (heads, value_dim), self.dtype))
        state = Cache("state", (heads, key_dim, value_dim), SEQUENCE, state_dtype)
        self._emit(
            "scan",
            name,
            "scan",
            (*inputs, *beside),
            y,
            temps=keeps,
            flops=(Term(cell_flops, (*inputs[0].rows, heads, key_dim, value_dim)),),
            counts_as="scan",
            saves=tuple(Save(s) for s in (*(t.storage for t in inputs), *keeps)),
            caches=(state,),
            backward=2,
        )
        return y

    def per_head_linear(
        self, x: Tensor, name: str, weight: Weight, heads: Dim, contract: Dim, out: Dim, *, site: str
    ) -> Tensor:
        """[T, n, a] -> [T, n, b] with a view of an existing weight (MLA's absorbed up-projections). FLOPs 2·T·n·a·b."""
        y = Tensor(x.rows, (heads, out), Storage(x.rows, (heads, out), self.dtype))
        flops = (Term(2, (*x.rows, heads, contract, out)),)
        self._emit(
            "per_head_linear",
            name,
            site,
            (x,),
            y,
            weights=(weight,),
            flops=flops,
            saves=(Save(x.storage, needs="weight"),),
            backward=2,
            weight_gradient="gemm",
        )
        return y

    def router(
        self, x: Tensor, name: str, experts: Dim, top_k: Dim, *, correction_bias: Correction, bias: bool, norm: bool
    ) -> None:
        """Scores [T, E] and the top k: weight E x h, optional linear bias, optional fp32 correction bias
        (auxiliary-loss-free balancing, arXiv:2408.15664): a buffer of the router, or a parameter without a gradient of
        a module `moe_statics` beside it (ERNIE 4.5). FLOPs 2·T·h·E. Saves fp32 scores, int64 indices and, where the
        weights are normalised, the fp32 weights before it and their sum; eager code casts input and weight to fp32."""
        weights = [self.weight(name, "weight", (experts,), x.features, "router")]
        if bias:
            weights.append(self.weight(name, "bias", (experts,), (), "router"))
        steers = partial(self.weight, suffix="e_score_correction_bias", into=(), role="router_bias", dtype="float32")
        if correction_bias == "buffer":
            weights.append(steers(name, out=(experts,), trainable=False))
        elif correction_bias == "parameter":
            weights.append(steers("moe_statics", out=(Dim("1", 1), experts), flat=False, frozen=True))
        x32 = in_fp32(x)
        w32 = Storage((), (experts, *x.features), "float32")
        wide = (Save(w32, ("eager",), "input"),) if self.dtype != "float32" else ()
        cast = (Save(x32, ("eager",), "weight"), *wide)
        scores = Storage(x.rows, (experts,), "float32")
        index = Storage(x.rows, (top_k,), "int64")
        picked, total = Storage(x.rows, (top_k,), "float32"), Storage(x.rows, (), "float32")
        normed = (Save(picked), Save(total)) if norm else ()
        saves = (
            Save(x.storage, ("fused",)),
            *cast,
            Save(scores),
            Save(index),
            *normed,
        )
        self._emit(
            "router",
            name,
            "router",
            (x,),
            None,
            temps=(scores, index, picked, total, x32, w32),
            weights=tuple(weights),
            flops=(Term(2, (*x.rows, *x.features, experts)),),
            saves=saves,
            backward=2,
            weight_gradient="gemm",
        )

    def dispatch(self, x: Tensor, name: str, routed: Dims) -> Tensor:
        """Permute and exchange: [T, h] -> [R, h]. Saves the int64 row map and sort order [16·R bytes]."""
        maps = (Storage(routed, (), "int64"), Storage(routed, (), "int64"))
        y = Tensor(routed, x.features, Storage(routed, x.features, self.dtype))
        saves = tuple(Save(m) for m in maps)
        self._emit("dispatch", name, "dispatch", (x,), y, temps=maps, saves=saves, exchange="send")
        return y

    def combine(self, x: Tensor, name: str, rows: Dims) -> Tensor:
        """Exchange back and add up: [R, h] -> [T, h]. With `probs_out` the probabilities multiply here, which keeps the
        experts' output and the probabilities (fp32 fused, bf16 eager); eager code also keeps index_add's source, and so
        does Megatron-LM in its deterministic mode (core/transformer/moe/moe_utils.py, `unpermute`; torch
        tools/autograd/derivatives.yaml, index_add)."""
        p32, p16 = Storage(x.rows, (), "float32"), Storage(x.rows, (), self.dtype)
        source = Storage(x.rows, x.features, self.dtype)
        y = Tensor(rows, x.features, Storage(rows, x.features, self.dtype))
        saves = (
            Save(x.storage, ("probs_out",)),
            Save(p32, ("fused", "probs_out")),
            Save(p16, ("eager", "probs_out")),
            Save(source, ("eager", "probs_out")),
            *(Save(x.storage, (how, "probs_act")) for how in ("eager", "deterministic")),
        )
        self._emit("combine", name, "combine", (x,), y, temps=(p32, p16, source), saves=saves, exchange="return")
        return y
