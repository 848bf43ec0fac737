"""The names of recompute, FP8 and offload options: dicts over sites. No operation and no block knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

from archcalc.calc.activations import Region, Savers
from archcalc.calc.selective import KINDS
from archcalc.errors import InputError, did_you_mean
from archcalc.tape.op import Variant
from archcalc.tape.sites import SITES

DENSE = frozenset({"dense_fc1", "dense_act", "dense_fc2"})
SHARED = frozenset({"shared_fc1", "shared_act", "shared_fc2", "shared_gate"})
ROUTED = frozenset({"router", "latent", "dispatch", "expert_fc1", "moe_act", "expert_fc2", "combine"})

RECOMPUTE: dict[str, Region] = {
    "layernorm": Region(frozenset({"attn_norm", "mlp_norm"}), discards_output=True),
    "swiglu": Region(frozenset({"dense_act", "moe_act", "shared_act"}), discards_output=True),
    "mla_up_proj": Region(frozenset({"q_norm", "q_up", "kv_norm", "kv_up"}), discards_output=True),
    "moe_down_proj": Region(frozenset({"expert_fc2"}), discards_output=True),
    "core_attn": Region(frozenset({"core_attn"}), discards_output=False),
    "mlp": Region(DENSE, discards_output=False),
    "moe": Region(ROUTED | SHARED, discards_output=False),
    "shared_experts": Region(SHARED, discards_output=False),
}
"""Megatron-LM's selective recompute modules; K2 (arXiv:2507.20534, section 2.4) names the first four, of
which Megatron-LM has no `moe_down_proj`.
`mla_up_proj` takes the low-rank norms with it, as TransformerEngine fuses them into the projections."""

FULL = "full"
"""Recompute whole layers: each keeps only its input."""

FP8: dict[str, frozenset[str]] = {
    "moe_up_proj_input": frozenset({"expert_fc1"}),
    "swiglu_input": frozenset({"moe_act", "shared_act"}),
}
"""Inputs stored in FP8-E4M3 with 1x128 tiles (K2, section 2.4: of MoE up-projections and SwiGLU)."""

OFFLOAD: dict[str, frozenset[str]] = {
    "attn_norm": frozenset({"attn_norm", "attn_post_norm", "attn_res"}),
    "qkv_linear": frozenset({"q_down", "q_norm", "q_up", "kv_down", "kv_norm", "kv_up", "qkv", "qk_norm", "conv"}),
    "core_attn": frozenset({"rope", "core_attn", "scan", "index"}),
    "attn_proj": frozenset({"attn_out"}),
    "mlp_norm": frozenset({"mlp_norm", "mlp_post_norm"}),
    "dense_mlp": DENSE,
    "router": frozenset({"router", "latent", "dispatch", "combine"}),
    "expert_fc1": frozenset({"expert_fc1"}),
    "moe_act": frozenset({"moe_act"}),
    "expert_fc2": frozenset({"expert_fc2"}),
    "shared_experts": SHARED,
}
"""Groups of saved activations that can wait in host memory (Megatron-LM's fine-grained offloading names, and
the rest)."""

ENDS = frozenset({"embedding", "residual", "mtp_in", "final_norm", "head", "loss"})
"""Sites of no group: the model's two ends, and sums, which keep nothing."""


def check_groups(known: frozenset[str]) -> None:
    """Every site has one offload group, or stands at an end or in a tower: a new one is not left out in silence.

    Raises:
        AssertionError: naming the first site that has none, or two.
    """
    grouped = [site for group in OFFLOAD.values() for site in group]
    inside = {site for site in known - ENDS if not site.startswith(("vision_", "projector_", "patch_"))}
    for site in sorted(inside | set(grouped)):
        if grouped.count(site) != (site in inside):
            raise AssertionError(f"site {site} stands in {grouped.count(site)} offload groups")


check_groups(SITES)


CORES: dict[str, set[Variant]] = {"flash-attn": {"flash", "flash_copied"}}
"""Attention cores that are another one and something more."""


class Lever(NamedTuple):
    """How activations are kept once one saver more is in use: that saver, and all that are in use with it.

    `offload` has the sites whose storages wait in host memory, None for every one.
    """

    kind: Literal["none", "recompute", "selective", "fp8", "offload"]
    option: str
    savers: Savers
    offload: frozenset[str] | None = frozenset()

    @property
    def label(self) -> str:
        """The saver, for people."""
        return "no savers" if self.kind == "none" else f"{self.kind} {self.option}".strip()


