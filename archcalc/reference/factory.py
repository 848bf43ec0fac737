"""Where and how a module's tensors are made: torch's own keyword arguments, passed on as a pair."""

from __future__ import annotations

from typing import TypedDict

import torch


class Factory(TypedDict):
    """Keyword arguments of every torch constructor: `meta` for shapes only, `cpu` for numbers."""

    device: torch.device
    dtype: torch.dtype
