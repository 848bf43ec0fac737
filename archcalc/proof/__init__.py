"""The cross-check: archcalc's tape against the torch twin, and against Hugging Face transformers.

Only here do the two meet. The twin gets plain mappings; nothing of it knows a tape, and no calculator knows torch.
"""

from archcalc.proof.check import KINDS, crosscheck

__all__ = ["KINDS", "crosscheck"]
