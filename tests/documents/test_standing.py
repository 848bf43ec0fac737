"""The quantities that a diff, a claim and a budget share: each is what the command of its name answers."""

from __future__ import annotations

import pytest

from archcalc.documents.ask import answer
from archcalc.documents.quantities import QUANTITIES
from archcalc.documents.standing import IMAGE, SEEN, standing
from archcalc.errors import InputError
from archcalc.files.loader import load_spec

K25 = load_spec("k25")


def test_every_standing_quantity_stands_in_the_glossary() -> None:
    assert standing(K25, gpu="h200", plan="k2-pretrain").keys() <= QUANTITIES.keys()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("params", {}),
        ("kv", {"context": 131072}),
        ("weights", {}),
        ("serve", {"gpu": "h200"}),
        ("train", {"plan": "k2-pretrain"}),
    ],
)
def test_a_standing_quantity_is_what_its_command_answers(command: str, arguments: dict[str, object]) -> None:
    found = standing(K25, gpu="h200", plan="k2-pretrain")
    told = answer(command, K25, arguments).quantities
    assert {name: found[name] for name in told} == told


def test_flops_are_those_of_text_and_the_towers_those_of_one_image() -> None:
    text = answer("flops", K25, {"seq": 4096}).quantities
    image = answer("flops", K25, {"seq": 1, "image": [IMAGE]}).quantities
    found = standing(K25)
    assert {name: found[name] for name in text if name not in SEEN} == {
        name: n for name, n in text.items() if name not in SEEN
    }
    assert {name: found[name] for name in SEEN} == {name: image[name] for name in SEEN}
    # 1,024 x 768 pixels in patches of 14, merged 2 x 2: 37 x 28 tokens (each side rounded up to whole windows of 28)
    assert (found["vision.tokens"], found["vision.patches"]) == (37 * 28, 4 * 37 * 28)


def test_what_is_asked_for_stands_in_place_of_the_standard() -> None:
    found = standing(K25, seq=100, image=[(448, 448)], context=8192, gpu="h200", gpus=16)
    flops = answer("flops", K25, {"seq": 100, "image": [(448, 448)]}).quantities
    assert {name: found[name] for name in flops} == flops
    assert found["kv.total_bytes"] == 8192 * 70_272  # (512 + 64) x 2 bytes x 61 layers a token
    assert found["serve.gpus"] == 16
    assert found["serve.kv_bytes"] == 8192 * 70_272  # latent attention keeps the whole cache on every device


def test_an_override_of_the_plan_is_heard() -> None:
    plain, less = (standing(K25, plan="k2-pretrain", set=changes) for changes in ((), ["memory.fixed=0GB"]))
    assert plain["train.fixed_bytes"] == 4 * 10**9 + less["train.fixed_bytes"]


def test_what_does_not_fit_the_spec_is_refused() -> None:
    llama = load_spec("llama-3.1-8b")
    assert standing(llama)["flops.vision"] == 0
    with pytest.raises(InputError, match="has no vision tower"):
        standing(llama, image=[(448, 448)])
    with pytest.raises(InputError, match="no bundled GPU"):
        standing(llama, gpu="h2000")
