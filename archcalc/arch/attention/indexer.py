"""The lightning indexer of DeepSeek's sparse attention: cheap scores that choose the keys that attention sees."""

from typing import ClassVar

from archcalc.arch.block import Block
from archcalc.arch.rows import key_rows, pairs
from archcalc.section import About, Size
from archcalc.tape import Cache, Dim, Span, Tape, Tensor


class Indexer(Block):
    """Scores every key by a few small heads and leaves the best `index_topk` to attention.

    DeepSeek-V3.2, arXiv:2512.02556, section 2.1; names as in its public modeling code. GLM-5's is the same but for the
    pairs of features that turn, on which no size depends. Its key is cached beside the
    latent, one for all heads. Every device has all of it (vLLM, deepseek_v2.py, Indexer: replicated linears). The
    language model's loss has no gradient for the choice.
    """

    about = About(
        (
            "The lightning indexer of DeepSeek's sparse attention (arXiv:2512.02556): scores every key by a few small "
            "heads and leaves the best to attention"
        ),
        index_n_heads="Heads that score",
        index_head_dim="Features of an index query and of the one index key of a token, which is cached [elements]",
        index_topk="Keys that attention sees [tokens]",
    )
    purposes: ClassVar[dict[str, str]] = {
        "wq_b": "Makes the index queries from the query latent.",
        "wk": "Makes the one index key of a token, which is cached.",
        "k_norm": "Normalises the index key.",
        "weights_proj": "Weighs the index heads for each token.",
        "core": "Scores every key for each token, and keeps the best.",
    }

    index_n_heads: Size
    index_head_dim: Size
    index_topk: Size

    @property
    def span(self) -> Span:
        """What attention sees of the sequence."""
        return Span("top", self.index_topk, "index_topk")

    def choose(self, tape: Tape, x: Tensor, q_latent: Tensor, turned: Dim) -> Tensor:
        """x: rows [batch, seq], features [hidden]; q_latent: features [q_lora_rank]; so many of a head are `turned`.
        Returns the chosen keys of each row, int32 [index_topk], or as many as there are."""
        best = Dim("index_topk", min(self.index_topk, key_rows(tape)[1].size))
        heads, dim = self.dim("index_n_heads"), self.dim("index_head_dim")
        with tape.scope("indexer", self.about.sentence, self.purposes), tape.no_grad():
            q = tape.linear(q_latent, "wq_b", (heads, dim), role="attention", site="index")
            k = tape.linear(x, "wk", (dim,), role="attention", site="index")
            k = tape.layer_norm(k, "k_norm", role="attention", site="index")
            weights = tape.linear(x, "weights_proj", (heads,), role="attention", site="index")
            if tape.rotary:
                q = tape.rope(q, "q_rope", (heads, dim), turned=turned, site="index")
                k = tape.rope(k, "k_rope", (dim,), turned=turned, site="index")
            return tape.index_scores(
                q,
                k.view((dim,), key_rows(tape)),
                weights,
                "core",
                heads=heads,
                dim=dim,
                top_k=best,
                pairs=pairs(tape),
                caches=(Cache("index", (dim,)),),
            )
