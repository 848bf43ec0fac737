"""These tests need the extras `torch` and `hf`, and one thread: threads that wait cost tiny models more than
they give."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

collect_ignore: list[str] = []
if find_spec("torch") is None:
    collect_ignore += ["test_build.py", "test_flops.py", "test_guards.py", "test_indexer.py", "test_k25.py"]
    collect_ignore += ["test_layer_steps.py", "test_sense.py", "test_windows.py"]
if find_spec("torch") is None or find_spec("transformers") is None:
    collect_ignore += ["test_checkpoint_names.py", "test_gemma.py", "test_hf.py", "test_numbers.py"]
    collect_ignore += ["test_public_layers.py", "test_vit.py"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    if find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
