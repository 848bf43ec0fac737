"""Sections of a head that turn by time, height and width: multimodal rotary embedding (Qwen2-VL, arXiv:2409.12191)."""

from __future__ import annotations

from collections.abc import Callable

from archcalc.errors import SpecError
from archcalc.hf import rules
from archcalc.hf.config import Config, Said, show


def sectioned(scaling: Callable[[Config], Said], turned: float = 1.0) -> Callable[[Config], Said]:
    """The same of a class that turns sections of a head by time, height and width: they have to be all pairs that turn
    (transformers, models/qwen2_vl, apply_multimodal_rotary_pos_emb; vLLM, mrope.py, MRotaryEmbedding), of `turned` of a
    head where the config does not say."""

    def read(config: Config) -> Said:
        values, key = rules.rotary(config)
        sections = values.get("mrope_section")
        if sections is not None:
            dim = rules.whole_head(config)
            partial = rules.rotary_dim(config, dim, turned, key_of_its_own=False)
            pairs = (dim if partial is None else partial.value) // 2
            whole = isinstance(sections, list) and all(type(n) is int and n >= 0 for n in sections)
            if not whole or sum(sections) != pairs:
                message = f"mrope_section {show(sections)} does not add up to the {pairs} pairs of a head that turn"
                place = (*config.loc, key, "mrope_section")
                raise SpecError.from_problems([config.document.problem(message, place, value=sections)])
        return scaling(config)

    return read
