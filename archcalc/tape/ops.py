"""The operations: each knows its weights, its FLOPs, what it saves for backward and what it caches, in one place.

Legend: T rows (tokens), R routed rows, h hidden, f ffn, E experts, k experts a token, n heads, d head dim.
FLOPs: 2 a multiply-add; norms, softmax, rope, activations and other elementwise work are not counted.
A linear's backward is one GEMM for the weights and one for the input: twice the forward, or once where the input needs
no gradient (Megatron-LM, arXiv:2104.04473, appendix). Attention's backward is twice its forward.
What is saved follows PyTorch autograd and Megatron-LM / TransformerEngine; see docs/formulas.md.
"""

from __future__ import annotations

from archcalc.tape.dims import Dim, Dims, Number, Term
from archcalc.tape.values import Cache, Op, Role, Save, Storage, Tensor, Weight


def _in_fp32(x: Tensor) -> Storage:
    """The fp32 copy that eager code makes of a tensor: none where it is fp32 already."""
    return x.storage if x.dtype == "float32" else Storage(x.rows, x.features, "float32")


class Operations:
    """Operations as methods of the tape. `name` is local to the open scope; `site` says where savers may act."""

    dtype: str

    def weight(
        self,
        name: str,
        suffix: str,
        out: Dims,
        into: Dims,
        role: Role,
        *,
        flat: bool = True,
        stack: Dims = (),
        active: Dim | None = None,
        dtype: str | None = None,
        trainable: bool = True,
    ) -> Weight:
        """A weight at a local name."""
        raise NotImplementedError

    def record(self, op: Op) -> None:
        """Append an operation."""
        raise NotImplementedError

    def path(self, name: str) -> str:
        """Full path of a local name."""
        raise NotImplementedError

    def about(self, name: str) -> str:
        """One sentence about a local name."""
        raise NotImplementedError

    def _emit(
        self,
        kind: str,
        name: str,
        site: str,
        inputs: tuple[Tensor, ...],
        out: Tensor | None,
        *,
        temps: tuple[Storage, ...] = (),
        weights: tuple[Weight, ...] = (),
        flops: Number = (),
        saves: tuple[Save, ...] = (),
        caches: tuple[Cache, ...] = (),
        backward: int = 0,
    ) -> None:
        operands = tuple(t.storage for t in inputs)
        made = tuple(s for s in temps if s not in operands)
        outputs = made if out is None else (out.storage, *made)
        self.record(
            Op(
                kind,
                self.path(name),
                site,
                operands,
                outputs,
                weights,
                flops,
                backward,
                saves,
                caches,
                self.about(name),
            )
        )

    # -- linear ---------------------------------------------------------------------------------------------------

    def linear(
        self,
        x: Tensor,
        name: str,
        out: Dims,
        *,
        role: Role,
        site: str,
        bias: bool = False,
        weight: Weight | None = None,
        into: Storage | None = None,
    ) -> Tensor:
        """[T, k] -> [T, n]: weight n x k, optional bias n. FLOPs 2·T·k·n. Saves its input, never its output.

        Args:
            weight: an existing weight (tied), instead of a new one.
            into: write into this storage (a fused gate-and-up projection) instead of a new one.
        """
        w = weight or self.weight(name, "weight", out, x.features, role)
        weights = (w, self.weight(name, "bias", out, (), role)) if bias else (w,)
        y = Tensor(x.rows, out, into or Storage(x.rows, out, self.dtype))
        flops = (Term(2, (*x.rows, *x.features, *out)),)
        self._emit(
            "linear",
            name,
            site,
            (x,),
            y,
            weights=weights,
            flops=flops,
            saves=(Save(x.storage),),
            backward=2 if x.requires_grad else 1,
        )
        return y

    def gate_up(
        self, x: Tensor, names: tuple[str, str], out: Dim, *, role: Role, site: str, bias: bool = False
    ) -> Tensor:
        """[T, h] -> [T, 2·f]: two linears that write one storage, as fused kernels and SwiGLU see it."""
        both = Tensor(x.rows, (2 * out,), Storage(x.rows, (2 * out,), self.dtype))
        for name in names:
            self.linear(x, name, (out,), role=role, site=site, bias=bias, into=both.storage)
        return both

    def grouped_linear(
        self,
        x: Tensor,
        names: tuple[str, ...],
        out: Dim,
        *,
        experts: Dim,
        active: Dim,
        role: Role,
        site: str,
    ) -> Tensor:
        """[R, k] -> [R, n] with each row's own expert: stack E of n x k. FLOPs 2·R·k·n a projection."""
        features = (out,) if len(names) == 1 else (len(names) * out,)
        y = Tensor(x.rows, features, Storage(x.rows, features, self.dtype))
        offsets = Storage((), (experts,), "int32")
        for i, name in enumerate(names):
            w = self.weight(name, "weight", (out,), x.features, role, stack=(experts,), active=active)
            saves = (Save(x.storage), *((Save(offsets, ("eager",)),) if site == "expert_fc1" and i == 0 else ()))
            self._emit(
                "grouped_linear",
                name,
                site,
                (x,),
                y,
                temps=(offsets,),
                weights=(w,),
                flops=(Term(2, (*x.rows, *x.features, out)),),
                saves=saves,
                backward=2,
            )
        return y

    def embedding(self, ids_rows: Dims, name: str, vocab: Dim, hidden: Dim, *, role: Role = "embedding") -> Tensor:
        """Row lookup [T] -> [T, h]: weight vocab x h, no FLOPs. Saves the int64 ids."""
        w = self.weight(name, "weight", (vocab,), (hidden,), role)
        ids = Storage(ids_rows, (), "int64")
        y = Tensor(ids_rows, (hidden,), Storage(ids_rows, (hidden,), self.dtype))
        self._emit("embedding", name, "embedding", (), y, temps=(ids,), weights=(w,), saves=(Save(ids),))
        return y

    def conv_patch(self, rows: Dims, name: str, channels: Dim, kernel: Dims, out: Dim, *, role: Role) -> Tensor:
        """Patch convolution with stride = kernel: a linear over pixels that need no gradient. FLOPs 2·P·c·kh·kw·h."""
        pixels = Tensor(rows, (channels, *kernel), Storage(rows, (channels, *kernel), self.dtype), requires_grad=False)
        w = self.weight(name, "weight", (out,), (channels, *kernel), role, flat=False)
        b = self.weight(name, "bias", (out,), (), role)
        y = Tensor(rows, (out,), Storage(rows, (out,), self.dtype))
        self._emit(
            "conv_patch",
            name,
            "patch_embed",
            (pixels,),
            y,
            weights=(w, b),
            flops=(Term(2, (*rows, channels, *kernel, out)),),
            saves=(Save(pixels.storage),),
            backward=1,
        )
        return y

    def add_table(self, x: Tensor, name: str, shape: Dims, *, role: Role, site: str) -> Tensor:
        """Add a learned position table (interpolated to the grid). Saves nothing a token."""
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        self._emit(
            "add_table", name, site, (x,), y, weights=(self.weight(name, "weight", shape, (), role, flat=False),)
        )
        return y

    # -- norms and activations ------------------------------------------------------------------------------------

    def rms_norm(self, x: Tensor, name: str, *, role: Role, site: str) -> Tensor:
        """RMSNorm over the features (arXiv:1910.07467). Fused kernels save x and rstd [4·T bytes]; eager code saves an
        fp32 copy, the normalised bf16 copy and rstd."""
        w = self.weight(name, "weight", x.features, (), role)
        rstd = Storage(x.rows, (), "float32")
        wide = _in_fp32(x)
        unit = Storage(x.rows, x.features, self.dtype)
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        saves = (Save(x.storage, ("fused",)), Save(rstd), Save(wide, ("eager",)), Save(unit, ("eager",)))
        self._emit("rms_norm", name, site, (x,), y, temps=(rstd, wide, unit), weights=(w,), saves=saves)
        return y

    def layer_norm(self, x: Tensor, name: str, *, role: Role, site: str) -> Tensor:
        """LayerNorm with weight and bias (arXiv:1607.06450). Saves x and fp32 mean and rstd [8·T bytes]."""
        weights = (self.weight(name, "weight", x.features, (), role), self.weight(name, "bias", x.features, (), role))
        stats = (Storage(x.rows, (), "float32"), Storage(x.rows, (), "float32"))
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        saves = (Save(x.storage), *(Save(s) for s in stats))
        self._emit("layer_norm", name, site, (x,), y, temps=stats, weights=weights, saves=saves)
        return y

    def glu(self, gate_up: Tensor, name: str, out: Dim, *, site: str, probs: Dims | None = None) -> Tensor:
        """Gated activation act(gate)·up (arXiv:2002.05202). Saves gate and up; eager code also act(gate).

        `probs`: rows of routing probabilities that may multiply here (variant `probs_act`): fused kernels save them in
        fp32, eager code in bf16 beside the unscaled product.
        """
        rows = gate_up.rows
        act = Storage(rows, (out,), self.dtype)
        y = Tensor(rows, (out,), Storage(rows, (out,), self.dtype))
        temps: tuple[Storage, ...] = (act,)
        saves: tuple[Save, ...] = (Save(gate_up.storage), Save(act, ("eager",)))
        if probs is not None:
            p32, p16 = Storage(probs, (), "float32"), Storage(probs, (), self.dtype)
            unscaled = Storage(rows, (out,), self.dtype)
            # The router's probabilities come from outside any region that recomputes the activation: they are inputs.
            saves += (
                Save(p32, ("fused", "probs_act")),
                Save(p16, ("eager", "probs_act")),
                Save(unscaled, ("eager", "probs_act")),
            )
            self._emit(
                "glu",
                name,
                site,
                (gate_up,),
                y,
                temps=(*temps, unscaled),
                saves=saves[:2] + saves[4:],
            )
            self._emit("route_probs", name, "combine", (), None, saves=saves[2:4])
        else:
            self._emit("glu", name, site, (gate_up,), y, temps=temps, saves=saves)
        return y

    def activation(self, x: Tensor, name: str, *, site: str) -> Tensor:
        """Elementwise activation (GELU, arXiv:1606.08415). Saves its input; no FLOPs counted."""
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        self._emit("activation", name, site, (x,), y, saves=(Save(x.storage),))
        return y

    def rope(self, x: Tensor, name: str, features: Dims, *, site: str = "rope") -> Tensor:
        """Rotate (arXiv:2104.09864) into a new storage. Saves only cos and sin, which are tables, not activations."""
        y = Tensor(x.rows, features, Storage(x.rows, features, self.dtype))
        self._emit("rope", name, site, (x,), y)
        return y

    def copy(
        self, inputs: tuple[Tensor, ...], name: str, features: Dims, *, site: str, rows: Dims | None = None
    ) -> Tensor:
        """A new storage made from others (concatenate, mean, make contiguous). Saves nothing."""
        rows = inputs[0].rows if rows is None else rows
        y = Tensor(rows, features, Storage(rows, features, self.dtype))
        self._emit("copy", name, site, inputs, y)
        return y

    def add(self, x: Tensor, y: Tensor, name: str, *, site: str) -> Tensor:
        """Residual addition. Saves nothing."""
        return self.copy((x, y), name, x.features, site=site)

    # -- attention ------------------------------------------------------------------------------------------------

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
        caches: tuple[Cache, ...] = (),
        site: str = "core_attn",
    ) -> Tensor:
        """softmax(q·kᵀ)·v: FLOPs pairs·n·(d_qk + d_v), where `pairs` already holds 2 a multiply-add (1 where causal
        halves). Flash kernels save q, k, v, out and fp32 log-sum-exp (arXiv:2205.14135); the math path saves fp32 q,
        k, v
        and the probabilities."""
        out = Tensor(q.rows, (heads, v_dim), Storage(q.rows, (heads, v_dim), self.dtype))
        lse = Storage(q.rows, (heads,), "float32")
        q32 = Storage(q.rows, (heads, qk_dim), "float32")
        k32 = Storage(k.rows, (heads, qk_dim), "float32")
        v32 = Storage(v.rows, (heads, v_dim), "float32")
        keys = Dim("keys", k.rows[-1].size if k.rows else 1)
        scores = Storage(q.rows, (heads, keys), "float32")
        flash = (q.storage, k.storage, v.storage, out.storage, lse)
        saves = (
            *(Save(s, ("flash",)) for s in flash),
            *(Save(s, ("math",)) for s in (q32, k32, v32, scores)),
        )
        flops = tuple(Term(c, (*dims, heads, d)) for c, dims in pairs for d in (qk_dim, v_dim))
        self._emit(
            "attention",
            name,
            site,
            (q, k, v),
            out,
            temps=(lse, q32, k32, v32, scores),
            flops=flops,
            saves=saves,
            caches=caches,
            backward=2,
        )
        return out

    def per_head_linear(
        self, x: Tensor, name: str, weight: Weight, heads: Dim, contract: Dim, out: Dim, *, site: str
    ) -> Tensor:
        """[T, n, a] -> [T, n, b] with a view of an existing weight (MLA's absorbed up-projections). FLOPs 2·T·n·a·b."""
        y = Tensor(x.rows, (heads, out), Storage(x.rows, (heads, out), self.dtype))
        flops = (Term(2, (*x.rows, heads, contract, out)),)
        self._emit(
            "per_head_linear", name, site, (x,), y, weights=(weight,), flops=flops, saves=(Save(x.storage),), backward=2
        )
        return y

    # -- mixture of experts ---------------------------------------------------------------------------------------

    def router(
        self, x: Tensor, name: str, experts: Dim, top_k: Dim, *, correction_bias: bool, bias: bool, norm: bool
    ) -> None:
        """Scores [T, E] and the top k: weight E x h, optional linear bias, optional fp32 correction-bias buffer
        (auxiliary-loss-free balancing, arXiv:2408.15664). FLOPs 2·T·h·E. Saves fp32 scores, int64 indices and, where
        the
        weights are normalised, the fp32 weights before it and their sum; eager code casts input and weight to fp32."""
        weights = [self.weight(name, "weight", (experts,), x.features, "router")]
        if bias:
            weights.append(self.weight(name, "bias", (experts,), (), "router"))
        if correction_bias:
            weights.append(
                self.weight(
                    name, "e_score_correction_bias", (experts,), (), "router_bias", dtype="float32", trainable=False
                )
            )
        x32 = _in_fp32(x)
        w32 = Storage((), (experts, *x.features), "float32")
        cast = (Save(x32, ("eager",)), *((Save(w32, ("eager",)),) if self.dtype != "float32" else ()))
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
        )

    def dispatch(self, x: Tensor, name: str, routed: Dims) -> Tensor:
        """Permute and exchange: [T, h] -> [R, h]. Saves the int64 row map and sort order [16·R bytes]."""
        maps = (Storage(routed, (), "int64"), Storage(routed, (), "int64"))
        y = Tensor(routed, x.features, Storage(routed, x.features, self.dtype))
        self._emit("dispatch", name, "dispatch", (x,), y, temps=maps, saves=tuple(Save(m) for m in maps))
        return y

    def combine(self, x: Tensor, name: str, rows: Dims) -> Tensor:
        """Exchange back and add up: [R, h] -> [T, h]. With `probs_out` the probabilities multiply here, which keeps the
        experts' output and the probabilities (fp32 fused, bf16 eager); eager code also keeps index_add's source."""
        p32, p16 = Storage(x.rows, (), "float32"), Storage(x.rows, (), self.dtype)
        source = Storage(x.rows, x.features, self.dtype)
        y = Tensor(rows, x.features, Storage(rows, x.features, self.dtype))
        saves = (
            Save(x.storage, ("probs_out",)),
            Save(p32, ("fused", "probs_out")),
            Save(p16, ("eager", "probs_out")),
            Save(source, ("eager", "probs_out")),
            Save(x.storage, ("eager", "probs_act")),
        )
        self._emit("combine", name, "combine", (x,), y, temps=(p32, p16, source), saves=saves)
        return y

    # -- loss -----------------------------------------------------------------------------------------------------

    def cross_entropy(self, logits: Tensor, name: str) -> None:
        """Token loss over the vocabulary. Saves fp32 log-probabilities [4·T·V bytes] and the targets, eager code the
        total weight and Megatron-LM's vocab-parallel loss a mask of its own targets; TransformerEngine's kernel
        writes the gradient over the bf16 logits instead [2·T·V], and a chunked head keeps neither."""
        kept = Storage(logits.rows, logits.features, "float32")
        targets, mask = Storage(logits.rows, (), "int64"), Storage(logits.rows, (), "bool")
        weight = Storage((), (), "float32")
        saves = (
            *(Save(t, ("loss_eager",)) for t in (kept, targets, weight)),
            *(Save(t, ("loss_fused",)) for t in (kept, targets, mask)),
            Save(logits.storage, ("loss_te",)),
        )
        self._emit("cross_entropy", name, "loss", (logits,), None, temps=(kept, targets, mask, weight), saves=saves)
