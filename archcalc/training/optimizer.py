"""Optimizers as named sets of states: bytes that training keeps for each parameter beside weight and
gradient."""

from __future__ import annotations

from typing import NamedTuple

from archcalc.errors import InputError, did_you_mean
from archcalc.tape import Weight


class Item(NamedTuple):
    """Of one parameter: of a weight that Muon would leave to Adam, and of a matrix that it takes [bytes]."""

    plain: int
    matrix: int

    def of(self, w: Weight) -> int:
        """Of a parameter of this weight [bytes]."""
        return self.matrix if orthogonalized(w) else self.plain


class Optimizer(NamedTuple):
    """States of one optimizer [bytes a parameter].

    Attributes:
        master: fp32 copy of the weight, or what replaces it.
        moments: first and second moment, or momentum.
        matrix_moments: what matrices keep instead, where the optimizer treats them apart (Muon: momentum
            only), or None.
        step: what the step itself takes beside the states, for each parameter of the shard.
        low_precision_grads: whether it takes bf16 gradients as they are; others copy their shard to fp32
            before the step.
        whole_matrices: the optimizer needs each matrix whole, so sharding hands out matrices, not slices.
        like_params: the moments have the parameter's dtype; `moments` is what they take where that is fp32.
        late_master: the master is made in the first step too, with the moments; else before it.
    """

    master: int
    moments: int
    matrix_moments: int | None = None
    step: int = 0
    low_precision_grads: bool = False
    whole_matrices: bool = False
    like_params: bool = False
    late_master: bool = False

    def beside(self, item: int) -> Optimizer:
        """The same optimizer for parameters of `item` bytes."""
        return self._replace(moments=self.moments * item // 4) if self.like_params else self

    @property
    def states(self) -> Item:
        """All states."""
        return Item(self.master + self.moments, self.master + self._matrix_moments)

    @property
    def late_states(self) -> Item:
        """What the first step makes of them: moments, and a master that the optimizer itself holds."""
        made = self.master if self.late_master else 0
        return Item(made + self.moments, made + self._matrix_moments)

    def state_bytes(self, w: Weight) -> int:
        """States of one parameter of a weight [bytes]."""
        return self.states.of(w)

    def late_bytes(self, w: Weight) -> int:
        """What the first step makes of them [bytes]."""
        return self.late_states.of(w)

    @property
    def _matrix_moments(self) -> int:
        return self.moments if self.matrix_moments is None else self.matrix_moments


def orthogonalized(w: Weight) -> bool:
    """Whether Muon's matrix step takes this weight: two-dimensional, and neither embedding nor output head.

    Stacked experts count by their own matrices (Muon: Jordan 2024; Moonlight, arXiv:2502.16982, section 2.2).
    """
    return bool(w.into) and w.flat and w.role not in ("embedding", "head")


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(master=4, moments=8),
    "adamw-bf16-moments": Optimizer(master=4, moments=4, low_precision_grads=True),
    "adamw-param-remainders": Optimizer(master=2, moments=8, low_precision_grads=True, late_master=True),
    "adamw-precision-aware": Optimizer(master=2, moments=4, step=8, low_precision_grads=True, late_master=True),
    "adam-8bit": Optimizer(master=4, moments=2),
    "muon": Optimizer(master=4, moments=8, matrix_moments=4, whole_matrices=True),
    "muon-bf16-momentum": Optimizer(master=4, moments=4, matrix_moments=2, whole_matrices=True),
    "sgd": Optimizer(master=4, moments=4),
    "adamw-no-master": Optimizer(master=0, moments=8, low_precision_grads=True, like_params=True),
}
"""By name. adamw: fp32 master, m and v (Megatron-LM); bf16-moments: m and v in bf16 (DeepSeek-V3,
arXiv:2412.19437, section 3.3.3); param-remainders: the master is the bf16 weight plus 16 more bits
(TransformerEngine); precision-aware: both, and FusedAdam widens the two bf16 moments of a whole parameter
group to fp32 while it steps (TransformerEngine pytorch/optimizers/fused_adam.py; Megatron-LM
--use-precision-aware-optimizer with its default store_param_remainders); these three take bf16 gradients as
they are, the others get an fp32 copy of their shard before the step (Megatron-LM
core/optimizer/distrib_optimizer.py, _copy_model_grads_to_main_grads); muon: master and momentum, AdamW for
embedding, head, norms and biases; sgd: with momentum; adamw-no-master: m and v like the parameter itself, which
is what is stepped, by a fused kernel without temporaries (torch optim/adamw.py, `_init_group`; torchtitan
keeps fp32 parameters so). Moments are made when the first step asks for them (torch
optim/adamw.py, _init_group; TransformerEngine FusedAdam.step, initialize_state). The fp32 master is there before it
(Megatron-LM core/optimizer/distrib_optimizer.py, _build_model_and_main_param_groups) unless FusedAdam holds it, as with
the remainders: then it makes that too."""


def optimizer(name: str) -> Optimizer:
    """An optimizer by name. Raises InputError."""
    if name not in OPTIMIZERS:
        hint = did_you_mean(name, OPTIMIZERS) or f"one of {', '.join(OPTIMIZERS)}"
        raise InputError(f"unknown optimizer {name}", value=name, hint=hint)
    return OPTIMIZERS[name]
