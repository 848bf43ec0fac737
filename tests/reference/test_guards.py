"""Each guard catches the silent failure it is there for, shown on torch itself."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from archcalc.reference.flopcount import ModuleFlops
from archcalc.reference.flops import flops
from archcalc.reference.guards import (
    TwinError,
    full_scores,
    operators_seen,
    refuse_halved_scores,
    refuse_math_path,
    refuse_null_keys,
    refuse_uncounted,
    refuse_zero,
    storage_bytes,
    storage_key,
)
from archcalc.reference.hf_flops import grouped_mm_flops
from tests.reference import tiny

pytestmark = pytest.mark.twin


class Grouped(nn.Module):
    """Two experts as one grouped product, the way fast implementations run them."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 16, 24, dtype=torch.bfloat16, device=device))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        ends = torch.tensor([4, 10], dtype=torch.int32, device=rows.device)
        return torch._grouped_mm(rows, self.weight, offs=ends)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_grouped_mm_counts_zero_and_is_refused(device: str) -> None:
    model, rows = Grouped(device), torch.ones(10, 16, dtype=torch.bfloat16, device=device)
    with FlopCounterMode(display=False) as torchs:
        model(rows)
    assert torchs.get_total_flops() == 0, "torch counts grouped products now: the rule in hf.py can go"
    with (
        pytest.raises(TwinError, match="torch counts 0 FLOPs for _grouped_mm"),
        ModuleFlops({model: "experts"}),
    ):
        model(rows)
    with ModuleFlops({model: "experts"}, {torch.ops.aten._grouped_mm: grouped_mm_flops}) as ruled:
        model(rows)
    assert ruled.forward == {"experts": 2 * 10 * 16 * 24}


def test_flash_attention_on_cpu_counts_zero_and_is_refused() -> None:
    q = torch.ones(1, 2, 8, 16)
    with FlopCounterMode(display=False) as torchs, torch.no_grad():
        F.scaled_dot_product_attention(q, q, q)
    assert torchs.get_total_flops() == 0
    with pytest.raises(TwinError, match="attention_for_cpu"), torch.no_grad(), ModuleFlops({}):
        F.scaled_dot_product_attention(q, q, q)


def test_products_with_a_vector_count_zero_and_are_refused() -> None:
    with FlopCounterMode(display=False) as torchs:
        torch.mv(torch.ones(4, 8), torch.ones(8))
    assert torchs.get_total_flops() == 0
    with pytest.raises(TwinError, match="for mv"):
        refuse_uncounted(torch.ops.aten.mv)
    with pytest.raises(TwinError, match="for dot"):
        refuse_uncounted(torch.ops.aten.dot)


def test_counted_products_and_elementwise_work_are_not_refused() -> None:
    for name in (
        "mm",
        "bmm",
        "addmm",
        "convolution",
        "mul",
        "softmax",
        "upsample_bicubic2d",
        "index_add",
        "comm",
    ):
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None:
            refuse_uncounted(packet)


def test_a_part_without_flops_is_refused_by_name() -> None:
    refuse_zero({"a": 1, "b": 2}, "forward")
    with pytest.raises(TwinError, match=r"0 backward FLOPs for b \(2 such parts\)"):
        refuse_zero({"a": 1, "b": 0, "c": 0}, "backward")


def test_a_module_that_never_runs_is_refused() -> None:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    with ModuleFlops({one: "one", other: "other"}) as counted:
        one(torch.ones(2, 4))
    with pytest.raises(TwinError, match="for other"):
        refuse_zero(counted.forward, "forward")


def test_torch_never_halves_causal_scores_and_half_is_refused() -> None:
    q = torch.empty(1, 2, 8, 16, device="meta")
    counts = []
    for causal in (False, True):
        with FlopCounterMode(display=False) as torchs:
            torch.ops.aten._scaled_dot_product_efficient_attention(q, q, q, None, False, 0.0, causal)
        counts.append(torchs.get_total_flops())
    assert counts == [2 * 64 * 2 * (16 + 16)] * 2
    rows = q.transpose(1, 2)
    refuse_halved_scores(counts[1], full_scores(rows, rows, rows))
    with pytest.raises(TwinError, match="halved"):
        refuse_halved_scores(counts[1] // 2, full_scores(rows, rows, rows))


def half(a: Any, b: Any, **_: Any) -> int:
    """A rule for batched products that counts half of them."""
    return int(a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2])


def test_halved_scores_of_the_twin_itself_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were torch to halve scores one day, the comparison with full ones would not pass in silence."""
    rules = {**flop_registry, torch.ops.aten.bmm: half}
    monkeypatch.setattr("archcalc.reference.flopcount.flop_registry", rules)
    with pytest.raises(TwinError, match="halved"):
        flops(tiny.text(tiny.MLA, [tiny.DENSE]), seq=8)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_unequal_head_sizes_take_the_math_path_and_are_refused(device: str) -> None:
    query = torch.zeros(1, 2, 8, 24, device=device)
    value = torch.zeros(1, 2, 8, 16, device=device)
    with pytest.raises(TwinError, match="math path for head sizes 24 and 16"):
        refuse_math_path(query, value)


def test_equal_head_sizes_on_cpu_are_fused() -> None:
    query = torch.zeros(1, 2, 8, 16)
    refuse_math_path(query, query)
    with operators_seen() as names, torch.no_grad():
        F.scaled_dot_product_attention(query, query, query)
    assert any("flash" in name for name in names)


def test_data_ptr_is_no_key_on_meta_and_storages_are() -> None:
    tensors = [torch.empty(5, device="meta"), torch.empty(7, device="meta")]
    assert [tensor.data_ptr() for tensor in tensors] == [0, 0]
    with pytest.raises(TwinError, match="without an address"):
        refuse_null_keys(tensor.data_ptr() for tensor in tensors)
    refuse_null_keys(storage_key(tensor) for tensor in tensors)
    assert storage_bytes(tensors) == (5 + 7) * 4
    view = tensors[1][2:4]
    assert storage_key(view) == storage_key(tensors[1])
    assert storage_bytes([view]) == storage_bytes([*tensors[1:], view]) == 7 * 4  # a view keeps the whole storage


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, archcalc.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