def levers(
    *,
    kernels: str,
    core: str,
    router_probs: str,
    cross_entropy: str,
    recompute: Sequence[str],
    fp8: Sequence[str],
    offload: str | Sequence[str],
    selective: Sequence[str] | None,
    hidden_dropout: float,
    attention_dropout: float,
    deterministic: bool,
    rope: str,
    linears: str,
) -> tuple[Lever, ...]:
    """From no savers to all that a plan names, one at a time. `linears` is the recipe of those that multiply in FP8.

    Raises InputError for a name there is not.
    """
    ways = {kernels, *CORES.get(core, {core}), f"probs_{router_probs}", f"loss_{cross_entropy}"}
    ways |= {"deterministic"} if deterministic else set()
    ways |= {"hidden_dropout"} if hidden_dropout else set()
    ways |= {"attention_dropout" if attention_dropout else "attention_undropped", f"rope_{rope}"}
    ways |= {f"fp8_{'tensorwise' if linears == 'delayed' else linears}"}
    variants: frozenset[Variant] = frozenset(v for v in get_args(Variant) if v in ways)
    found = [Lever("none", "", Savers(variants=variants))]
    for name in recompute:
        _known(name, (*RECOMPUTE, FULL), "recompute option")
        found.append(Lever("recompute", name, _with(found[-1].savers, "recompute", name)))
    if selective is not None:
        for name in selective:
            _known(name, tuple(KINDS), "kind of operation")
        option = ", ".join(selective)
        found.append(Lever("selective", option, _with(found[-1].savers, "selective", option)))
    for name in fp8:
        _known(name, tuple(FP8), "FP8 option")
        found.append(Lever("fp8", name, _with(found[-1].savers, "fp8", name)))
    if offload and offload != "none":
        option = offload if isinstance(offload, str) else ", ".join(offload)
        found.append(Lever("offload", option, found[-1].savers, offload_sites(offload)))
    return tuple(found)


def _with(now: Savers, kind: str, option: str) -> Savers:
    """Savers with one more in use; what offloads changes nothing of them."""
    if kind == "recompute":
        return replace(now, whole=True) if option == FULL else replace(now, regions=(*now.regions, RECOMPUTE[option]))
    if kind == "selective":
        return replace(now, selective=frozenset(option.split(", ") if option else ()))
    return replace(now, fp8=now.fp8 | FP8[option]) if kind == "fp8" else now


def without(found: Sequence[Lever], left_out: int) -> Lever:
    """All levers in use but the one at a place, which is not the first."""
    now, offload = found[0].savers, found[0].offload
    for n, lever in enumerate(found[1:], start=1):
        if n != left_out:
            now = _with(now, lever.kind, lever.option)
            offload = lever.offload if lever.kind == "offload" else offload
    return Lever(found[left_out].kind, found[left_out].option, now, offload)


def savers(
    *,
    kernels: str,
    core: str = "flash",
    router_probs: str,
    cross_entropy: str,
    recompute: Sequence[str] = (),
    fp8: Sequence[str] = (),
    selective: Sequence[str] | None = None,
    hidden_dropout: float = 0.0,
    attention_dropout: float = 0.0,
    deterministic: bool = False,
    rope: str = "fused",
) -> Savers:
    """The savers of these names, all in use. Raises InputError for a name there is not."""
    return levers(
        kernels=kernels,
        core=core,
        router_probs=router_probs,
        cross_entropy=cross_entropy,
        recompute=recompute,
        fp8=fp8,
        offload="none",
        selective=selective,
        hidden_dropout=hidden_dropout,
        attention_dropout=attention_dropout,
        deterministic=deterministic,
        rope=rope,
        linears="none",
    )[-1].savers


def offload_sites(names: str | Sequence[str]) -> frozenset[str] | None:
    """Sites whose saved storages are offloaded; None for every one. Raises InputError for a name there is
    not."""
    if names == "all":
        return None
    chosen = () if names == "none" else (names,) if isinstance(names, str) else names
    for name in chosen:
        _known(name, tuple(OFFLOAD), "offload group")
    return frozenset().union(*(OFFLOAD[name] for name in chosen))


def _known(name: str, names: tuple[str, ...], what: str) -> None:
    if name not in names:
        raise InputError(
            f"unknown {what} {name}", value=name, hint=did_you_mean(name, names) or f"one of {', '.join(names)}"
        )
