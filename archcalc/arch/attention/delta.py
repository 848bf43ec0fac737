"""Linear attention by the gated delta rule: one state a sequence, whatever its length, in place of keys and values."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from archcalc.arch.block import Activation, Block
from archcalc.errors import FieldError
from archcalc.section import About, Size
from archcalc.tape import Dim, Storage, Tape, Tensor

CHUNK = Dim("64", 64)
"""Tokens that the kernels take at once (fla: `chunk_size`): a matrix of so many columns a head is kept."""

PURPOSES = {
    "A_log": "How fast each state forgets, as a logarithm.",
    "dt_bias": "Shifts the decays that are made from the token.",
    "decay": "Makes from the token how much the state forgets before it is written.",
    "beta": "Makes from the token how much of what the state holds for its key is overwritten.",
    "q_unit": "Brings the queries to unit length.",
    "k_unit": "Brings the keys to unit length, so that a write replaces what the state holds for its key.",
    "core": "Decays the state, corrects what it holds for each token's key, and reads it with the query.",
}


def _product(a: Dim, b: Dim) -> Dim:
    """Features of all heads side by side, divided with the heads."""
    return Dim(f"{a.name}·{b.name}", a.size * b.size, "heads")


def _recurrence(
    tape: Tape,
    qkv: tuple[Tensor, Tensor, Tensor],
    decay: Tensor,
    beta: Tensor,
    *,
    matrices: int,
) -> Tensor:
    """The scan over queries and keys [n_k, d_k] and values [n_v, d_v] of each token: [batch, seq, n_v, d_v].

    Its kernel keeps so many `matrices` of a chunk's columns a head and token, and makes the states of each chunk again
    in backward (fla, ops/gated_delta_rule/chunk.py, ops/kda/chunk.py without `disable_recompute`).
    """
    q, k, v = qkv
    q, k = tape.l2_norm(q, "q_unit", site="scan"), tape.l2_norm(k, "k_unit", site="scan")
    heads, value_dim = v.features
    keeps = tuple(Storage(v.rows, (heads, CHUNK), tape.dtype) for _ in range(matrices))
    beta = tape.sigmoid(beta, "beta", site="scan")
    return tape.scan(
        (q, k, v, beta),
        "core",
        heads=heads,
        key_dim=k.features[-1],
        value_dim=value_dim,
        cell_flops=6,
        beside=(decay,),
        keeps=keeps,
    )


def _gated(tape: Tape, x: Tensor, gate: Tensor, name: str, *, sigmoid: bool) -> Tensor:
    """A norm over each head's features, times the gate's activation."""
    heads, dim = x.features
    rows = (*x.rows, heads)
    y = tape.gated_rms_norm(
        x.view((dim,), rows), gate.view((dim,), rows), name, sigmoid=sigmoid, role="attention", site="scan"
    )
    return y.view(x.features, x.rows)


class GatedDeltaNet(Block):
    """Gated DeltaNet (arXiv:2412.06464). Several value heads share one query and key head."""

    about = About(
        (
            "Gated DeltaNet (arXiv:2412.06464): each head keeps one matrix of what it has seen, decays it, and "
            "corrects it token by token"
        ),
        kind="Which attention this is",
        linear_num_key_heads="Query and key heads; each serves as many value heads",
        linear_num_value_heads="Value heads, each with a state; a multiple of `linear_num_key_heads`",
        linear_key_head_dim="Features of a key, rows of a state [elements]",
        linear_value_head_dim="Features of a value, columns of a state [elements]",
        linear_conv_kernel_dim="Width of the short convolution, the token itself included [tokens]",
        hidden_act="Activation behind the convolution",
        in_proj=(
            "Modules of the checkpoint: `fused`, in_proj_qkvz and in_proj_ba (Qwen3-Next); `split`, in_proj_qkv, "
            "in_proj_z, in_proj_b and in_proj_a (Qwen3.5)"
        ),
    )
    purposes: ClassVar[dict[str, str]] = PURPOSES | {
        "in_proj_qkvz": "Makes queries, keys, values and the output's gate, key head by key head.",
        "in_proj_ba": "Makes each value head's write strength and the raw decay.",
        "in_proj_qkv": "Makes queries, keys and values.",
        "in_proj_z": "Makes the gate of the output.",
        "in_proj_b": "Makes each value head's write strength.",
        "in_proj_a": "Makes each value head's raw decay.",
        "conv1d": "Mixes queries, keys and values with those of the few tokens before, channel by channel.",
        "norm": "Normalises each head's output and gates it.",
        "out_proj": "Mixes the heads' outputs back into the hidden state.",
    }

    kind: Literal["gated_deltanet"]
    linear_num_key_heads: Size
    linear_num_value_heads: Size
    linear_key_head_dim: Size
    linear_value_head_dim: Size
    linear_conv_kernel_dim: Size
    hidden_act: Activation
    in_proj: Literal["fused", "split"]

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.linear_num_value_heads % self.linear_num_key_heads:
            raise FieldError(
                f"linear_num_value_heads {self.linear_num_value_heads} is no multiple of linear_num_key_heads"
                f" {self.linear_num_key_heads}",
                "linear_num_value_heads",
                "linear_num_key_heads",
            )
        return self

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, seq], features [hidden]; returns the same shape."""
        heads, dim = self._values
        key_heads, key_dim = self._keys
        keys, values = 2 * _product(key_heads, key_dim), _product(heads, dim)
        mixed, z, b, a = self._inputs(tape, x, (keys + values).on("heads"), (keys + 2 * values).on("heads"))
        mixed = tape.short_conv(mixed, "conv1d", self.dim("linear_conv_kernel_dim"), role="attention", activated=True)
        q = k = mixed.view((key_heads, key_dim))
        v = tape.copy((mixed,), "v", (heads, dim), site="conv")
        decay = tape.decay(a, "decay", (heads,), in_scan=False, site="scan")
        out = _recurrence(tape, (q, k, v), decay, b, matrices=1)
        out = _gated(tape, out, z, "norm", sigmoid=False)
        return tape.linear(out, "out_proj", x.features, role="attention", site="attn_out")

    @property
    def _keys(self) -> tuple[Dim, Dim]:
        return self.dim("linear_num_key_heads", "heads"), self.dim("linear_key_head_dim")

    @property
    def _values(self) -> tuple[Dim, Dim]:
        return self.dim("linear_num_value_heads", "heads"), self.dim("linear_value_head_dim")

    def _inputs(self, tape: Tape, x: Tensor, channels: Dim, all_four: Dim) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is convolved [channels], the output's gate [n_v, d_v], write strengths and raw decays [n_v]."""
        heads, dim = self._values

        def linear(name: str, *out: Dim) -> Tensor:
            return tape.linear(x, name, out, role="attention", site="qkv")

        if self.in_proj == "split":
            mixed, z = linear("in_proj_qkv", channels), linear("in_proj_z", heads, dim)
            return mixed, z, linear("in_proj_b", heads), linear("in_proj_a", heads)
        four, two = linear("in_proj_qkvz", all_four), linear("in_proj_ba", 2 * heads)
        mixed = tape.copy((four,), "qkv", (channels,), site="qkv")
        z = tape.copy((four,), "z", (heads, dim), site="qkv")
        return mixed, z, two.view((heads,)), tape.copy((two,), "a", (heads,), site="qkv")


