"""Operations that work row by row or element by element: norms, activations, copies, the loss. None costs FLOPs.

Legend: T rows (tokens), f ffn, V vocabulary.
"""

from __future__ import annotations

from archcalc.tape.dims import Dim, Dims
from archcalc.tape.op import Save, Variant
from archcalc.tape.recorder import Recorder
from archcalc.tape.values import NormKind, Role, Storage, Tensor


def in_fp32(x: Tensor) -> Storage:
    """The fp32 copy that eager code makes of a tensor: none where it is fp32 already."""
    return x.storage if x.dtype == "float32" else Storage(x.rows, x.features, "float32")


HIDDEN_DROPOUT: tuple[Variant, ...] = ("hidden_dropout",)

SITU_KEEPS = 6
"""fp32 tensors of its width that eager SiTU-GLU keeps."""


class PointwiseOperations(Recorder):
    """Norms, activations, copies, loss."""

    def rms_norm(self, x: Tensor, name: str, *, role: Role, site: str, zero_centered: bool = False) -> Tensor:
        """RMSNorm over the features (arXiv:1910.07467). Fused kernels save x and rstd [4·T bytes]; eager code saves an
        fp32 copy, the normalised bf16 copy and rstd. With `zero_centered` it multiplies by 1 + weight, in fp32 up to
        the end (transformers, Gemma3RMSNorm): the normalised copy is fp32 then, and 1 + weight a tensor of its own."""
        w = self.weight(name, "weight", x.features, (), role)
        rstd = Storage(x.rows, (), "float32")
        wide = in_fp32(x)
        unit = Storage(x.rows, x.features, "float32" if zero_centered else self.dtype)
        gain = (Storage((), x.features, "float32"),) if zero_centered else ()
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        eager = tuple(Save(s, ("eager",), "weight" if s is unit else "input") for s in (wide, unit, *gain))
        saves = (Save(x.storage, ("fused",)), Save(rstd, ("fused",)), Save(rstd, ("eager",), "input"), *eager)
        self._emit("rms_norm", name, site, (x,), y, temps=(rstd, wide, unit, *gain), weights=(w,), saves=saves)
        return y

    def layer_norm(
        self, x: Tensor, name: str, *, role: Role, site: str, weight: bool = True, bias: bool = True
    ) -> Tensor:
        """LayerNorm (arXiv:1607.06450) with weight and bias, or without. Saves x and fp32 mean and rstd [8·T bytes]."""
        suffixes = [suffix for suffix, there in (("weight", weight), ("bias", bias)) if there]
        weights = tuple(self.weight(name, suffix, x.features, (), role) for suffix in suffixes)
        stats = (Storage(x.rows, (), "float32"), Storage(x.rows, (), "float32"))
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        saves = (Save(x.storage), *(Save(s) for s in stats))
        self._emit("layer_norm", name, site, (x,), y, temps=stats, weights=weights, saves=saves)
        return y

    def norm(self, x: Tensor, name: str, *, kind: NormKind | None = None, role: Role, site: str) -> Tensor:
        """The norm of a kind, by default of the kind that the model's layers have."""
        kind = kind or self.norm_kind
        if kind in ("rms", "rms_zero_centered"):
            return self.rms_norm(x, name, role=role, site=site, zero_centered=kind == "rms_zero_centered")
        return self.layer_norm(x, name, role=role, site=site, weight=kind != "none", bias=kind == "layer")

    def glu(
        self,
        gate_up: Tensor,
        name: str,
        out: Dim,
        *,
        site: str,
        act: str = "silu",
        probs: Dims | None = None,
        between: int = 0,
    ) -> Tensor:
        """Gated activation act(gate)·up (arXiv:2002.05202). Saves gate and up; eager code also act(gate), and what is
        made `between` the operations of that.

        SiTU-GLU, b·tanh(gate/b)·sigmoid(gate) · c·tanh(up/c) in fp32 (Kimi K3, modeling_kimi_linear.py, `SituAndMul`):
        eager code keeps neither gate nor up but `SITU_KEEPS` fp32 tensors: both tanh, sigmoid, b·tanh, its product with
        sigmoid, c·tanh. `probs`: see `_scaled`.
        """
        rows = gate_up.rows
        y = Tensor(rows, (out,), Storage(rows, (out,), self.dtype))
        if act == "situ":
            made = tuple(Storage(rows, (out,), "float32") for _ in range(SITU_KEEPS))
            operand: tuple[Save, ...] = (Save(gate_up.storage, ("fused",)),)
        else:
            made = tuple(Storage(rows, (out,), self.dtype) for _ in range(1 + between))
            operand = (Save(gate_up.storage),)
        self._scaled("glu", name, site, gate_up, y, (*operand, *(Save(s, ("eager",)) for s in made)), made, probs)
        return y

    def activation(
        self, x: Tensor, name: str, *, site: str, act: str = "", probs: Dims | None = None, between: int = 0
    ) -> Tensor:
        """Elementwise activation (GELU, arXiv:1606.08415). Saves its input; no FLOPs counted.

        relu² (arXiv:2109.08668) too: eager code keeps relu's output in place of the input, which is as large. Eager
        code of several operations also keeps the results `between` them (the sigmoid in x·sigmoid(1.702·x)).
        `probs`: see `_scaled`; of ungated activations relu² alone has a kernel that multiplies them in (Megatron-LM,
        core/fusions/fused_weighted_squared_relu.py; core/transformer/moe/experts.py, bias_act_func).
        """
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        inner = tuple(Storage(x.rows, x.features, self.dtype) for _ in range(between))
        saves = (Save(x.storage), *(Save(s, ("eager",)) for s in inner))
        self._scaled("activation", name, site, x, y, saves, inner, probs, apart=act != "relu2")
        return y

    def _scaled(
        self,
        kind: str,
        name: str,
        site: str,
        x: Tensor,
        y: Tensor,
        saves: tuple[Save, ...],
        temps: tuple[Storage, ...],
        probs: Dims | None,
        *,
        apart: bool = False,
    ) -> None:
        """An activation that routing probabilities of rows `probs` may multiply (variant `probs_act`): fused kernels
        save them in fp32, eager code in bf16 beside the unscaled product, which fused ones keep too where no kernel
        does both (`apart`)."""
        if probs is not None:
            unscaled = Storage(y.rows, y.features, self.dtype)
            temps, saves = (*temps, unscaled), (*saves, Save(unscaled, ("eager", "probs_act")))
            saves = (*saves, Save(unscaled, ("fused", "probs_act"))) if apart else saves
        self._emit(kind, name, site, (x,), y, temps=temps, saves=saves)
        if probs is not None:  # they come from outside any region that recomputes the activation: an operation apart
            kept = (
                Save(Storage(probs, (), "float32"), ("fused", "probs_act")),
                Save(Storage(probs, (), self.dtype), ("eager", "probs_act")),
            )
            self._emit("route_probs", name, "combine", (), None, saves=kept)

    def scale_rows(self, x: Tensor, logits: Tensor, name: str, *, site: str) -> Tensor:
        """sigmoid(logits)·x with one logit a row: [T, h], [T, 1] -> [T, h]. Saves x and the sigmoid, not the logits, in
        transformers (qwen2_moe) as in Megatron-LM (core/transformer/moe/shared_experts.py)."""
        score = Storage(x.rows, logits.features, self.dtype)
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        self._emit("scale_rows", name, site, (x, logits), y, temps=(score,), saves=(Save(x.storage), Save(score)))
        return y

    def rope(
        self,
        x: Tensor,
        name: str,
        features: Dims,
        *,
        turned: Dim,
        tensors: int = 1,
        site: str = "rope",
    ) -> Tensor:
        """Rotate (arXiv:2104.09864) into a new storage. Saves only cos and sin, which are tables, not activations; but
        where Megatron-LM's rotation is not fused each tensor that turns makes both anew, in the layer's dtype and
        for each position [4·s·turned bytes] (core/models/common/embeddings/rope_utils.py,
        `_apply_rotary_pos_emb_bshd`): the products with them keep them and nothing else.

        `turned`: features of a head that turn; the rest is copied beside them. `tensors`: how many turn here, where
        more do than this one."""
        y = Tensor(x.rows, features, Storage(x.rows, features, self.dtype))
        everywhere = (Dim("1", 1, "kv_heads"), turned)  # on every device that has a head
        tables = tuple(Storage(x.rows[-1:], everywhere, self.dtype) for _ in range(2 * tensors))
        saves = tuple(Save(table, ("fused", "rope_unfused")) for table in tables)
        self._emit("rope", name, site, (x,), y, temps=tables, saves=saves, turned=turned.size)
        return y

    def sigmoid_gate(self, x: Tensor, gate: Tensor, name: str, *, site: str) -> Tensor:
        """x·sigmoid(gate), the gate of x's features or of its first ones (arXiv:2505.06708). Saves x; fused kernels the
        gate's logits (Megatron-LM, transformer/attention.py, _apply_output_gate), eager code their sigmoid."""
        sigmoid = Storage(x.rows, gate.features, self.dtype)
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        saves = (Save(x.storage), Save(gate.storage, ("fused",)), Save(sigmoid, ("eager",)))
        self._emit("sigmoid_gate", name, site, (x, gate), y, temps=(sigmoid,), saves=saves)
        return y

    def copy(
        self, inputs: tuple[Tensor, ...], name: str, features: Dims, *, site: str, rows: Dims | None = None
    ) -> Tensor:
        """A new storage made from others (concatenate, mean, make contiguous). Saves nothing."""
        rows = inputs[0].rows if rows is None else rows
        y = Tensor(rows, features, Storage(rows, features, self.dtype))
        self._emit("copy", name, site, inputs, y)
        return y

    def reorder(self, x: Tensor, name: str, entries: Dims, *, site: str) -> Tensor:
        """The rows in another order, some at a time: [T, h] -> [T, h]. Saves the int64 order of the `entries`."""
        order = Storage(entries, (), "int64")
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        self._emit("reorder", name, site, (x,), y, temps=(order,), saves=(Save(order),))
        return y

    def add(self, x: Tensor, y: Tensor, name: str, *, site: str, drops: bool = False) -> Tensor:
        """Sum, such as a residual's. Saves nothing; both terms share the gradient of the result.

        `drops`: hidden dropout may fall on y first (arXiv:1706.03762, section 5.4). Saves its mask, a byte an element,
        and nothing else (Megatron-LM, core/fusions/fused_bias_dropout.py, `bias_dropout_add_fused_train`; torch,
        `native_dropout`).
        """
        out = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        mask = Storage(x.rows, x.features, "bool")
        saves = (Save(mask, HIDDEN_DROPOUT),) if drops else ()
        masks = HIDDEN_DROPOUT if drops else ()
        temps = (mask,) if drops else ()
        self._emit("add", name, site, (x, y), out, temps=temps, saves=saves, sums=True, masks=masks)
        return out

    def dropout(self, x: Tensor, name: str, *, site: str) -> None:
        """Hidden dropout on what was embedded, in place of it. Saves its mask [T·h bytes] (Megatron-LM,
        core/models/common/embeddings/language_model_embedding.py, `LanguageModelEmbedding.forward`)."""
        mask = Storage(x.rows, x.features, "bool")
        self._emit("dropout", name, site, (), None, temps=(mask,), saves=(Save(mask, HIDDEN_DROPOUT),))

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
