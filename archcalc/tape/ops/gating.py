"""Operations around a scan: gates, decays, vectors of unit length, a norm that is gated. None costs FLOPs.

Legend: T rows (tokens), n heads, d features of a head.
"""

from __future__ import annotations

from archcalc.tape.dims import Dims
from archcalc.tape.op import Save
from archcalc.tape.ops.pointwise import in_fp32
from archcalc.tape.recorder import Recorder
from archcalc.tape.values import Role, Storage, Tensor


class GatingOperations(Recorder):
    """What linear attention has beside its projections and its scan."""

    def sigmoid(self, x: Tensor, name: str, *, site: str) -> Tensor:
        """Elementwise sigmoid. Saves its result."""
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        self._emit("sigmoid", name, site, (x,), y, saves=(Save(y.storage),))
        return y

    def l2_norm(self, x: Tensor, name: str, *, site: str) -> Tensor:
        """[T, n, d] -> the same, each head's vector of unit length; no weight. Saves its result and fp32 rstd [4·T·n
        bytes], and not its input (fla, modules/l2norm.py)."""
        heads, _ = x.features
        rstd = Storage((*x.rows, heads), (), "float32")
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        self._emit("l2_norm", name, site, (x,), y, temps=(rstd,), saves=(Save(y.storage), Save(rstd)))
        return y

    def decay(self, x: Tensor, name: str, a_log: Dims, *, in_scan: bool, site: str) -> Tensor:
        """Log of what a state keeps from one token to the next: -exp(A_log)·softplus(x + dt_bias), in fp32.

        Bare parameters A_log and dt_bias, the latter as wide as x. A fused gate saves x (fla,
        ops/gated_delta_rule/gate.py), plain code what goes into the softplus and what comes out, and both exponents.
        The sum of decays since a chunk's first token is what the scan saves. `in_scan`: its kernel takes x, and makes
        decay and sum again in backward; given a decay it saves both (fla, ops/kda/chunk.py).
        """
        weights = (
            self.weight("", "A_log", a_log, (), "attention"),
            self.weight("", "dt_bias", x.features, (), "attention"),
        )
        y, into, out, total = (Storage(x.rows, x.features, "float32") for _ in range(4))
        exponents = (Storage((), a_log, "float32"), Storage((), a_log, "float32"))
        saves = (
            Save(x.storage, ("fused",)),
            Save(into, ("eager",)),
            *(Save(s, ("eager",), "weight") for s in (out, exponents[0])),
            Save(exponents[1], ("eager",)),
            *((Save(y, ("eager",)), Save(total, ("eager",))) if in_scan else (Save(total),)),
        )
        result = Tensor(x.rows, x.features, y)
        temps = (into, out, total, *exponents)
        self._emit("decay", name, site, (x,), result, temps=temps, weights=weights, saves=saves)
        return result

    def gated_rms_norm(self, x: Tensor, gate: Tensor, name: str, *, sigmoid: bool, role: Role, site: str) -> Tensor:
        """RMSNorm over the last features, times act(gate): silu (Gated DeltaNet, arXiv:2412.06464), or `sigmoid` (Kimi
        Delta Attention, arXiv:2510.26692).

        Fused kernels save x, gate and rstd [4·T·n bytes] (fla, modules/fused_norm_gate.py). Plain code works in fp32:
        with silu it casts the normalised rows back before the weight, with a sigmoid after the gate (transformers,
        Qwen3NextRMSNormGated, KimiLinearRMSNormGated).
        """
        w = self.weight(name, "weight", x.features, (), role)
        rstd = Storage(x.rows, (), "float32")
        inner = "float32" if sigmoid else self.dtype
        unit, scaled = Storage(x.rows, x.features, inner), Storage(x.rows, x.features, inner)
        act = Storage(x.rows, x.features, "float32")
        gain = (Storage((), x.features, "float32"),) if sigmoid and self.dtype != "float32" else ()
        plain = (in_fp32(x), unit, scaled, act, *gain, *(() if sigmoid else (in_fp32(gate),)))
        y = Tensor(x.rows, x.features, Storage(x.rows, x.features, self.dtype))
        saves = (
            *(Save(t.storage, ("fused",)) for t in (x, gate)),
            Save(rstd),
            *(Save(s, ("eager",), "weight" if s is unit else "any") for s in plain),
        )
        self._emit("gated_rms_norm", name, site, (x, gate), y, temps=(rstd, *plain), weights=(w,), saves=saves)
        return y
