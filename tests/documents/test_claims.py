"""Claims: verdicts by definition, causes by search."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from archcalc.documents.claims import claims, judge
from archcalc.documents.quantities import QUANTITIES
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.units import printed_kind
from tests.support import BUNDLED, data, quantities, run, spec_of, tiny, written


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


# ------------------------------------------------------------------------------------------ two ways to count at once


def test_a_hubs_count_of_a_release_with_copies_and_scales_is_a_convention() -> None:
    """671,026,404,352 + 11,610,067,968 (prediction module) + 1,853,358,080 (its embedding and head) + 15,104 buffers
    are the elements of the release, 684,489,845,504; with its 41,540,496 block scales 684,531,386,000, the hub's."""
    judgements = {}
    for printed in ("685B", "684.5B"):
        content = data("deepseek-v3")
        content["claims"] = [{"claim": "hub", "quantity": "params.total", "value": printed, "source": "the hub"}]
        (judgements[printed],) = findings(spec_of(content))
    assert {f["verdict"] for f in judgements.values()} == {"convention"}
    both = {r["cause"]: r["value"] for r in judgements["685B"]["readings"] if r["cause"].endswith("scales-included")}
    assert both["stored-elements+scales-included"] == 684_531_386_000
    alone = {r["cause"]: r["value"] for r in judgements["684.5B"]["readings"]}
    assert alone["stored-elements"] == 684_489_845_504
    assert not [cause for cause in alone if "+" in cause]  # with its scales it would print so too
    assert "with the scales of quantized weights it is 684,531,386,000" in judgements["685B"]["explanation"]


def test_what_a_release_stores_is_claimed_with_and_without_scales() -> None:
    content = data("deepseek-v3")
    exact = [str(684_489_845_504 + n) for n in (0, 41_540_496)]
    assert judged(content, *(("weights.elements", value) for value in exact)) == [
        ("confirmed", None),
        ("convention", "scales-included"),
    ]


def test_two_ways_to_count_go_together_only_where_none_does_alone() -> None:
    assert judged(tiny(), ("params.total", str(TOTAL + 12 - 256)))[0] == (
        "convention",
        "buffers-included+embedding-excluded",
    )
    content = tiny()
    content["claims"] = [{"claim": "c", "quantity": "params.total", "value": str(TOTAL + 12), "source": "s"}]
    (finding,) = findings(spec_of(content))
    assert not [r for r in finding["readings"] if "+" in r["cause"]]


def test_two_ways_that_count_the_same_part_otherwise_never_go_together() -> None:
    # without the embedding, and again without embedding and head: 256 + 512 less is no way to count
    assert judged(tiny(), ("params.total", str(TOTAL - 256 - 512)))[0][0] == "refuted"


# ------------------------------------------------------------------------------------------------ of other quantities


def claimed(content: dict[str, Any], quantity: str, value: str | None, **under: Any) -> dict[str, Any]:
    """The one finding about a claim."""
    content["claims"] = [{"claim": "c", "quantity": quantity, "value": value, "source": "s", **under}]
    (finding,) = findings(spec_of(content))
    return finding


@pytest.mark.parametrize(
    ("quantity", "value", "verdict", "cause"),
    [
        ("kv.bytes_per_token", "72", "confirmed", None),  # 3 layers x keys and values of 2 heads x 3 features x 2 B
        ("kv.bytes_per_token", "36", "convention", "cache-in-fp8"),
        ("kv.bytes_per_token", "108", "refuted", "field-off-by-one"),  # 3 key-value heads
        ("kv.sequence_bytes_8k", "576 KiB", "confirmed", None),  # 8192 x 72 B
        ("kv.sequence_bytes_8k", "576 kB", "convention", "binary-units"),
        ("kv.sequence_bytes_8k", "590 kB", "rounded", None),  # 589,824 B
        ("weights.bytes", str(2 * (TOTAL + 12)), "confirmed", None),  # bf16, 12 elements of router bias
        ("weights.bytes", "7.4 kB", "confirmed", None),  # 7,400 B
        ("weights.bytes", "7 kB", "rounded", None),
        ("weights.elements", str(TOTAL), "convention", "buffers-excluded"),
        ("vision.tokens", "0", "confirmed", None),
        ("flops.backward", "0", "confirmed", None),
    ],
)
def test_claims_about_other_quantities(quantity: str, value: str, verdict: str, cause: str | None) -> None:
    finding = claimed(tiny(), quantity, value)
    assert (finding["verdict"], finding["cause"]) == (verdict, cause)


def test_each_quantity_is_what_its_command_says() -> None:
    content = data("k25")
    for quantity, command, flags in (
        ("flops.per_token", ("flops",), {}),
        ("flops.per_token", ("flops", "--seq", "8192"), {"seq": "8k"}),
        ("flops.vision", ("flops", "--seq", "1", "--image", "448x448"), {"seq": 1, "image": ["448x448"]}),
        ("vision.tokens", ("flops", "--image", "1024x768"), {}),
        ("kv.fixed_bytes", ("kv", "--context", "4096"), {"context": "4k"}),
        ("weights.bytes", ("weights",), {}),
        ("serve.margin_bytes", ("serve", "--gpu", "h200"), {"gpu": "h200"}),
        (
            "serve.kv_budget_bytes",
            ("serve", "--gpu", "h200", "--gpus", "16", "--context", "65536"),
            {"gpu": "h200", "gpus": 16, "context": "64k"},
        ),
        ("train.peak_bytes", ("train", "--plan", "k2-pretrain"), {"plan": "k2-pretrain"}),
    ):
        name, *more = command
        asked = quantities(name, "k25", *more)[quantity]
        finding = claimed(content, quantity, None, **flags)
        assert (finding["verdict"], finding["computed"]) == ("unstated", asked), quantity
        assert set(finding["under"]) == set(flags)