class KDA(Block):
    """Kimi Delta Attention (Kimi Linear, arXiv:2510.26692). Names as in its public checkpoint."""

    about = About(
        (
            "Kimi Delta Attention (arXiv:2510.26692): the gated delta rule with a decay of its own for every feature "
            "of a key"
        ),
        kind="Which attention this is",
        num_heads="Heads, each with a state",
        head_dim="Features of a query, key and value: a state has head_dim x head_dim [elements]",
        short_conv_kernel_size=(
            "Width of the short convolutions of queries, keys and values, the token itself included [tokens]"
        ),
        use_full_rank_gate=(
            "Whether the output's gate is one `g_proj` (Kimi K3), not `g_a_proj` and `g_b_proj` (Kimi-Linear)"
        ),
        a_log_size="Elements of A_log: `num_heads` (Kimi-Linear) or `head_dim` (Kimi K3) [elements]",
    )
    purposes: ClassVar[dict[str, str]] = PURPOSES | {
        "q_proj": "Makes the queries of all heads.",
        "k_proj": "Makes the keys of all heads.",
        "v_proj": "Makes the values of all heads.",
        "q_conv1d": "Mixes the queries with those of the few tokens before, channel by channel.",
        "k_conv1d": "Mixes the keys with those of the few tokens before, channel by channel.",
        "v_conv1d": "Mixes the values with those of the few tokens before, channel by channel.",
        "f_a_proj": "Compresses the hidden state to the low rank that the decays are made from.",
        "f_b_proj": "Expands it to a raw decay for every feature of every key.",
        "b_proj": "Makes each head's write strength.",
        "g_a_proj": "Compresses the hidden state to the low rank that the output's gate is made from.",
        "g_b_proj": "Expands it to the gate of the output.",
        "g_proj": "Makes the gate of the output.",
        "o_norm": "Normalises each head's output and gates it.",
        "o_proj": "Mixes the heads' outputs back into the hidden state.",
    }

    kind: Literal["kda"]
    num_heads: Size
    head_dim: Size
    short_conv_kernel_size: Size
    use_full_rank_gate: bool
    a_log_size: Size

    @model_validator(mode="after")
    def _decays_fit(self) -> Self:
        if self.a_log_size not in (self.num_heads, self.head_dim):
            raise FieldError(
                f"a_log_size {self.a_log_size} is neither num_heads {self.num_heads} nor head_dim {self.head_dim}",
                "a_log_size",
                "num_heads",
                "head_dim",
            )
        return self

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, seq], features [hidden]; returns the same shape."""
        heads, dim = self.dim("num_heads", "heads"), self.dim("head_dim")
        q, k, v = (self._convolved(tape, x, name, heads, dim) for name in "qkv")
        raw = self._low_rank(tape, x, "f", heads, dim)
        a_log = self.dim("a_log_size", "heads" if self.a_log_size == self.num_heads else None)
        decay = tape.decay(raw, "decay", (a_log,), in_scan=True, site="scan")
        beta = tape.linear(x, "b_proj", (heads,), role="attention", site="qkv")
        out = _recurrence(tape, (q, k, v), decay, beta, matrices=2)
        if self.use_full_rank_gate:
            gate = tape.linear(x, "g_proj", (heads, dim), role="attention", site="qkv")
        else:
            gate = self._low_rank(tape, x, "g", heads, dim)
        out = _gated(tape, out, gate, "o_norm", sigmoid=True)
        return tape.linear(out, "o_proj", x.features, role="attention", site="attn_out")

    def _convolved(self, tape: Tape, x: Tensor, name: str, heads: Dim, dim: Dim) -> Tensor:
        """Queries, keys or values of all heads, [batch, seq, heads, head_dim]."""
        channels = _product(heads, dim)
        made = tape.linear(x, f"{name}_proj", (channels,), role="attention", site="qkv")
        kernel = self.dim("short_conv_kernel_size")
        made = tape.short_conv(made, f"{name}_conv1d", kernel, role="attention", activated=True)
        return made.view((heads, dim))

    def _low_rank(self, tape: Tape, x: Tensor, name: str, heads: Dim, dim: Dim) -> Tensor:
        """Two linears with a rank of one head's features: [batch, seq, heads, head_dim]."""
        low = tape.linear(x, f"{name}_a_proj", (dim,), role="attention", site="qkv")
        return tape.linear(low, f"{name}_b_proj", (heads, dim), role="attention", site="qkv")
