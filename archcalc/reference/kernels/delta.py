"""What linear attention by the gated delta rule runs on: a short convolution, decays, the recurrence, a gated norm.

Plain operations as public modeling code writes them (transformers, models/qwen3_next and models/kimi_linear), and
autograd functions that keep what the kernels of fla (flash-linear-attention) and of Dao-AILab's causal-conv1d keep;
those were read, not run. The recurrence itself has no plain form that trains: eager modules run it on fla's kernel too.

Legend: B sequences, N rows, C channels, K taps, H value heads, G key heads, D features of a key, V of a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Act = Callable[[Tensor], Tensor]

CHUNK = 64
"""Rows that fla's kernels take at once."""

UNIT_EPS = 1e-6
"""Of the vectors of unit length, fixed in public code."""


# -- plain operations


def short_conv(x: Tensor, held: Tensor | None, weight: Tensor, act: Act) -> Tensor:
    """x [B,N,C] behind held rows [B,M,C], weight [C,1,K] -> [B,N,C]: padded at both ends, and cut."""
    rows = x if held is None else torch.cat((held, x), dim=1)
    first, taps = rows.shape[1] - x.shape[1], weight.shape[-1]
    out = functional.conv1d(rows.transpose(1, 2), weight, padding=taps - 1, groups=len(weight))
    return act(out[:, :, first : rows.shape[1]]).transpose(1, 2)


def counted_conv(x: Tensor, held: Tensor | None, weight: Tensor, act: Act) -> Tensor:
    """The same by a batched product over windows: torch counts a grouped convolution's backward as if all channels
    met."""
    rows = x if held is None else torch.cat((held, x), dim=1)
    channels, _, taps = weight.shape
    padded = functional.pad(rows, (0, 0, taps - 1, 0))[:, -(x.shape[1] + taps - 1) :]
    windows = padded.unfold(1, taps, 1).flatten(0, 1).transpose(0, 1)  # [C,B*N,K]
    out = torch.bmm(windows, weight.view(channels, taps, 1))
    return act(out[..., 0].transpose(0, 1)).unflatten(0, x.shape[:2])


def decays(raw: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """-exp(A_log) softplus(raw + dt_bias) in fp32, as fla's naive_kda_gate writes it: raw [B,N,H] with A_log [H], or
    raw [B,N,H,D] with A_log [H] or [D]; dt_bias is as wide as raw."""
    shifted = raw.float() + dt_bias.float().view(raw.shape[2:])
    per_head = raw.dim() == 4 and len(a_log) == raw.shape[2]
    rate = -a_log.float().exp()
    return (rate[:, None] if per_head else rate) * functional.softplus(shifted)


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, *, sigmoid: bool) -> Tensor:
    """RMSNorm over the last axis times act(gate), all [..., V]: by silu with the rows cast back before the weight
    (Qwen3NextRMSNormGated), by a sigmoid all in fp32 (KimiLinearRMSNormGated)."""
    wide = x.float()
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if sigmoid:
        return (weight.float() * unit * gate.float().sigmoid()).to(x.dtype)
    return (weight * unit.to(x.dtype) * functional.silu(gate.float())).to(x.dtype)


