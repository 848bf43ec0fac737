"""The cross-check finds nothing where nothing is wrong, at full size, and finds every thing that is made wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from archcalc.arch.block import Block
from archcalc.documents.document import Report
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.proof import KINDS, crosscheck
from archcalc.proof import check as check_module
from archcalc.proof.sides import joined
from archcalc.tape import Dim, Op, Save, Tape, Term
from archcalc.training.schedule import most_live
from tests.support import data, run, spec_of, tiny, written

HAS_TORCH = find_spec("torch") is not None
twin = [pytest.mark.twin, pytest.mark.skipif(not HAS_TORCH, reason="needs the extra torch")]
public = [*twin, pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra hf")]


def marked(marks: list[pytest.MarkDecorator]) -> Callable[[Any], Any]:
    def mark(test: Any) -> Any:
        for each in marks:
            test = each(test)
        return test

    return mark


def different(report: Report) -> dict[str, set[str]]:
    """Paths that differ, by kind."""
    found: dict[str, set[str]] = {}
    for finding in report.findings:
        if finding["difference"]:
            found.setdefault(finding["kind"], set()).add(finding["path"])
    return found


# --------------------------------------------------------------------------------------------- full size, all equal


@pytest.mark.parametrize(
    ("name", "total", "paths"),
    [
        (
            "k25",
            1_026_879_353_328,
            {
                # 60 layers of 2 norms, 7 of attention, router, 3 experts, 3 shared; one of 2 + 7 + 3; embedding, norm,
                # head; 27 blocks of 12, 5 around them, 6 of the projector
                "params": 60 * 16 + 12 + 3 + 27 * 12 + 5 + 6,
                "buffers": 60,
                # forward and backward of training, forward of decode: layers of 6 in attention, and 7 or 3; the head;
                # training also 27 blocks of 5, the patch convolution, 2 of the projector
                "flops": 3 * (60 * 13 + 9 + 1) + 2 * (27 * 5 + 1 + 2),
                "kv": 2 * 61,
                "weights": 1,
                # embedding, a dense and a MoE layer, head, in 24 settings; tower and projector in the two plain ones
                "activations": 24 * 4 + 2 * 4,
                "schedule": 3 * 8,
            },
        ),
        (
            "deepseek-v3",
            671_026_404_352,
            {
                "params": 58 * 16 + 3 * 12 + 3,
                "buffers": 58 + 1,
                "mtp": 16 + 4,  # a MoE layer, three norms and the projection that joins
                # the prediction module, forward and backward: a MoE layer, its projection, the shared head
                "flops": 3 * (58 * 13 + 3 * 9 + 1) + 2 * (13 + 1 + 1),
                "kv": 2 * 61,
                "weights": 1,
                "activations": 24 * 4,
                "schedule": 3 * 8,
            },
        ),
        (
            "llama-3.1-70b",
            70_553_706_496,
            {
                "params": 80 * 9 + 3,
                "flops": 3 * (80 * 8 + 1),
                "kv": 2 * 80,
                "weights": 1,
                "activations": 24 * 3,
                "schedule": 3 * 8,
            },
        ),
        (
            "gemma-3-27b",
            27_009_346_304,
            {
                # a layer: four norms, q, k, v, o and two norms of heads, three of the feed-forward; no head: it is tied
                "params": 62 * 13 + 2,
                "flops": 3 * (62 * 8 + 1),
                "kv": 2 * 62,
                "weights": 1,
                "activations": 24 * 4,  # embedding, a local and a global layer, head
                "schedule": 3 * 8,
            },
        ),
    ],
)
@marked(twin)
def test_a_full_size_model_agrees_with_the_twin_integer_for_integer(
    name: str, total: int, paths: dict[str, int]
) -> None:
    report = crosscheck(load_spec(name))
    assert different(report) == {}
    assert Counter(f["kind"] for f in report.findings) == paths
    assert sum(f["count"] * f["theirs"] for f in report.findings if f["kind"] == "params") == total
    assert all(f["theirs"] > 0 for f in report.findings)
    assert len({(f["kind"], f["path"], f["setting"]) for f in report.findings}) == len(report.findings)


@marked(public)
def test_k25_agrees_with_the_public_class() -> None:
    report = crosscheck(load_spec("k25"), against="transformers")
    assert different(report) == {}
    # FLOPs: layers of 6 in attention, router, the experts in one module, 3 shared; one of 9; the head
    paths = {"params": 1310, "buffers": 60, "flops": 60 * (6 + 1 + 1 + 3) + 9 + 1, "kv": 61}
    assert Counter(f["kind"] for f in report.findings) == paths
    by_kind = {row["kind"]: row["theirs"] for row in (report.rows.rows if report.rows else ())}
    assert by_kind == {
        "params": 1_026_879_353_328,
        "buffers": 23_040,
        "flops": 301_491_134_922_752,
        "kv": 61 * 64 * 2 * (512 + 64),  # 64 tokens' latents and rotary keys in bf16
    }
    assert any("inv_freq" in note for note in report.notes)


@marked(public)
def test_gemma_3_agrees_with_the_public_class_within_its_window() -> None:
    report = crosscheck(load_spec("gemma-3-27b"), against="transformers")
    assert different(report) == {}
    assert Counter(f["kind"] for f in report.findings) == {"params": 62 * 13 + 2, "flops": 62 * 8 + 1, "kv": 2 * 62}
    held = {(f["path"], f["setting"]): f["theirs"] for f in report.findings if f["kind"] == "kv"}
    each = 2 * 16 * 128 * 2  # keys and values of 16 heads of 128, in bf16; a window of 1024 keeps 1023 of them
    assert held["model.layers.0.self_attn", "64 tokens"] == held["model.layers.5.self_attn", "64 tokens"] == 64 * each
    assert held["model.layers.0.self_attn", "1025 tokens"] == 1023 * each
    assert held["model.layers.5.self_attn", "1025 tokens"] == 1025 * each
    assert "FLOPs at 1024 tokens: transformers masks what a window hides, it does not skip it." in report.notes


# ------------------------------------------------------------------------------------------- small models of all sorts

MLA: dict[str, Any] = {
    "kind": "mla",
    "num_attention_heads": 4,
    "q_lora_rank": 7,
    "kv_lora_rank": 6,
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 2,
    "v_head_dim": 3,
    "attention_bias": False,
}
GQA: dict[str, Any] = tiny()["backbone"]["attention"]["gqa"] | {"head_dim": 4}
DENSE: dict[str, Any] = tiny()["backbone"]["ffn"]["dense"]
MOE: dict[str, Any] = tiny()["backbone"]["ffn"]["moe"]


def model(attention: dict[str, Any], *ffns: dict[str, Any], **backbone: Any) -> dict[str, Any]:
    """A spec with a layer for each ffn."""
    names = [f"{ffn['kind']}{n}" for n, ffn in enumerate(ffns)]
    layers = [{"count": n + 1, "attention": "a", "ffn": name} for n, name in enumerate(names)]
    return tiny(
        num_hidden_layers=sum(layer["count"] for layer in layers),
        layers=layers,
        attention={"a": attention},
        ffn=dict(zip(names, ffns, strict=True)),
        **backbone,
    )


def seeing() -> dict[str, Any]:
    """K2.5 with few layers, narrow ones."""
    content = data("k25")
    content["backbone"] |= {"hidden_size": 16, "vocab_size": 40, "num_hidden_layers": 3}
    content["backbone"]["layers"][1]["count"] = 2
    content["backbone"]["attention"]["mla"] |= {"num_attention_heads": 2, "q_lora_rank": 7, "kv_lora_rank": 6}
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 20
    content["backbone"]["ffn"]["moe"] |= {"n_routed_experts": 12, "moe_intermediate_size": 6}
    content["vision"] |= {"vt_hidden_size": 24, "vt_num_hidden_layers": 2, "vt_num_attention_heads": 2}
    content["vision"]["vt_intermediate_size"] = 30
    content["projector"] |= {"mm_hidden_size": 24, "text_hidden_size": 16}
    content["storage"] = {"default": content["storage"]["default"]}
    return content


SORTS = {
    "grouped queries": model(GQA, DENSE, MOE),
    "biases": model(GQA | {"attention_bias": True, "attention_out_bias": True}, DENSE | {"mlp_bias": True}),
    "norms of each head": model(GQA | {"qk_norm": "per_head"}, DENSE),
    "norms of all heads": model(GQA | {"qk_norm": "full"}, DENSE),
    "no gate": model(GQA, DENSE | {"gated": False, "hidden_act": "gelu"}),
    "GPT": model(
        GQA | {"num_key_value_heads": 4, "attention_bias": True, "attention_out_bias": True},
        DENSE | {"gated": False, "hidden_act": "gelu", "mlp_bias": True},
        norm="layer",
        layer_norm_eps=1e-5,
        rms_norm_eps=None,
        rope_theta=None,
        position_embeddings=64,
    ),
    "squared ReLU": model(
        GQA | {"rotary_dim": 2},
        DENSE | {"gated": False, "hidden_act": "relu2"},
        MOE | {"gated": False, "hidden_act": "relu2"},
        norm="layer",
        layer_norm_eps=1e-5,
        rms_norm_eps=None,
    ),
    "tied": model(GQA, DENSE, tie_word_embeddings=True),
    "latents": model(MLA, DENSE, MOE),
    "latents, no query rank": model(MLA | {"q_lora_rank": None}, MOE),
    "no shared expert": model(MLA, MOE | {"n_shared_experts": 0}),
    "two shared experts": model(GQA, MOE | {"n_shared_experts": 2}),
    "softmax router": model(GQA, MOE | {"scoring_func": "softmax", "topk_method": "greedy"}),
    "weights not normalised": model(GQA, MOE | {"norm_topk_prob": False}),
    "prediction module": model(MLA, DENSE, MOE, num_nextn_predict_layers=1),
    "patterns that alternate": model(GQA, DENSE, MOE),
    "vision": seeing(),
}
SORTS["patterns that alternate"]["backbone"]["layers"] = [
    {"count": 1, "attention": "a", "ffn": ffn} for ffn in ("dense0", "moe1", "dense0")
]


@pytest.mark.parametrize("sort", SORTS)
@marked(twin)
def test_every_sort_of_model_agrees(sort: str) -> None:
    assert different(crosscheck(spec_of(SORTS[sort]))) == {}


# ----------------------------------------------------------------------------------------- what is wrong is found out

Wrong = Callable[[pytest.MonkeyPatch], None]


def altering(*kinds: str, **changes: Callable[[Op], Any]) -> Wrong:
    """Our operations of these kinds recorded with other facts than they should be."""

    def install(patch: pytest.MonkeyPatch) -> None:
        record = Tape.record

        def wrong(tape: Tape, op: Op) -> None:
            if op.kind in kinds:
                op = op._replace(**{field: change(op) for field, change in changes.items()})
            record(tape, op)

        patch.setattr(Tape, "record", wrong)

    return install


def resizing(key: str, by: int) -> Wrong:
    """A size of the spec misread by our blocks."""

    def install(patch: pytest.MonkeyPatch) -> None:
        dim = Block.dim

        def wrong(block: Block, name: str, axis: str | None = None) -> Dim:
            found = dim(block, name, axis)
            return Dim(found.name, found.size + by, axis) if name == key else found

        patch.setattr(Block, "dim", wrong)

    return install


def without(kind: str) -> Wrong:
    """An operation that our tape forgets."""

    def install(patch: pytest.MonkeyPatch) -> None:
        record = Tape.record
        patch.setattr(Tape, "record", lambda tape, op: None if op.kind == kind else record(tape, op))

    return install


def halved(op: Op) -> Any:
    return tuple(Term(term.coefficient // 2, term.dims) for term in op.flops)


def unsaved(op: Op) -> tuple[Save, ...]:
    return op.saves[1:]


def replacing(target: str, value: Any) -> Wrong:
    return lambda patch: patch.setattr(target, value)


def spec_of_the_twin(change: Callable[[dict[str, Any]], object]) -> Wrong:
    """A spec that says something else to the twin than to us."""

    def install(patch: pytest.MonkeyPatch) -> None:
        dump = Spec.model_dump

        def other(spec: Spec, **options: Any) -> dict[str, Any]:
            plain = dump(spec, **options)
            change(plain)
            return plain

        patch.setattr(Spec, "model_dump", other)

    return install


def trained_buffers(patch: pytest.MonkeyPatch) -> None:
    """Router biases taken for parameters."""
    weight = Tape.weight

    def wrong(tape: Tape, *arguments: Any, **options: Any) -> Any:
        return weight(tape, *arguments, **{**options, "trainable": True})

    patch.setattr(Tape, "weight", wrong)


WRONG: dict[str, tuple[str, Wrong, set[str]]] = {
    # what is wrong: (model, how, kinds of finding that must differ)
    "an expert one too wide": (
        "grouped queries",
        resizing("moe_intermediate_size", 1),
        {"params", "flops", "weights", "activations"},
    ),
    "a head one too narrow": ("latents", resizing("v_head_dim", -1), {"params", "flops", "weights", "activations"}),
    "a cached latent one too long": (
        "latents",
        resizing("kv_lora_rank", 1),
        {"params", "flops", "kv", "weights", "activations"},
    ),
    "one token entry more": ("tied", resizing("vocab_size", 1), {"params", "flops", "weights", "activations"}),
    "no router": ("grouped queries", without("router"), {"params", "buffers", "flops", "weights", "activations"}),
    "no norms": ("grouped queries", without("rms_norm"), {"params", "weights", "activations"}),
    "scores counted half": ("grouped queries", altering("attention", flops=halved), {"flops"}),
    "one multiply-add a FLOP": ("latents", altering("linear", flops=halved), {"flops"}),
    "no input gradient": ("grouped queries", altering("linear", backward_factor=lambda op: 1), {"flops"}),
    "pixels with a gradient": ("vision", altering("conv_patch", backward_factor=lambda op: 2), {"flops"}),
    "a saved tensor missing": ("grouped queries", altering("rms_norm", saves=unsaved), {"activations"}),
    "a tower that saves too little": ("vision", altering("activation", saves=unsaved), {"activations"}),
    "attention that saves too little": ("latents", altering("attention", saves=unsaved), {"activations"}),
    "no masks of dropout": (
        "grouped queries",
        altering("add", "dropout", saves=lambda op: ()),
        {"activations"},
    ),
    "no mask of attention's dropout": (
        "latents",
        altering("attention", saves=lambda op: tuple(s for s in op.saves if "attention_dropout" not in s.when)),
        {"activations"},
    ),
    "tables of a rotation forgotten": ("grouped queries", altering("rope", saves=lambda op: ()), {"activations"}),
    "a checkpoint that keeps no whole projection": (
        "grouped queries",
        altering("attention", bases=lambda op: ()),
        {"activations"},
    ),
    "a cache entry doubled": ("grouped queries", altering("attention", caches=lambda op: op.caches * 2), {"kv"}),
    "no cache": ("latents", altering("attention", caches=lambda op: ()), {"kv"}),
    "a buffer that is trained": ("grouped queries", trained_buffers, {"params", "buffers"}),
    "a schedule with one chunk more": (
        "tied",
        replacing("archcalc.proof.ours.most_live", lambda *sizes: most_live(*sizes) + 1),
        {"schedule"},
    ),
    "a twin with another expert": (
        "grouped queries",
        spec_of_the_twin(lambda plain: plain["backbone"]["ffn"]["moe1"].update(n_routed_experts=7)),
        {"params", "buffers", "flops", "weights", "activations"},
    ),
    "a twin with one layer more": (
        "tied",
        spec_of_the_twin(
            lambda plain: (
                plain["backbone"].update(num_hidden_layers=2),
                plain["backbone"]["layers"][0].update(count=2),
            )
        ),
        {"params", "flops", "kv", "weights"},
    ),
    "a twin with untied weights": (
        "tied",
        spec_of_the_twin(lambda plain: plain["backbone"].update(tie_word_embeddings=False)),
        {"params", "weights"},
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@marked(twin)
def test_what_is_wrong_is_found_out(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sort, install, kinds = WRONG[wrong]
    install(monkeypatch)
    assert set(different(crosscheck(spec_of(SORTS[sort])))) == kinds


@marked(twin)
def test_a_difference_exits_1_and_names_its_path_and_both_numbers(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resizing("intermediate_size", 1)(monkeypatch)
    ran = run("crosscheck", written(tmp_path, SORTS["tied"]), "--only", "params", "--format", "json")
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == "error: 3 of 11 numbers differ"
    wrong = [f for f in json.loads(ran.out)["findings"] if f["difference"]]
    assert {f["path"].rpartition("mlp.")[2] for f in wrong} == {
        "gate_proj.weight",
        "up_proj.weight",
        "down_proj.weight",
    }
    assert {(f["ours"], f["theirs"], f["difference"]) for f in wrong} == {(8 * 21, 8 * 20, 8)}


@marked(twin)
def test_agreement_exits_0(tmp_path: Any) -> None:
    ran = run("crosscheck", written(tmp_path, SORTS["tied"]), "--only", "params,kv")
    assert ran.code == 0
    assert "all 13 equal" in ran.out  # 9 + 2 weights (one matrix for embedding and head), a layer's cache in 2 dtypes
    assert "loading torch" in ran.err


@marked(twin)
def test_an_unequal_number_of_parts_differs_even_where_the_sums_are_equal() -> None:
    ours, theirs = {"params": {("experts", ""): (2, 6)}}, {"params": {("experts", ""): (4, 3)}}
    found = joined(ours, theirs)
    assert [(f["count"], f["ours"], f["theirs"], f["difference"]) for f in found] == [(2, 6, 0, 12), (4, 0, 3, -12)]


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--only", "flop"), "did you mean flops?"),
        (("--only", "params,everything"), "one of params, flops, kv, weights, activations, schedule"),
        (("--against", "transformer"), "did you mean transformers?"),
        (("--against", "jax"), "use twin or transformers"),
        (("--against", "transformers", "--only", "weights"), "one of params, flops, kv"),
    ],
)
def test_what_can_not_be_compared_exits_2(arguments: tuple[str, ...], says: str) -> None:
    ran = run("crosscheck", "k25", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


@pytest.mark.parametrize(("against", "missing"), [("twin", "torch"), ("transformers", "transformers")])
def test_without_the_extra_one_sentence_says_what_to_install(
    against: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "find_spec", lambda name: None)
    ran = run("crosscheck", "k25", "--against", against)
    assert (ran.code, ran.out) == (2, "")
    extra = {"torch": "torch", "transformers": "hf"}[missing]
    assert ran.err == f"error: the cross-check needs {missing}\nhint: pip install 'archcalc[{extra}]'\n"


def test_the_kinds_are_those_of_the_help() -> None:
    assert KINDS == ("params", "flops", "kv", "weights", "activations", "schedule")
    assert ",".join(KINDS) in run("crosscheck", "--help").out