def test_numbers_of_bytes_flops_and_verdicts_are_read_as_they_are_printed() -> None:
    content = data("k25")
    for quantity, value, verdict, under in (
        ("weights.bytes", "595 GB", "rounded", {}),  # 595,148,192,736
        ("weights.bytes", "554.27 GiB", "rounded", {}),
        ("weights.bytes", "554 GB", "convention", {}),  # printed as GB, meant as GiB
        ("flops.per_token", "68.5 GFLOPs", "rounded", {}),  # 68,489,183,232
        ("flops.per_token", "6.85e10", "rounded", {}),
        ("flops.per_token", "68.5 TFLOPs", "refuted", {}),
        ("train.fits", "yes", "confirmed", {"plan": "k2-pretrain"}),
        ("serve.fits", "no", "refuted", {"gpu": "h200"}),
        ("serve.gpus", "8", "confirmed", {"gpu": "h200"}),
    ):
        finding = claimed(content, quantity, value, **under)
        assert finding["verdict"] == verdict, (quantity, value, finding["explanation"])


def test_the_kind_of_a_printed_number_is_the_unit_of_its_quantity() -> None:
    kinds = {"bytes": "bytes", "flops": "flops", "bool": "bool"}
    for name, about in QUANTITIES.items():
        assert printed_kind(name) == kinds.get(about.unit, "count"), name
    assert printed_kind("params[model.bytes]") == "count"


@pytest.mark.parametrize(
    ("claim", "key", "says", "hint"),
    [
        ({"quantity": "kv.bytes_per_tokn"}, "quantity", "which is no quantity of this spec", "kv.bytes_per_token?"),
        ({"quantity": "params[model.nrom]"}, "quantity", "no part is at model.nrom", "did you mean model.norm?"),
        ({"quantity": "serve.gpus"}, "quantity", "serve.gpus, which needs a gpu", "add gpu: h200"),
        ({"quantity": "train.fits", "value": "yes"}, "quantity", "which needs a plan", "add plan: k2-pretrain"),
        ({"quantity": "params.total", "context": 4096}, "context", "context says nothing about params.total", "spec"),
        ({"quantity": "kv.fixed_bytes", "gpu": "h200"}, "gpu", "gpu says nothing", "it takes context"),
        ({"quantity": "serve.gpus", "gpu": "h2OO"}, "gpu", 'no bundled GPU is named "h2OO"', ""),
        ({"quantity": "serve.gpus", "gpu": "/etc/passwd"}, "gpu", "no bundled GPU is named", "bundled: "),
        (
            {"quantity": "train.fits", "value": "no", "plan": "./x.yaml"},
            "plan",
            "no bundled plan is named",
            "bundled: ",
        ),
        ({"quantity": "vision.tokens", "image": ["8x8"]}, "image", "Tiny has no vision tower", ""),
        ({"quantity": "kv.max_tokens"}, "quantity", "no quantity of Tiny that a claim", "kv.bytes_per_token"),
        ({"quantity": "serve.fits", "gpu": "h200", "value": "1"}, "value", "neither yes nor no", "write yes or no"),
        ({"quantity": "weights.bytes", "value": "5B5"}, "value", "is not a number", "595 GB"),
        ({"quantity": "kv.fixed_bytes", "context": "4x"}, "context", "is not a number of tokens", "256k"),
        ({"quantity": "flops.total", "image": ["8"]}, "image", "is no size", "1024x768"),
    ],
)
def test_what_a_claim_can_not_say_is_told_at_its_key(
    claim: dict[str, Any], key: str, says: str, hint: str, tmp_path: Path
) -> None:
    content = tiny()
    wrong = {"claim": "c", "value": "1", "source": "s", **claim}
    content["claims"] = [{"claim": "fine", "quantity": "params.total", "value": None, "source": "s"}, wrong]
    path = written(tmp_path, content)
    lines = Path(path).read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if text.startswith(f"  {key}:") and n > lines.index("claims:") + 5)
    for command, code in (("claims", 2), ("validate", 1)):
        ran = run(command, path)
        assert (ran.code, ran.out) == (code, "")
        assert re.search(rf"^{re.escape(path)}:({line}|{line + 1}):\d+: error: .*{re.escape(says)}", ran.err), ran.err
        told = [text for text in ran.err.splitlines() if text.startswith("hint: ")]
        assert hint in "".join(told)
        assert f"did you mean {claim['quantity']}?" not in ran.err


def test_no_hint_offers_the_name_that_was_refused() -> None:
    for name in QUANTITIES:
        content = tiny()
        content["claims"] = [{"claim": "c", "quantity": name, "value": None, "source": "s"}]
        hint = ""
        try:
            claims(spec_of(content))
        except InputError as error:
            hint = error.hint or ""
        assert f"did you mean {name}?" not in hint, name


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
