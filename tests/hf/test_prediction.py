"""Whether a release holds the prediction modules that its config claims, or claims those that it holds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hf.configs import imported, of_class

MLX = {"quantization": {"group_size": 32, "bits": 4}}
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}}
FIRST, PREDICTED = "model.layers.0.input_layernorm.weight", "model.layers.61.eh_proj.weight"


def held(*tensors: str, model_type: str = "deepseek_v3", **config: Any) -> Any:
    """`mtp_stored` of a config that claims one module; true where the spec leaves it out."""
    spec = imported(of_class(model_type, num_nextn_predict_layers=1, **config), tensors=tensors).data
    return spec["backbone"].get("mtp_stored", True)


def test_a_family_whose_release_is_known_holds_what_it_claims() -> None:
    assert held() is True
    assert held(model_type="glm4_moe") is None


@pytest.mark.parametrize(("config", "expected"), [(MLX, False), (AWQ, None)], ids=["mlx", "awq"])
def test_who_quantizes_through_a_class_without_them_drops_them(config: dict[str, Any], expected: bool | None) -> None:
    # mlx-lm 0.32.2, models/deepseek_v3.py, sanitize: "Remove multi-token prediction layer"
    assert held(**config) is expected


@pytest.mark.parametrize("config", [{}, MLX, AWQ], ids=["plain", "mlx", "awq"])
def test_the_index_goes_before_all_else(config: dict[str, Any]) -> None:
    assert held(FIRST, PREDICTED, **config) is True
    assert held(FIRST, **config) is False


def test_modules_that_are_held_and_not_claimed_are_named() -> None:
    # Qwen3-Next's released config has no key for the module that its index names
    answer = imported(of_class("qwen3_next"), tensors=(FIRST, "mtp.fc.weight", "mtp.norm.weight"))
    assert answer.notes == [
        "model.safetensors.index.json has 2 tensors of multi-token prediction, such as mtp.fc.weight, and the config"
        " claims none: no number here counts them"
    ]
    assert imported(of_class("qwen3_next"), tensors=(FIRST,)).notes == []


def test_the_index_tells_whether_embedding_and_head_are_stored_again() -> None:
    again = ("model.layers.61.embed_tokens.weight", "model.layers.61.shared_head.head.weight")

    def stored(*tensors: str, model_type: str = "deepseek_v3") -> set[str]:
        spec = imported(of_class(model_type, num_nextn_predict_layers=1), tensors=tensors).data
        return {"mtp_embedding", "mtp_head"} & set(spec["storage"])

    assert stored() == set()  # of plain DeepSeek-V3 nothing is known
    assert stored(FIRST, PREDICTED) == set()
    assert stored(FIRST, PREDICTED, *again) == {"mtp_embedding", "mtp_head"}
