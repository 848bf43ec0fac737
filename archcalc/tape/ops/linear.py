"""Operations that multiply with a weight matrix, or look rows up in one.

Legend: T rows (tokens), R routed rows, P patches, h hidden, f ffn, E experts.
"""

from __future__ import annotations

from functools import partial

from archcalc.tape.dims import Dim, Dims, Term
from archcalc.tape.op import Cache, Save, Variant
from archcalc.tape.recorder import Recorder
from archcalc.tape.sites import FP8_LINEARS
from archcalc.tape.span import SEQUENCE
from archcalc.tape.values import Role, Storage, Tensor, Weight

COPIES: tuple[tuple[Variant, str], ...] = (
    ("fp8_tensorwise", "float8_tensorwise"),
    ("fp8_blockwise", "float8_blockwise"),
    ("fp8_mxfp8", "float8_mxfp8"),
)
"""The dtype of a linear's quantized input, by the recipe."""


class LinearOperations(Recorder):
    """Linears, grouped linears, embedding, convolutions, position tables."""

    def linear(
        self,
        x: Tensor,
        name: str,
        out: Dims,
        *,
        role: Role,
        site: str,
        bias: bool = False,
        weight: Weight | tuple[Weight, ...] | None = None,
        into: Storage | None = None,
        bare: bool = False,
    ) -> Tensor:
        """[T, k] -> [T, n]: weight n x k, optional bias n. FLOPs 2·T·k·n. Saves its input, never its output, and not
        even that where the weight is frozen (torch, derivatives.yaml: each factor of `mm` for the other's gradient;
        TransformerEngine, module/linear.py: `backward_needs_input`; Megatron-LM, `LinearWithFrozenWeight`).

        Args:
            weight: an existing weight (tied), or one and its bias, instead of a new one.
            into: write into this storage (a fused gate-and-up projection) instead of a new one.
            bare: its matrix is a parameter of the open module by this name, not a module's `weight`.
        """
        own = ("", name) if bare else (name, "weight")
        if isinstance(weight, tuple):
            weights = weight
        else:
            w = weight or self.weight(*own, out, x.features, role)
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
            saves=(self._input(x, site),),
            backward=2 if x.requires_grad else 1,
            weight_gradient="accumulated",
            exchange="tensor",
        )
        return y

    def _input(self, x: Tensor, site: str) -> Save:
        """What the weight's gradient takes: the input, or the copy that a GEMM in FP8 made of it for that
        (TransformerEngine pytorch/module/linear.py, _Linear.forward: `update_usage(rowwise_usage=False,
        columnwise_usage=True)`; grouped_linear.py). Linears of one site with one input are one GEMM and share it."""
        copies: tuple[tuple[Variant, Storage], ...] = ()
        if site in FP8_LINEARS:
            made = self._copies.get((x.storage, site))
            copies = made or tuple((v, Storage(x.rows, x.features, dtype)) for v, dtype in COPIES)
            self._copies[x.storage, site] = copies
        return Save(x.storage, needs="weight", copies=copies)

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
        bias: bool,
    ) -> Tensor:
        """[R, k] -> [R, n] with each row's own expert: stack E of n x k, optional biases E of n. FLOPs 2·R·k·n a
        projection.

        Eager code looks a row's bias up by the number of its expert, which it keeps as int64 (transformers,
        integrations/moe.py, `grouped_mm_experts_forward`), and the biases themselves where probabilities that go into
        the activation multiply the last one; a grouped kernel knows the split and keeps nothing.
        """
        features = (out,) if len(names) == 1 else (len(names) * out,)
        y = Tensor(x.rows, features, Storage(x.rows, features, self.dtype))
        offsets, numbers = Storage((), (experts,), "int32"), Storage(x.rows, (), "int64")
        once = (offsets, numbers) if bias else (offsets,)
        looked_up = Storage(x.rows, features, self.dtype)
        for i, name in enumerate(names):
            stacked = partial(self.weight, name, role=role, stack=(experts,), active=active)
            weights = (stacked("weight", (out,), x.features), *((stacked("bias", (out,), ()),) if bias else ()))
            first = site == "expert_fc1" and i == 0
            noted = tuple(Save(s, ("eager",), "any" if s is offsets else "weight") for s in once)
            saves = (self._input(x, site), *(noted if first else ()))
            if bias and site == "expert_fc2":
                saves = (*saves, Save(looked_up, ("eager", "probs_act")))
            self._emit(
                "grouped_linear",
                name,
                site,
                (x,),
                y,
                temps=once,
                weights=weights,
                flops=(Term(2, (*x.rows, *x.features, out)),),
                saves=saves,
                backward=2,
                weight_gradient="accumulated",
            )
        return y

    def embedding(self, ids_rows: Dims, name: str, vocab: Dim, hidden: Dim, *, role: Role = "embedding") -> Tensor:
        """Row lookup [T] -> [T, h]: weight vocab x h, no FLOPs. Saves the int64 ids."""
        w = self.weight(name, "weight", (vocab,), (hidden,), role)
        ids = Storage(ids_rows, (), "int64")
        y = Tensor(ids_rows, (hidden,), Storage(ids_rows, (hidden,), self.dtype))
        self._emit("embedding", name, "embedding", (), y, temps=(ids,), weights=(w,), saves=(Save(ids),))
        return y

    def conv_patch(
        self, rows: Dims, name: str, channels: Dim, kernel: Dims, out: Dim, *, role: Role, bias: bool = True
    ) -> Tensor:
        """Patch convolution with stride = kernel: a linear over pixels that need no gradient. FLOPs 2·P·c·kh·kw·h, and
        times kt where the kernel has a depth in time."""
        pixels = Tensor(rows, (channels, *kernel), Storage(rows, (channels, *kernel), self.dtype), requires_grad=False)
        w = self.weight(name, "weight", (out,), (channels, *kernel), role, flat=False)
        weights = (w, self.weight(name, "bias", (out,), (), role)) if bias else (w,)
        y = Tensor(rows, (out,), Storage(rows, (out,), self.dtype))
        self._emit(
            "conv_patch",
            name,
            "patch_embed",
            (pixels,),
            y,
            weights=weights,
            flops=(Term(2, (*rows, channels, *kernel, out)),),
            counts_as="conv",
            saves=(Save(pixels.storage),),
            backward=1,
            weight_gradient="gemm",
        )
        return y

    def short_conv(
        self, x: Tensor, name: str, kernel: Dim, *, role: Role, bias: bool = False, activated: bool = False
    ) -> Tensor:
        """Causal convolution over tokens, each channel on its own: [T, c] -> [T, c], weight c x 1 x K, FLOPs 2·T·c·K.

        Saves its input. `activated`: an activation follows, which kernels make again in backward (Dao-AILab,
        causal-conv1d); plain code keeps what goes into it, a sequence's T + K - 1 rows of a padded convolution
        (transformers, qwen3_next, causal_conv1d_fn). Its state is the last K columns of the input, in the layer's
        dtype (transformers keeps K; vLLM, mamba_utils.py, K-1). Its kernels make both gradients at once, so that none
        can be put off.
        """
        (channels,) = x.features
        before = Storage(x.rows, x.features, self.dtype)
        beyond = Storage(x.rows[:1], (channels, Dim(f"({kernel.name}-1)", kernel.size - 1)), self.dtype)
        plain = (before, beyond) if activated else ()
        w = self.weight(name, "weight", (channels,), (Dim("1", 1), kernel), role, flat=False)
        weights = (w, self.weight(name, "bias", (channels,), (), role)) if bias else (w,)
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        self._emit(
            "short_conv",
            name,
            "conv",
            (x,),
            y,
            temps=plain,
            weights=weights,
            flops=(Term(2, (*x.rows, channels, kernel)),),
            counts_as="conv",
            saves=(Save(x.storage), *(Save(s, ("eager",)) for s in plain)),
            caches=(Cache("conv", (channels, kernel), SEQUENCE, self.dtype),),
            backward=2,
        )
        return y

    def add_positions(self, x: Tensor, name: str, positions: Dim) -> Tensor:
        """Add a row of a learned position table to each token: weight positions x h. Saves the int64 positions."""
        ids = Storage(x.rows, (), "int64")
        w = self.weight(name, "weight", (positions,), x.features, "embedding")
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        saves = (Save(ids, needs="weight"),)
        self._emit("add_positions", name, "embedding", (x,), y, temps=(ids,), weights=(w,), saves=saves)
        return y

    def add_table(self, x: Tensor, name: str, shape: Dims, *, role: Role, site: str, taps: int = 0) -> Tensor:
        """Add a learned position table, resampled to the grid: saves nothing a token. Where that is a sum of `taps`
        weighted rows for each token, it saves their int64 numbers and fp32 weights [12·taps bytes a token]."""
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        each = (Dim("taps", taps),)
        kept = tuple(Storage(x.rows, each, dtype) for dtype in ("int64", "float32")) if taps else ()
        w = self.weight(name, "weight", shape, (), role, flat=False)
        saves = tuple(Save(s, needs="weight") for s in kept)
        self._emit("add_table", name, site, (x,), y, temps=kept, weights=(w,), saves=saves)
        return y

    def prepend(self, x: Tensor, name: str, rows: Dims, *, role: Role, site: str) -> Tensor:
        """A learned row before the others of each group, [T, h] -> [T + groups, h]: a bare parameter h of the open
        module (a class token, arXiv:2010.11929). Saves nothing."""
        y = Tensor(rows, x.features, Storage(rows, x.features, self.dtype))
        self._emit("prepend", name, site, (x,), y, weights=(self.weight("", name, x.features, (), role),))
        return y
