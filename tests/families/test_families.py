"""What archcalc imports is what the public class builds, whatever key of its config is another, or it is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("transformers")

from archcalc.errors import InputError
from tests.families import mine, names, public
from tests.families.bases import BASES
from tests.families.edits import edits

pytestmark = pytest.mark.twin

LEAST = 0.6
"""Share of the edits of a base's own keys that archcalc imports, of those that the class builds: refusing everything is
no answer. What is refused are sizes that no forward pass has, such as heads that don't divide."""


NO_SIZE = ("NoneType", "Padding_idx", "value None", "got None")
"""What a class says of a config whose sizes it does not mind: null where a dropout or a base stands, ids of tokens."""


def foreign(config: dict[str, Any], base: dict[str, Any]) -> bool:
    """Whether a config has a key that its base has not."""
    return any(
        key not in base or (isinstance(value, dict) and isinstance(base[key], dict) and foreign(value, base[key]))
        for key, value in config.items()
    )


class Tally:
    """How many edits of a base both sides build, and where they disagree."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.built = self.imported = 0
        self.wrong: list[str] = []

    def judge(self, label: str, config: dict[str, Any]) -> None:
        """Compare one edit. Sizes that the class refuses are refused here; a refusal of ours is no difference."""
        try:
            parameters, buffers = public.tensors(config)
        except public.Unbuildable as refusal:
            if not any(word in str(refusal) for word in NO_SIZE) and self._imports(config):
                self.wrong.append(f"{label}: imported, and the class refuses it: {str(refusal)[:200]}")
            return
        own = not foreign(config, BASES[self.base])
        self.built += own
        try:
            found = mine.ours(config)
        except InputError as refusal:
            if label == "as it is":
                self.wrong.append(f"{label}: refused: {refusal}")
            return
        self.imported += own
        model_type = config["model_type"]
        if "vision_config" in BASES[self.base] and not config.get("vision_config"):
            text = (".language_model.", "lm_head")  # the text alone is imported, and says so
            parameters = {name: shape for name, shape in parameters.items() if any(part in name for part in text)}
        for kind, theirs in (("params", parameters), ("buffers", buffers)):
            lines = names.differences(names.named(found[kind], model_type), names.public(theirs, model_type))
            self.wrong += [f"{label}: {kind}: {line}" for line in lines[:4]]

    @staticmethod
    def _imports(config: dict[str, Any]) -> bool:
        try:
            mine.spec_of(config)
        except InputError:
            return False
        return True


@pytest.mark.parametrize("base", BASES)
def test_an_edit_that_the_class_sees_is_seen_here_or_refused(base: str) -> None:
    tally = Tally(base)
    for label, config in edits(BASES[base], base):
        tally.judge(label, config)
    assert not tally.wrong, "\n".join(tally.wrong[:40])
    assert tally.imported >= LEAST * tally.built, f"{tally.imported} of {tally.built} imported"


@pytest.mark.parametrize("base", BASES)
def test_the_public_class_builds_the_base_and_its_names_are_known(base: str) -> None:
    config = BASES[base]
    parameters, _ = public.tensors(config)
    found = names.public(parameters, config["model_type"])
    assert found.total() == public.total(parameters)
    assert not [
        name for name in found if not name.startswith(("model.", "lm_head.", "visual.", "vision_tower.", "mm_"))
    ]


def test_a_wrong_size_shows_by_name() -> None:
    shapes, _ = public.tensors(BASES["mixtral"])
    theirs = names.public(shapes, "mixtral")
    ours = theirs + Counter({"model.layers.2.mlp.experts.*.up_proj.weight": 1})
    assert names.differences(theirs, theirs) == []
    assert names.differences(ours, theirs) == [
        # 5 experts of intermediate_size 40 times hidden_size 48
        "model.layers.2.mlp.experts.*.up_proj.weight: 9,601 here, 9,600 in the public class"
    ]


def test_every_size_of_every_base_is_edited() -> None:
    for base, config in BASES.items():
        labels = [label for label, _ in edits(config, base)]
        assert len(labels) == len(set(labels)) or "and" in "".join(labels)
        for key, value in config.items():
            if type(value) is int and value > 1:
                assert {f"{key} {value // 2}", f"{key} {2 * value}", f"{key} removed"} <= set(labels), base
