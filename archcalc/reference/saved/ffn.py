"""Feed-forward layers: the gated or plain MLP, and the mixture of experts (arXiv:2401.06066,
arXiv:2412.19437).

Legend: T tokens, K experts a token, R = T*K routed rows, E experts, F expert width, W hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.saved.kernels import activation, kernels_of
from archcalc.reference.saved.modules import BF16, linear
from archcalc.reference.saved.options import Options
from archcalc.reference.saved.recompute import Region, checkpointed


class MLP(nn.Module):
    """down(act(gate x) * up x), gate and up written by one linear; not gated: down(act(up x)).

    `swiglu` recomputes the activation, whichever it is; FP8 storage is for a mixture's shared experts only.
    """

    def __init__(
        self,
        hidden: int,
        width: int,
        act: str,
        options: Options,
        device: torch.device,
        *,
        gated: bool = True,
        bias: bool = False,
        fp8: bool = False,
    ) -> None:
        super().__init__()
        self.act, self.gated, self.fp8 = act, gated, fp8
        self.recompute = "swiglu" in options.recompute
        self.kernels = kernels_of(options)
        self.up = linear(hidden, 2 * width if gated else width, bias, device)
        self.down = linear(width, hidden, bias, device)

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> the same."""
        inner = Region(self._inner, active=self.recompute, fp8_input=self.fp8)
        out: Tensor = self.down(inner(self.up(x)))
        inner.discard_after(out)
        return out

    def _inner(self, up: Tensor) -> Tensor:
        if not self.gated:
            return activation(self.act)(up)
        return self.kernels.gated(up, None, self.act, fp8=self.fp8 and not self.recompute)


class Router(nn.Module):
    """Scores in fp32 (sigmoid or softmax), the K best, their weights. The choice itself needs no gradient
    and keeps nothing, so groups of experts, which only narrow it, are left out."""

    bias: Tensor

    def __init__(self, section: Section, hidden: int, options: Options, device: torch.device) -> None:
        super().__init__()
        self.experts = section.integer("n_routed_experts")
        self.chosen = section.integer("num_experts_per_tok")
        self.sigmoid = section.choice("scoring_func", "sigmoid", "softmax") == "sigmoid"
        self.normalise = section.flag("norm_topk_prob")
        self.factor = section.number("routed_scaling_factor", 1.0)
        self.kernels = kernels_of(options)
        self.weight = nn.Parameter(torch.randn(self.experts, hidden, device=device, dtype=BF16) * 0.02)
        self.register_buffer("bias", torch.zeros(self.experts, device=device, dtype=torch.float32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[T,W] -> weights [T,K] fp32, expert numbers [T,K] int64."""
        logits = self.kernels.router_logits(x, self.weight)
        scores = logits.sigmoid() if self.sigmoid else logits.softmax(-1)
        with torch.no_grad():
            experts = (scores + self.bias).topk(self.chosen, dim=-1).indices
        weights = scores.gather(-1, experts)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.factor, experts


class MoE(nn.Module):
    """Routed experts, every row computed here (expert parallelism with a balanced load), and shared
    experts."""

    def __init__(self, section: Section, hidden: int, options: Options, device: torch.device) -> None:
        super().__init__()
        self.options, self.kernels = options, kernels_of(options)
        self.act = section.word("hidden_act")
        width, shared = section.integer("moe_intermediate_size"), section.integer("n_shared_experts", 0)
        self.router = Router(section, hidden, options, device)
        experts = self.router.experts
        self.up = nn.Parameter(torch.randn(experts, 2 * width, hidden, device=device, dtype=BF16) * 0.02)
        self.down = nn.Parameter(torch.randn(experts, hidden, width, device=device, dtype=BF16) * 0.02)
        self.fp8_act = "swiglu_input" in options.fp8
        self.shared: MLP | None = None
        if shared:
            self.shared = MLP(hidden, shared * width, self.act, options, device, fp8=self.fp8_act)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,W] -> the same. `moe` checkpoints all of it, router and shared experts too."""
        return checkpointed("moe" in self.options.recompute, self._all, x)

    def _all(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        weights, experts = self.router(flat)
        chosen, order = experts.flatten().sort(stable=True)
        token = order // self.router.chosen
        ends = _ends(chosen, self.router.experts)
        del chosen
        rows, probs = self.kernels.permute(flat, weights, order, token)
        out = self._experts(rows, probs, ends, token, flat.shape[0]).view(x.shape)
        if self.shared is None:
            return out
        return out + checkpointed("shared_experts" in self.options.recompute, self.shared, x)

    def _experts(self, rows: Tensor, probs: Tensor, ends: Tensor, token: Tensor, tokens: int) -> Tensor:
        """Rows [R,W] sorted by expert, their probabilities [R] -> [T,W]."""
        kernels, names = self.kernels, self.options.recompute
        at_act, swiglu = self.options.router_probs == "act", "swiglu" in names

        def act(up: Tensor, probs: Tensor | None = None) -> Tensor:
            return kernels.gated(up, probs, self.act, fp8=self.fp8_act and not swiglu)

        inner = Region(act, active=swiglu, fp8_input=self.fp8_act)
        down = Region(
            lambda product: kernels.grouped_linear(product, self.down, ends, fp8=False),
            active="moe_down_proj" in names,
        )
        up = kernels.grouped_linear(rows, self.up, ends, fp8="moe_up_proj_input" in self.options.fp8)
        last = result = down(inner(up, probs) if at_act else inner(up))
        if not at_act:
            last = result = (result * probs[:, None]).to(rows.dtype)
        combined = kernels.unpermute(result, token, tokens)
        if at_act and down.active:
            last = combined
        # Hooks run in the order they are set, and down is recomputed from inner's output: inner comes first.
        inner.discard_after(last)
        down.discard_after(last)
        return combined


def _ends(chosen: Tensor, experts: int) -> Tensor:
    """Sorted expert numbers [R] -> one past the last row of each expert, [E] int32."""
    numbers = torch.arange(experts, device=chosen.device)
    return torch.searchsorted(chosen, numbers, right=True, out_int32=True)


def ffn(section: Section, hidden: int, options: Options, device: torch.device) -> nn.Module:
    """The feed-forward layer of a spec section.

    Raises:
        InputError: when its kind is neither `dense` nor `moe`, or a key is missing.
    """
    kind = section.word("kind")
    if kind == "moe":
        return MoE(section, hidden, options, device)
    if kind != "dense":
        raise InputError(f"{section.where}.kind: {kind} is none of dense, moe", value=kind)
    width, act = section.integer("intermediate_size"), section.word("hidden_act")
    gated, bias = section.flag("gated"), section.flag("mlp_bias")
    return Dense(MLP(hidden, width, act, options, device, gated=gated, bias=bias), options)


class Dense(nn.Module):
    """The dense MLP of a layer, which `mlp` checkpoints."""

    def __init__(self, mlp: MLP, options: Options) -> None:
        super().__init__()
        self.mlp = mlp
        self.recompute = "mlp" in options.recompute

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,W] -> the same."""
        return checkpointed(self.recompute, self.mlp, x)
