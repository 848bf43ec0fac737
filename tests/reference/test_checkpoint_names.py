"""The twin's parameter names are the public checkpoints': transformers' own loader takes them, all of
them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from archcalc.reference.model import Model, places_of
from tests.reference import tiny
from tests.reference.publicly import built
from tests.reference.test_numbers import assert_same, with_vision

pytestmark = pytest.mark.twin


def unstacked(twin: Model) -> dict[str, torch.Tensor]:
    """State dict with each expert's matrix apart, as checkpoints store them."""
    stored = {}
    for name, tensor in twin.state_dict().items():
        stack = re.fullmatch(r"(.*\.mlp\.experts)\.(\w+)\.weight", name)
        if stack is None:
            stored[name] = tensor.contiguous()
        else:
            for number, matrix in enumerate(tensor):
                stored[f"{stack[1]}.{number}.{stack[2]}.weight"] = matrix.contiguous()
    return stored


def loaded(twin: Model, spec: dict[str, Any], folder: Path) -> Any:
    """What `from_pretrained` makes of the twin saved under its own names."""
    empty: Any = built(spec).model
    empty.config.save_pretrained(folder)
    save_file(unstacked(twin), folder / "model.safetensors", metadata={"format": "pt"})
    model, info = getattr(transformers, type(empty).__name__).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


@torch.no_grad()
def test_k25_loads_under_its_checkpoint_names(tmp_path: Path) -> None:
    spec = tiny.k25()
    twin = tiny.randomised(spec)
    theirs = loaded(twin, spec, tmp_path)
    grids = [(1, 4, 6)]
    ids, pixels = with_vision(grids, tiny.IMAGE)
    ours = twin(ids, pixels=pixels, grids=grids, places=places_of(ids, tiny.IMAGE))
    given = {"pixel_values": pixels, "image_grid_thw": torch.tensor(grids)}
    assert_same(ours, theirs(input_ids=ids, use_cache=False, **given).logits)


@torch.no_grad()
def test_deepseek_v3_loads_under_its_checkpoint_names(tmp_path: Path) -> None:
    spec = tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE], tiny.YARN)
    twin = tiny.randomised(spec)
    theirs = loaded(twin, spec, tmp_path)
    ids = tiny.ids(2, 24)
    assert_same(twin(ids), theirs(input_ids=ids, use_cache=False).logits)
