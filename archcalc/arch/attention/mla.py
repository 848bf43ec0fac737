"""Multi-head latent attention."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from archcalc.arch.attention.indexer import Indexer
from archcalc.arch.block import Block
from archcalc.arch.rows import key_rows, pairs
from archcalc.errors import FieldError
from archcalc.section import About, Size
from archcalc.tape import ALL, Cache, Dim, Span, Tape, Tensor


def absorbed(tape: Tape) -> bool:
    """Whether the up-projections are folded into queries and outputs: as the workload's choice `mla` says
    (`expanded` or `absorbed`), by default in decode alone (as vLLM does). The tape is told which."""
    choice = tape.workload.choice("mla")
    folded = choice == "absorbed" or (choice == "auto" and tape.workload.phase == "decode")
    tape.remark(f"Latent attention runs {'absorbed' if folded else 'expanded'}.")
    return folded


class MLA(Block):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    With `index_topk` it scores and caches no keys of its own. Without rotation the rotary features stay, in queries,
    keys and the cache (Kimi Linear).
    """

    about = About(
        (
            "Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values are rebuilt from one small "
            "latent a token, which is all that is cached"
        ),
        kind="Which attention this is",
        num_attention_heads="Query heads",
        q_lora_rank="Width of the query latent; null: queries come straight from the hidden state [elements]",
        kv_lora_rank="Width of the latent of keys and values, which is cached [elements]",
        qk_nope_head_dim="Features of a head's query and key that do not rotate [elements]",
        qk_rope_head_dim=(
            "Features of a head's query and key that rotate; the key's are one for all heads, and cached [elements]"
        ),
        v_head_dim="Features of a head's value [elements]",
        attention_bias="Whether `q_a_proj`, `kv_a_proj_with_mqa` and `o_proj` have biases",
        indexer="Chooses the keys that attention sees (DeepSeek-V3.2); left out: it sees all",
        index_topk=(
            "Keys that attention sees, chosen by an earlier layer's indexer (GLM-5, arXiv:2603.12201); not beside an "
            "`indexer` [tokens]"
        ),
        output_gate=(
            "`elementwise`: a sigmoid for each feature of the heads' outputs, by a `g_proj` (Kimi K3); left out: none"
        ),
    )
    purposes: ClassVar[dict[str, str]] = {
        "q_a_proj": "Compresses the hidden state to the low-rank query latent.",
        "q_a_layernorm": "Keeps the query latent at unit scale before it is expanded.",
        "q_b_proj": "Expands the query latent to all heads, position-free and rotary parts side by side.",
        "q_proj": "Makes the queries of all heads straight from the hidden state (no low rank).",
        "kv_a_proj_with_mqa": (
            "Compresses the hidden state to the KV latent and one rotary key that all heads share: what the cache "
            "holds."
        ),
        "kv_a_layernorm": "Keeps the KV latent at unit scale before it is expanded.",
        "kv_b_proj": "Expands the KV latent to every head's position-free key and value.",
        "g_proj": "Makes a gate for each feature of the heads' outputs.",
        "core": "Scaled dot-product attention over all heads.",
        "o_proj": "Mixes the heads' outputs back into the hidden state.",
    }

    kind: Literal["mla"]
    num_attention_heads: Size
    q_lora_rank: Size | None
    kv_lora_rank: Size
    qk_nope_head_dim: Size
    qk_rope_head_dim: Size
    v_head_dim: Size
    attention_bias: bool
    indexer: Indexer | None = None
    index_topk: Size | None = None
    output_gate: Literal["elementwise"] | None = None

    @model_validator(mode="after")
    def _indexer_has_a_latent(self) -> Self:
        if self.indexer is not None and self.q_lora_rank is None:
            raise FieldError(
                "an indexer makes its queries from the query latent, and q_lora_rank is null", "indexer", "q_lora_rank"
            )
        if self.indexer is not None and self.indexer.index_head_dim < self.qk_rope_head_dim:
            raise FieldError(
                f"index_head_dim {self.indexer.index_head_dim} is less than qk_rope_head_dim {self.qk_rope_head_dim}:"
                " so many features of the index key turn",
                ("indexer", "index_head_dim"),
                "qk_rope_head_dim",
            )
        if self.indexer is not None and self.index_topk is not None:
            raise FieldError(
                "index_topk beside an indexer: it stands in a layer that takes another one's choice",
                "index_topk",
                "indexer",
            )
        return self

    def turning(self, rotates: bool) -> str | None:
        """The features that are there for it; without an embedding they stay, and turn not."""
        return "qk_rope_head_dim" if rotates else None

    @property
    def span(self) -> Span:
        """What attention sees of the sequence."""
        if self.indexer is not None:
            return self.indexer.span
        return ALL if self.index_topk is None else Span("top", self.index_topk, "index_topk")

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, seq], features [hidden]; returns the same shape."""
        heads = self.dim("num_attention_heads", "heads")
        nope, rope = self.dim("qk_nope_head_dim"), self.dim("qk_rope_head_dim")
        latent, v_dim = self.dim("kv_lora_rank"), self.dim("v_head_dim")

        q, choice = self._queries(tape, x, heads, nope + rope)
        if self.index_topk is not None and tape.chosen is not None:
            tape.beside(tape.chosen)
        if choice is not None and tape.shares_choice:
            tape.hand_on(choice)
        kv = tape.linear(
            x, "kv_a_proj_with_mqa", (latent + rope,), role="attention", site="kv_down", bias=self.attention_bias
        )
        kv_latent = tape.rms_norm(kv.view((latent,)), "kv_a_layernorm", role="attention", site="kv_norm")
        caches = (Cache("latent", (latent,)), Cache("rope", (rope,)))

        if absorbed(tape):
            out = self._absorbed(tape, q, kv_latent, heads, choice, caches)
        else:
            keys = key_rows(tape)
            up = tape.linear(
                kv_latent.view((latent,), keys), "kv_b_proj", (heads, nope + v_dim), role="attention", site="kv_up"
            )
            if tape.rotary:
                q = tape.rope(q, "q_rope", (heads, nope + rope), turned=rope, tensors=2, site="q_up")  # and the key
            k = tape.copy((up, kv), "k", (heads, nope + rope), site="kv_up", rows=keys)
            v = tape.copy((up,), "v", (heads, v_dim), site="kv_up", rows=keys)
            out = tape.attention(
                q,
                k,
                v,
                "core",
                heads=heads,
                qk_dim=nope + rope,
                v_dim=v_dim,
                pairs=pairs(tape, self.span),
                span=self.span,
                choice=choice,
                caches=caches,
            )
        if self.output_gate is not None:
            gate = tape.linear(x, "g_proj", (heads, v_dim), role="attention", site="qkv")
            out = tape.sigmoid_gate(out, gate, "gate", site="attn_out")
        return tape.linear(out, "o_proj", x.features, role="attention", site="attn_out", bias=self.attention_bias)

    def _queries(self, tape: Tape, x: Tensor, heads: Dim, qk_dim: Dim) -> tuple[Tensor, Tensor | None]:
        """Queries of all heads, [batch, seq, heads, qk_dim], and the keys that an indexer chose for them."""
        if self.q_lora_rank is None:
            return tape.linear(x, "q_proj", (heads, qk_dim), role="attention", site="q_up"), None
        rank = self.dim("q_lora_rank")
        latent = tape.linear(x, "q_a_proj", (rank,), role="attention", site="q_down", bias=self.attention_bias)
        latent = tape.rms_norm(latent, "q_a_layernorm", role="attention", site="q_norm")
        rope = self.dim("qk_rope_head_dim")
        choice = None if self.indexer is None else self.indexer.choose(tape, x, latent, rope)
        return tape.linear(latent, "q_b_proj", (heads, qk_dim), role="attention", site="q_up"), choice

    def _absorbed(
        self, tape: Tape, q: Tensor, kv_latent: Tensor, heads: Dim, choice: Tensor | None, caches: tuple[Cache, ...]
    ) -> Tensor:
        """Attention in the latent space: kv_b_proj's key half is folded into q, its value half into the output.

        Every head scores kv_lora_rank + qk_rope_head_dim features and sums kv_lora_rank ones
        (DeepSeek-V2, arXiv:2405.04434, section 2.1.2).
        """
        nope, rope = self.dim("qk_nope_head_dim"), self.dim("qk_rope_head_dim")
        latent, v_dim = self.dim("kv_lora_rank"), self.dim("v_head_dim")
        kv_b = tape.weight("kv_b_proj", "weight", (heads, nope + v_dim), (latent,), "attention")
        q = tape.per_head_linear(q, "kv_b_proj", kv_b, heads, nope, latent, site="q_up")
        q = tape.copy((q,), "q_latent", (heads, latent + rope), site="q_up")
        keys = key_rows(tape)
        k = kv_latent.view((latent + rope,), keys)
        out = tape.attention(
            q,
            k,
            kv_latent.view((latent,), keys),
            "core",
            heads=heads,
            qk_dim=latent + rope,
            v_dim=latent,
            pairs=pairs(tape, self.span),
            span=self.span,
            choice=choice,
            caches=caches,
        )
        return tape.per_head_linear(out, "kv_b_proj", kv_b, heads, latent, v_dim, site="kv_up")
