"""Claims: verdicts by definition, causes by search."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from archcalc.documents.claims import claims, judge
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from tests.support import BUNDLED, data, spec_of, tiny


def findings(spec: Spec) -> list[dict[str, Any]]:
    return [dict(finding) for finding in claims(spec).findings]


@lru_cache
def bundled(name: str) -> list[dict[str, Any]]:
    return findings(load_spec(name))


def judged(content: dict[str, Any], *claims: tuple[str, str | None]) -> list[tuple[str, str | None]]:
    """Verdict and cause of (quantity, value) claims."""
    content["claims"] = [
        {"claim": f"claim {i}", "quantity": quantity, "value": value, "source": "a test"}
        for i, (quantity, value) in enumerate(claims)
    ]
    return [(finding["verdict"], finding["cause"]) for finding in findings(spec_of(content))]


K25 = {
    # printed: (computed, verdict, cause). 1.04T is 1.3 % too high; a 61st MoE layer or an extra MTP layer would give it
    "1.04T": (1_026_408_209_408, "refuted", "field-off-by-one"),
    "1.04 million": (1_026_408_209_408, "refuted", "unit-slip"),  # 1.04T with million for trillion
    "~104B": (1_026_408_209_408, "refuted", "decimal-slip"),  # 1.04T over ten
    "~32B": (32_861_477_888, "convention", "embedding-excluded"),  # 31.69B without the input embedding
    "32.6B": (32_861_477_888, "refuted", "unexplained"),  # 32.86B, 31.69B, 30.51B: none of them
    "2.1 %": (8 / 384, "rounded", None),  # 2.083 %
    "~425M": (416_866_032, "refuted", "unexplained"),
    "400M": (416_866_032, "rounded", None),
    "9216": (2304, "refuted", "norm-after-merge"),  # 2 x 4608 instead of 2 x 1152
}


@pytest.mark.parametrize("printed", K25)
def test_every_claim_about_kimi_k25_is_judged(printed: str) -> None:
    computed, verdict, cause = K25[printed]
    (finding,) = (f for f in bundled("k25") if f["printed"] == printed)
    assert (finding["computed"], finding["verdict"], finding["cause"]) == (computed, verdict, cause)


def test_the_blanks_of_kimi_k25_are_filled() -> None:
    blanks = [f for f in bundled("k25") if f["verdict"] == "unstated"]
    # 4 x 1152; 4608 x 4608 + 4608; 7168 x 4608 + 7168
    assert [(f["claimed"], f["computed"]) for f in blanks] == [(None, 4608), (None, 21_238_272), (None, 33_037_312)]
    assert all(f["ratio"] is None and f["cause"] is None for f in blanks)


def test_no_claim_about_kimi_k25_is_left_out() -> None:
    assert len(bundled("k25")) == len(K25) + 3


def explained(printed: str) -> str:
    (finding,) = (f for f in bundled("k25") if f["printed"] == printed)
    return str(finding["explanation"])


def test_a_slip_names_the_claim_that_it_slipped_from() -> None:
    assert "the claim of 1.04T (1.04 trillion parameter MoE) over 10: the decimal point slipped" in explained("~104B")
    assert "the claim of 1.04T" in explained("1.04 million")
    assert "million for trillion" in explained("1.04 million")


def test_all_readings_that_reproduce_a_claim_are_told_and_guesses_are_called_so() -> None:
    text = explained("1.04T")
    # 1,026,408,209,408 + one MoE layer of 17,059,364,864; + a multi-token-prediction module, 17,162,146,816
    assert "backbone.layers[1].count 61 instead of 60 gives 1,043,467,574,272" in text
    assert "backbone.num_nextn_predict_layers 1 instead of 0, counted in, gives 1,043,570,356,224" in text
    assert text.endswith("a guess, not a proof)")
    assert "guess" not in explained("9216")


def test_what_no_reading_explains_is_said_to_be_unexplained() -> None:
    for printed in ("32.6B", "~425M"):
        assert explained(printed).endswith(f"no reading that was tried reproduces {printed}")


def test_the_misplaced_norm_is_found_by_flipping_its_switch() -> None:
    assert "projector.use_postshuffle_norm true instead of false" in explained("9216")


def test_ratios_are_claimed_over_computed() -> None:
    (finding,) = (f for f in bundled("k25") if f["printed"] == "9216")
    assert finding["ratio"] == 4.0  # 9216 / 2304


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_claim_has_a_verdict_an_explanation_and_a_source(name: str) -> None:
    for finding in bundled(name):
        assert finding["verdict"] in ("confirmed", "rounded", "convention", "refuted", "unstated")
        assert finding["explanation"]
        assert finding["source"]
        assert (finding["cause"] is not None) or finding["verdict"] in ("confirmed", "rounded", "unstated")


@pytest.mark.parametrize(
    ("spec", "printed", "verdict", "cause"),
    [
        ("deepseek-v3", "671B", "rounded", None),  # 671,026,404,352
        ("deepseek-v3", "37B", "convention", "embedding-excluded"),  # 36.63B; as defined 37.55B
        ("deepseek-v3", "11.5B", "convention", "layer-only"),  # the module's decoder layer: 11,507,286,016
        ("deepseek-v3", "14B", "refuted", "unexplained"),  # 13.46B with its copies of embedding and head
        ("llama-3.1-405b", "405B", "rounded", "truncated"),  # 405,853,388,800 rounds to 406B
        ("gemma-3-27b", "25,600M", "rounded", None),  # 25,599,716,096
        ("gemma-3-27b", "1,416M", "refuted", "unexplained"),  # 262,208 x 5,376 = 1,409,630,208
    ],
)
def test_claims_about_other_models(spec: str, printed: str, verdict: str, cause: str | None) -> None:
    found = [f for f in bundled(spec) if f["printed"] == printed]
    assert {(f["verdict"], f["cause"]) for f in found} == {(verdict, cause)}


def test_the_judgement_follows_the_spec() -> None:
    content = data("k25")
    content["backbone"]["ffn"]["moe"]["n_routed_experts"] = 385
    changed = {f["printed"]: f for f in findings(spec_of(content))}
    # 60 x (44,040,192 + 7168) more
    assert changed["~104B"]["computed"] == 1_029_051_051_008
    assert changed["~104B"]["verdict"] == "refuted"
    content["projector"]["use_postshuffle_norm"] = True
    content["claims"] = [c for c in content["claims"] if c["value"] == "9216"]
    assert [f["verdict"] for f in findings(spec_of(content))] == ["confirmed"]


def test_a_claim_that_was_right_is_confirmed_to_the_last_digit_only() -> None:
    total = "1026879353328"
    assert judged(data("k25"), ("params.total", total)) == [("confirmed", None)]
    assert judged(data("k25"), ("params.total", total[:-1] + "9"))[0][0] == "refuted"


# TINY: GQA 4·3·8 + 2·(2·3·8) + 8·4·3 = 288; norms 16; dense 3·20·8 = 480; MoE 48 + 7·3·5·8 = 888 (+ 6 buffer elements).
# Layers 784 + 2 x 1192; ends 2 x 256; final norm 8: in all 3688.
TOTAL = 784 + 2 * 1192 + 2 * 256 + 8


@pytest.mark.parametrize(
    ("quantity", "value", "verdict", "cause"),
    [
        ("params.total", str(TOTAL), "confirmed", None),
        ("params.total", "3.7K", "rounded", None),  # 3688
        ("params.total", "3.6K", "rounded", "truncated"),
        ("params.total", str(TOTAL + 12), "convention", "buffers-included"),  # 2 layers x 6 experts
        ("params.total", str(TOTAL - 256), "convention", "embedding-excluded"),
        ("params.total", str(TOTAL - 512), "convention", "embedding-and-head-excluded"),
        ("params.total", "3.688 million", "refuted", "unit-slip"),
        ("params.total", str(10 * TOTAL), "refuted", "decimal-slip"),
        ("params.total", str(TOTAL + 1192), "refuted", "field-off-by-one"),  # a third MoE layer
        ("params.total", "5001", "refuted", "unexplained"),
        # a layer uses 2 of 6 experts: TOTAL - 2 layers x 4 experts x 120
        ("params.active", str(TOTAL - 960), "confirmed", None),
        ("params.active", str(TOTAL - 960 - 256), "convention", "embedding-excluded"),
        ("params.active_no_embedding", str(TOTAL - 960), "convention", "embedding-and-head-included"),
        ("moe.activation_ratio", "33.3 %", "rounded", None),  # 2/6
        ("moe.activation_ratio", "42.9 %", "convention", "shared-experts-included"),  # 3/7
        ("params[model.norm]", "8", "confirmed", None),
        ("params[model.layers.0.mlp.act]", "0", "confirmed", None),
        ("params[model.layers.*.mlp.gate]", None, "unstated", None),
    ],
)
def test_verdict_and_cause(quantity: str, value: str | None, verdict: str, cause: str | None) -> None:
    assert judged(tiny(), (quantity, value)) == [(verdict, cause)]


def test_a_claim_that_counts_multi_token_prediction_in_is_a_convention() -> None:
    content = tiny(num_nextn_predict_layers=1)
    mtp = 1192 + 8 * 16 + 3 * 8  # a MoE layer, eh_proj, three norms
    assert judged(content, ("params.total", str(TOTAL + mtp))) == [("convention", "mtp-included")]
    ends = 512  # embedding and head once more, as DeepSeek's releases hold them
    assert judged(content, ("params.total", str(TOTAL + mtp + ends))) == [("convention", "mtp-and-copies-included")]
    assert judged(content, ("params.mtp", str(mtp + ends))) == [("convention", "embedding-and-head-included")]


def test_a_slip_is_looked_for_in_claims_that_are_nearer_to_the_truth_only() -> None:
    # the right one slipped from nothing; the wrong ones both lead back to it, not to each other
    verdicts = judged(
        tiny(), ("params.total", str(TOTAL)), ("params.total", str(TOTAL * 10)), ("params.total", str(TOTAL * 100))
    )
    assert verdicts == [("confirmed", None), ("refuted", "decimal-slip"), ("refuted", "decimal-slip")]


def test_readings_stand_in_the_finding_with_their_values() -> None:
    content = tiny()
    content["claims"] = [{"claim": "c", "quantity": "params.total", "value": str(TOTAL + 1192), "source": "s"}]
    (finding,) = findings(spec_of(content))
    assert {"cause": "field-off-by-one", "value": TOTAL + 1192} in [
        {key: reading[key] for key in ("cause", "value")} for reading in finding["readings"]
    ]


def test_a_spec_without_claims_says_so() -> None:
    report = claims(spec_of(tiny()))
    assert report.title == "Tiny: 0 published claims, none to judge"
    assert report.findings == []


@pytest.mark.parametrize(
    ("quantity", "hint"),
    [
        ("params.totl", "did you mean params.total?"),
        ("params[model.nrom]", "did you mean model.norm?"),
        ("kv.x", "one of"),
    ],
)
def test_a_claim_about_an_unknown_quantity_is_an_error(quantity: str, hint: str) -> None:
    content = tiny()
    content["claims"] = [{"claim": "c", "quantity": quantity, "value": "1", "source": "s"}]
    with pytest.raises(InputError) as caught:
        judge(spec_of(content))
    assert hint in (caught.value.hint or "")
