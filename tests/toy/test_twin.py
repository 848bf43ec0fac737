"""A mixer's twin is one class in one registry: the cross-check compares its weights and its activations."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import pytest

from archcalc.proof import crosscheck
from tests.toy.mixer import ToySpec
from tests.toy.numbers import PLAIN, TOTAL, saved


@pytest.mark.twin
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra torch")
def test_the_twin_of_a_mixer_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    from archcalc.reference.kinds import ATTENTIONS, add_attention
    from tests.toy.twin import Toy

    monkeypatch.setattr("archcalc.reference.kinds.ATTENTIONS", dict(ATTENTIONS))
    add_attention("toy", Toy)
    found = crosscheck(ToySpec.model_validate(PLAIN), only=("params", "weights", "activations")).findings
    # flash-attn hands on a copy of what each core makes, [4096, 4 heads, 8 or 9] in bf16. The tape counts it; the
    # twin concatenates both cores and the scan first, and so keeps neither: the tape is high by that.
    different = [(f["path"], f["setting"], f["difference"]) for f in found if f["difference"]]
    (setting,) = {f["setting"] for f in found if "flash-attn" in f["setting"]}
    assert different == [("model.layers.0", setting, 4096 * 4 * (8 + 9) * 2)]
    # a layer: 2 norms, 9 tensors of the mixer, 3 of the MLP; embedding, norm, head. 24 settings of three segments
    assert Counter(f["kind"] for f in found) == {"params": 3 * 14 + 3, "weights": 1, "activations": 24 * 3}
    assert sum(f["count"] * f["theirs"] for f in found if f["kind"] == "params") == TOTAL
    fused = [f["theirs"] for f in found if (f["path"], f["setting"]) == ("model.layers.0", "fused probs@out")]
    assert fused == [saved(4096)]