def units(x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., D] -> vectors of unit length in fp32, and what they were multiplied with [..., 1]."""
    wide = x.float()
    rstd = torch.rsqrt(wide.pow(2).sum(-1, keepdim=True) + UNIT_EPS)
    return wide * rstd, rstd


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """q and k [B,N,G,D] of unit length, v [B,N,H,V], beta [B,N,H], decay [B,N,H] or [B,N,H,D], state [B,H,D,V]
    -> [B,N,H,V] and the last state, in fp32 (arXiv:2412.06464, equation 10).

    Three products a token and head (what the state holds for the key, its correction, what the query reads): 6*D*V
    FLOPs by torch's own rule. Without data there is one of each for all tokens: only shapes and the gradient's way
    matter, and a loop over thousands of tokens is slow.
    """
    q, k = (t.float().repeat_interleave(v.shape[2] // t.shape[2], dim=2) for t in (q * q.shape[-1] ** -0.5, k))
    v, beta = v.float(), beta.float()[..., None, None]
    kept = (decay if decay.dim() == 4 else decay[..., None]).exp()[..., None]
    if q.is_meta:
        states = torch.matmul(k[..., None], v[..., None, :] * beta) * kept
        out = torch.matmul(q[..., None, :], states) + torch.matmul(k[..., None, :], states)
        return out[..., 0, :], states[:, -1]
    now = q.new_zeros(len(q), v.shape[2], q.shape[-1], v.shape[-1]) if state is None else state
    rows = []
    for t in range(q.shape[1]):
        now = now * kept[:, t]
        correction = (v[:, t, :, None] - torch.matmul(k[:, t, :, None], now)) * beta[:, t]
        now = now + torch.matmul(k[:, t, ..., None], correction)
        rows.append(torch.matmul(q[:, t, :, None], now)[..., 0, :])
    return torch.stack(rows, dim=1), now


# -- fused ones


def fused_conv(x: Tensor, held: Tensor | None, weight: Tensor, act: Act) -> Tensor:
    """`short_conv` that keeps its input alone."""
    out: Tensor = _ShortConv.apply(x if held is None else torch.cat((held, x), dim=1), weight, act)
    return out[:, out.shape[1] - x.shape[1] :]


def fused_decays(raw: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """`decays` that keeps the raw ones alone (fla, ops/gated_delta_rule/gate.py)."""
    out: Tensor = _Decays.apply(raw, a_log, dt_bias)
    return out


def fused_gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, *, sigmoid: bool) -> Tensor:
    """`gated_norm` that keeps x, gate and 1/rms in fp32 (fla, modules/fused_norm_gate.py)."""
    out: Tensor = _GatedNorm.apply(x, gate, weight, eps, sigmoid)
    return out


def chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: tuple[Tensor, ...], *, matrices: int, keeps_decay: bool
) -> Tensor:
    """fla's chunk kernels, [B,N,H,V] of v's dtype; q and k as they come.

    They keep q, k and their norms, v, beta, a few `matrices` of `CHUNK` columns a row and head, and either sums of the
    decays since each chunk's first row or, given (raw, A_log, dt_bias) instead of the decays, the raw ones.

    Args:
        decay: (decays,) or (raw, A_log, dt_bias).
        keeps_decay: whether given decays are kept beside their sums (KDA's kernel does that).
    """
    out: Tensor = _Chunked.apply(q, k, v, beta, matrices, keeps_decay, *decay)
    return out


def _again(function: Callable[..., Tensor], gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a function's inputs, run once more."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        out = function(*leaves)
    return torch.autograd.grad(out, leaves, gradient)


class _ShortConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, act: Act) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.act = act
        return short_conv(x, None, weight, act).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return *_again(lambda x, weight: short_conv(x, None, weight, ctx.act), gradient, *ctx.saved_tensors), None


class _Decays(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
        ctx.save_for_backward(raw, a_log, dt_bias)
        return decays(raw, a_log, dt_bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _again(decays, gradient, *ctx.saved_tensors)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, weight: Tensor, eps: float, sigmoid: bool) -> Tensor:
        rstd = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, gate, weight, rstd)
        ctx.how = eps, sigmoid
        return gated_norm(x, gate, weight, eps, sigmoid=sigmoid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        *inputs, _ = ctx.saved_tensors
        eps, sigmoid = ctx.how
        return *_again(lambda x, g, w: gated_norm(x, g, w, eps, sigmoid=sigmoid), gradient, *inputs), None, None


class _Chunked(torch.autograd.Function):
    """fla, ops/gated_delta_rule/chunk.py and, with `disable_recompute` off, ops/kda/chunk.py."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, matrices: int, keeps_decay: bool, *decay: Tensor
    ) -> Tensor:
        (q, q_rstd), (k, k_rstd) = units(q), units(k)
        q, k = q.to(v.dtype), k.to(v.dtype)
        given = decay[0] if len(decay) == 1 else decays(*decay)
        inner = [v.new_empty(*v.shape[:3], CHUNK) for _ in range(matrices)]
        kept = decay if len(decay) > 1 else (_sums(given), *decay[: int(keeps_decay)])
        ctx.save_for_backward(q, q_rstd, k, k_rstd, v, beta, *kept, *inner)
        ctx.given, ctx.kept = len(decay), len(kept)
        if v.is_meta:
            return torch.empty_like(v)
        return recurrence(q, k, v, beta, given)[0].to(v.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, q_rstd, k, k_rstd, v, beta, *more = ctx.saved_tensors
        decay = more[: ctx.kept] if ctx.given > 1 else [_differences(more[0])]

        def run(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *decay: Tensor) -> Tensor:
            return recurrence(q, k, v, beta, decay[0] if len(decay) == 1 else decays(*decay))[0].to(v.dtype)

        d_q, d_k, d_v, d_beta, *d_decay = _again(run, gradient, q, k, v, beta, *decay)
        d_q, d_k = _through_units(q, q_rstd, d_q), _through_units(k, k_rstd, d_k)
        return d_q, d_k, d_v, d_beta, None, None, *d_decay


def _through_units(unit: Tensor, rstd: Tensor, gradient: Tensor) -> Tensor:
    slope = gradient.float()
    along = (slope * unit.float()).sum(-1, keepdim=True)
    return (rstd * (slope - unit.float() * along)).to(unit.dtype)


def _sums(decay: Tensor) -> Tensor:
    """Over the rows of each chunk."""
    return torch.cat([piece.cumsum(1) for piece in decay.split(CHUNK, dim=1)], dim=1)


def _differences(sums: Tensor) -> Tensor:
    return torch.cat([piece.diff(dim=1, prepend=torch.zeros_like(piece[:, :1])) for piece in sums.split(CHUNK, 1)], 1)
