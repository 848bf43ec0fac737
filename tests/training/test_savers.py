"""Names of recompute, FP8 and offload options."""

import pytest

from archcalc.errors import InputError
from archcalc.tape.sites import SITES
from archcalc.training.savers import FP8, OFFLOAD, RECOMPUTE, check_groups, offload_sites, savers


def test_every_option_names_sites_that_exist() -> None:
    named = [region.sites for region in RECOMPUTE.values()] + list(FP8.values()) + list(OFFLOAD.values())
    assert all(sites and sites <= SITES for sites in named)


def test_a_site_without_an_offload_group_is_an_error_of_the_house() -> None:
    check_groups(SITES)
    with pytest.raises(AssertionError, match="site ssm_gate stands in 0 offload groups"):
        check_groups(SITES | {"ssm_gate"})
    with pytest.raises(AssertionError, match="site router stands in 1 offload groups"):
        check_groups(SITES - {"router"})


def test_modules_that_megatron_checkpoints_keep_their_output() -> None:
    """CheckpointWithoutOutput (discards): norms, activation, MLA's up-projections; plain checkpoints: the
    rest."""
    discard = {name for name, region in RECOMPUTE.items() if region.discards_output}
    assert discard == {"layernorm", "swiglu", "mla_up_proj", "moe_down_proj"}


def test_offload_all_none_and_groups() -> None:
    assert offload_sites("all") is None
    assert offload_sites("none") == frozenset()
    assert offload_sites("moe_act") == OFFLOAD["moe_act"]
    assert offload_sites(("moe_act", "expert_fc1")) == frozenset({"moe_act", "expert_fc1"})


@pytest.mark.parametrize(
    ("option", "value", "message", "hint"),
    [
        ("recompute", ("layer_norm",), "unknown recompute option layer_norm", "did you mean layernorm?"),
        ("fp8", ("swiglu_inputs",), "unknown FP8 option swiglu_inputs", "did you mean swiglu_input?"),
    ],
)
def test_a_typo_gets_the_near_miss(option: str, value: tuple[str, ...], message: str, hint: str) -> None:
    names: dict[str, tuple[str, ...]] = {"recompute": (), "fp8": (), option: value}
    with pytest.raises(InputError, match=message) as error:
        savers(kernels="fused", router_probs="act", cross_entropy="te", **names)  # type: ignore[arg-type]
    assert error.value.hint == hint


def test_an_offload_typo_gets_the_near_miss() -> None:
    with pytest.raises(InputError, match="unknown offload group moe_acts") as error:
        offload_sites(("moe_acts",))
    assert error.value.hint == "did you mean moe_act?"
