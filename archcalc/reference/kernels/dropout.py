"""Dropout (arXiv:1207.0580) as CUDA runs it, whatever the device here.

On CUDA torch's dropout is one kernel, `native_dropout`, that keeps a mask of bools and nothing else. On CPU and meta
`functional.dropout` multiplies with noise in the input's dtype instead, and keeps both: it would count two to four
bytes an element for one, and the input besides. So the kernel's own name is called, which has a form for every device.
Without a chance to drop anything nothing runs, as there. An ordinary checkpoint here draws a new mask when it computes
again: what is kept is right, gradients are not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dropped(x: Tensor, chance: float) -> Tensor:
    """x with elements set to 0 by this chance, the others scaled up."""
    if not chance:
        return x
    out: Tensor = torch.native_dropout(x, chance, True)[0]
    return out
