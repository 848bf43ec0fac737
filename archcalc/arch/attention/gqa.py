"""Multi-head and grouped-query attention."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from archcalc.arch.block import Block
from archcalc.arch.rope import RopeParameters
from archcalc.arch.rows import key_rows, pairs
from archcalc.errors import FieldError
from archcalc.section import About, Size
from archcalc.tape import ALL, Cache, Dim, Span, Tape, Tensor


class GQA(Block):
    """Grouped-query attention, with windows (Longformer, arXiv:2004.05150) and gates where a spec says so."""

    about = About(
        (
            "Grouped-query attention (arXiv:2305.13245): several query heads share one key-value head; equal head "
            "counts make it plain multi-head"
        ),
        kind="Which attention this is",
        num_attention_heads="Query heads",
        num_key_value_heads=(
            "Key-value heads, which are cached; divides `num_attention_heads`, and equals it in plain multi-head "
            "attention"
        ),
        head_dim="Features of a head; need not be hidden_size / num_attention_heads [elements]",
        attention_bias="Whether `q_proj`, `k_proj` and `v_proj` have biases",
        attention_out_bias="Whether `o_proj` has a bias",
        qk_norm="Norm of queries and keys: `per_head` (Qwen3), `full` over all heads at once (OLMo 2), null: none",
        sliding_window="Tokens that a token sees, itself the last; left out: all [tokens]",
        rope_parameters="The rotary embedding of this attention; left out: the backbone's",
        rotary_dim=(
            "Features of each head that turn, the first ones, an even number (GLM-4, Phi-3, MiniMax-M2); left out: "
            "all [elements]"
        ),
        output_gate=(
            "`elementwise`: a sigmoid for each feature, out of a `q_proj` twice as wide (Qwen3-Next). `per_head`: one "
            "for each head, by a `g_proj` (Step-3.7). Left out: none"
        ),
    )
    purposes: ClassVar[dict[str, str]] = {
        "q_proj": "Makes the queries of all heads.",
        "k_proj": "Makes the keys of the key-value heads, which are cached.",
        "v_proj": "Makes the values of the key-value heads, which are cached.",
        "g_proj": "Makes a gate for each head's output.",
        "q_norm": "Normalises the queries so that attention logits stay bounded.",
        "k_norm": "Normalises the keys so that attention logits stay bounded.",
        "core": "Scaled dot-product attention over all heads.",
        "o_proj": "Mixes the heads' outputs back into the hidden state.",
    }

    gated_purposes: ClassVar[dict[str, str]] = {
        "q_proj": "Makes the queries of all heads, and as many gates for what attention makes of them."
    }

    kind: Literal["gqa"]
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size
    attention_bias: bool
    attention_out_bias: bool
    qk_norm: Literal["per_head", "full"] | None
    sliding_window: Size | None = None
    rope_parameters: RopeParameters | None = None
    rotary_dim: Size | None = None
    output_gate: Literal["elementwise", "per_head"] | None = None

    @model_validator(mode="after")
    def _rotation_fits(self) -> Self:
        turned = self.rotary_dim
        if turned is not None and turned % 2:
            raise FieldError(f"rotary_dim {turned} is odd: features turn in pairs", "rotary_dim")
        if turned is not None and turned > self.head_dim:
            raise FieldError(f"rotary_dim {turned} is more than head_dim {self.head_dim}", "rotary_dim", "head_dim")
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise FieldError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads"
                f" {self.num_key_value_heads}",
                "num_attention_heads",
                "num_key_value_heads",
            )
        return self

    def turning(self, rotates: bool) -> str | None:
        """By its own embedding or the backbone's: `rotary_dim` features, or all of a head."""
        if self.rope_parameters is not None:
            rotates = self.rope_parameters.rope_theta is not None
        if not rotates:
            return None
        return "head_dim" if self.rotary_dim is None else "rotary_dim"

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, seq], features [hidden]; returns the same shape."""
        heads, kv_heads = self.dim("num_attention_heads", "heads"), self.dim("num_key_value_heads", "kv_heads")
        dim = self.dim("head_dim")
        bias = self.attention_bias
        q, gate = self._queries(tape, x, heads, dim)
        query = q.storage
        k = tape.linear(x, "k_proj", (kv_heads, dim), role="attention", site="qkv", bias=bias)
        v = tape.linear(x, "v_proj", (kv_heads, dim), role="attention", site="qkv", bias=bias)
        fused = (query, k.storage)  # Megatron-LM's linear_qkv writes them and v side by side
        q = self._norm(tape, q, "q_norm", heads, dim)
        k = self._norm(tape, k, "k_norm", kv_heads, dim)
        turning = self.turning(tape.rotary)
        if turning is not None:
            turned = self.dim(turning)
            q = tape.rope(q, "q_rope", (heads, dim), turned=turned)
            k = tape.rope(k, "k_rope", (kv_heads, dim), turned=turned)
        keys = key_rows(tape)
        span = ALL if self.sliding_window is None else Span("window", self.sliding_window, "sliding_window")
        out = tape.attention(
            q,
            k.view(k.features, keys),
            v.view(v.features, keys),
            "core",
            heads=heads,
            qk_dim=dim,
            v_dim=dim,
            pairs=pairs(tape, span),
            span=span,
            caches=(Cache("key", (kv_heads, dim), span), Cache("value", (kv_heads, dim), span)),
            bases=fused if gate is None else (),
        )
        if gate is not None:
            out = tape.sigmoid_gate(out, gate, "gate", site="attn_out")
        return tape.linear(out, "o_proj", x.features, role="attention", site="attn_out", bias=self.attention_out_bias)

    def _queries(self, tape: Tape, x: Tensor, heads: Dim, dim: Dim) -> tuple[Tensor, Tensor | None]:
        """Queries [batch, seq, heads, head_dim] and the logits of the output's gate, if it has one: views of one
        projection, or one for each head."""
        bias = self.attention_bias
        if self.output_gate != "elementwise":
            q = tape.linear(x, "q_proj", (heads, dim), role="attention", site="qkv", bias=bias)
            own = self.output_gate is not None
            return q, tape.linear(x, "g_proj", (heads,), role="attention", site="qkv") if own else None
        with tape.scope("", purposes=self.gated_purposes):
            both = tape.linear(x, "q_proj", (heads, 2 * dim), role="attention", site="qkv", bias=bias)
        q = both.view((heads, dim))
        if self.qk_norm == "full":  # over all heads at once: they have to stand side by side
            q = tape.copy((both,), "q", (heads, dim), site="qk_norm")
        return q, both.view((heads, dim))

    def _norm(self, tape: Tape, x: Tensor, name: str, heads: Dim, dim: Dim) -> Tensor:
        """A norm of the layers' kind over each head (Qwen3) or over all heads at once (OLMo 2), or none."""
        if self.qk_norm is None:
            return x
        if self.qk_norm == "full":
            return tape.norm(x, name, role="attention", site="qk_norm")
        y = tape.norm(x.view((dim,), (*x.rows, heads)), name, role="attention", site="qk_norm")
        return y.view(x.features, x.rows)
