"""Receipts: a serving answer beside what an engine printed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import pytest

from archcalc.documents.document import Report, Table
from archcalc.documents.receipt import parse_within, receipt
from archcalc.documents.weights import what_if
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.hardware import load_hardware
from archcalc.render import csv, folded, markdown, table
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import load_engine
from archcalc.serving.log import MEASURED, Logged, read_log
from archcalc.serving.memory import Serving, serve
from archcalc.serving.overhead import Load, Served

GIB = 2**30
FIVE = Fraction(1, 20)

# Llama 3.3 70B with fp8 weights on four H100-80GB, vLLM 0.19.0: llm-d-incubation/llm-d-planner,
# accuracy/results/v0.19.0/logs/fp8dyn-llama-3-3-70b--h100-80gb--tp4pp1dp1--8192.log
LOG = """\
Initializing a V1 LLM engine (v0.19.0) with config: model='m'
Model loading took 16.96 GiB memory and 31.65 seconds
Available KV cache memory: 54.09 GiB
GPU KV cache size: 708,992 tokens
Maximum concurrency for 8,192 tokens per request: 86.55x
Graph capturing finished in 21 secs, took 1.66 GiB
Free memory on device (77.64/79.19 GiB) on startup. Desired GPU memory utilization is (0.95, 75.23 GiB). Actual usage \
is 16.96 GiB for weight, 1.97 GiB for peak activation, 2.21 GiB for non-torch memory, and 1.66 GiB for CUDAGraph memory.
"""


@cache
def answer(
    storage: str = "fp8", engine: str = "vllm", name: str = "llama-3.1-70b", on: str = "h100", **more: Any
) -> Serving:
    where = Deployment(**{k: more.pop(k) for k in ("tp", "pp", "dp") if k in more} or {"tp": 4})
    load = Load(**{"context": 8192, "utilization": 0.95, **more})
    spec = load_spec(name)
    served = Served(model=spec, scheme=what_if(spec, storage), positions=spec.backbone.max_position_embeddings)
    return serve(served, load_hardware(on), load_engine(engine), where, load)


def rows(found: Table) -> dict[str, Any]:
    return {row["term"]: row for row in found.rows}


def notes(serving: Serving, logged: Logged) -> str:
    return "\n".join(receipt(serving, logged, None)[1])


def test_a_published_log_is_within_five_percent() -> None:
    found, said, beyond = receipt(answer(), read_log(LOG), FIVE)
    assert list(rows(found)) == ["total_bytes", *MEASURED]
    assert (said, beyond) == ([], [])
    for term, most in (("total_bytes", 0.001), ("weights_bytes", 0.002), ("kv_bytes", 0.05), ("tokens", 0.05)):
        assert abs(rows(found)[term]["percent"]) < most
    assert found.title == "this answer beside the log of vLLM 0.19.0"


def test_each_row_subtracts_theirs_from_ours() -> None:
    logged = read_log(LOG)
    for term, row in rows(receipt(answer(), logged, None)[0]).items():
        assert row["theirs"] == getattr(logged, term)
        assert row["difference"] == row["ours"] - row["theirs"]
        assert row["percent"] == pytest.approx(row["difference"] / row["theirs"])
        assert row["low"] <= row["ours"] <= row["high"]
        assert row["line"] == logged.lines[term]


def test_weights_are_the_checkpoint_and_what_is_loaded_beside_it() -> None:
    serving = answer()
    row = rows(receipt(serving, read_log(LOG), None)[0])["weights_bytes"]
    rotary = next(term.bounds for term in serving.worst.terms if term.kind == "rotary")
    assert row["label"] == "weights with rotary tables"
    assert (row["low"], row["high"]) == (serving.weights_bytes + rotary.low, serving.weights_bytes + rotary.high)


def test_the_wrong_storage_is_beyond_in_weights_cache_and_tokens() -> None:
    found, _, beyond = receipt(answer("released"), read_log(LOG), FIVE)
    assert beyond == ["weights_bytes", "kv_bytes", "tokens"]
    assert [term for term, row in rows(found).items() if row["within"] is False and term in beyond] == beyond


def test_within_is_a_share_of_the_logs_figure_its_edge_included() -> None:
    serving = answer()
    ours = rows(receipt(serving, read_log(LOG), None)[0])["weights_bytes"]["ours"]
    for theirs, beyond in ((ours - ours // 21, []), (ours - ours // 21 - 10, ["weights_bytes"])):
        logged = Logged(engine="vllm", weights_bytes=theirs, lines={"weights_bytes": 1}, spans={})
        assert receipt(serving, logged, Fraction(ours - (ours - ours // 21), ours - ours // 21))[2] == beyond


def test_without_a_limit_nothing_is_checked_but_ranges_are() -> None:
    found, _, beyond = receipt(answer("released"), read_log(LOG), None)
    assert beyond == []
    assert rows(found)["weights_bytes"]["within"] is None
    assert rows(found)["non_torch_bytes"]["within"] is True


def test_a_figure_outside_our_range_is_said_and_fails_nothing() -> None:
    for theirs in (0, 30 * GIB):
        found, _, beyond = receipt(answer(), replace(read_log(LOG), non_torch_bytes=theirs), FIVE)
        assert rows(found)["non_torch_bytes"]["within"] is False
        assert beyond == []


def test_of_nothing_there_is_no_percentage() -> None:
    found, _, beyond = receipt(answer(), read_log("GPU KV cache size: 0 tokens"), FIVE)
    assert rows(found)["tokens"]["percent"] is None
    assert beyond == ["tokens"]


def test_terms_that_the_log_does_not_print_are_left_out() -> None:
    found, _, _ = receipt(answer(), read_log("GPU KV cache size: 708,992 tokens"), FIVE)
    assert list(rows(found)) == ["tokens"]


def test_tokens_are_those_of_one_engine() -> None:
    for serving in (
        answer(tp=2, dp=2),
        answer(pp=2, tp=2),
        answer("released", name="gemma-3-27b", tp=1),  # layers in groups
        answer("released", name="gemma-3-27b", tp=1, dp=2),
    ):
        row = rows(receipt(serving, read_log("GPU KV cache size: 700,000 tokens"), None)[0])["tokens"]
        assert serving.max_tokens is not None
        assert row["ours"] == serving.max_tokens // serving.where.dp
        assert row["low"] < row["ours"] < row["high"]


def test_with_stages_weights_are_those_of_the_heaviest_and_cache_that_of_the_worst() -> None:
    serving = answer("released", name="gemma-3-27b", pp=3)  # the first stage has the embedding, the last the logits
    found = rows(receipt(serving, read_log(LOG), None)[0])
    assert found["weights_bytes"]["ours"] >= max(device.weights_bytes for device in serving.devices)
    assert serving.worst.weights_bytes < max(device.weights_bytes for device in serving.devices)
    assert found["kv_bytes"]["ours"] == serving.worst.room()


def test_a_negative_room_stays_negative() -> None:
    serving = answer("released", on="l4")
    row = rows(receipt(serving, read_log("memory reserved for KV Cache is -0.94GiB."), FIVE)[0])["kv_bytes"]
    assert row["ours"] == serving.worst.room() < 0
    assert row["within"] is False


def test_what_was_asked_otherwise_is_said_with_what_to_type() -> None:
    said = notes(answer(context=131_072, utilization=0.9, on="h200"), read_log(LOG))
    assert "(line 7) used --utilization 0.95, this answer 0.9" in said
    assert "(line 5) used --context 8192, this answer 131072" in said
    assert "memory_visible_bytes: 79.19GiB" in said
    assert "--gpu" in said
    assert "--engine" not in said


def test_a_log_of_another_engine_is_said() -> None:
    log = read_log("[x TP0] KV Cache is allocated. #tokens: 5, K size: 1.0 GB, V size: 1.0 GB")
    assert "add --engine sglang" in notes(answer(), log)
    assert "--engine" not in notes(answer(engine="sglang"), log)
    assert "add --engine vllm" in notes(answer(engine="sglang"), read_log(LOG))


def test_ranks_starts_and_pages_are_said() -> None:
    ranks = (
        "Model loading took 16.90 GiB memory\nModel loading took 16.96 GiB memory\n# GPU blocks: 10\n# GPU blocks: 9"
    )
    said = notes(answer(), read_log("Model loading took 1 GiB memory\nvLLM API server version 0.6.6\n" + ranks))
    assert "Ranks print 16.90 GiB to 16.96 GiB, weights: the most is taken" in said
    assert "2 starts" in said
    assert "times 16 tokens a page" in said
    least = notes(answer(), read_log("Available KV cache memory: 2.0 GiB\nAvailable KV cache memory: 1.0 GiB"))
    assert "Ranks print 1.00 GiB to 2.00 GiB, room for KV cache: the least is taken" in least


def test_a_given_overhead_leaves_its_parts_uncompared() -> None:
    found, said, _ = receipt(answer(overhead=5 * GIB), read_log(LOG), FIVE)
    assert list(rows(found)) == ["total_bytes", "weights_bytes", "kv_bytes", "tokens"]
    assert "With --overhead" in said[-1]


def test_every_renderer_prints_tokens_as_tokens_and_memory_as_memory() -> None:
    found, said, _ = receipt(answer(), read_log(LOG), FIVE)
    report = Report(command="serve", title="t", inputs={}, quantities={}, rows=found, notes=said)
    for text in (table.render(report, "gib"), "\n".join(markdown.render_table(found, "gib"))):
        assert "708,992" in text
        assert "54.09 GiB" in text
        assert "16.96 GiB" in text
    assert "708992" in csv.render(report, "gib")
    assert "708,992" in folded.render(report, "gib")


@pytest.mark.parametrize(
    ("text", "share"), [("5%", "1/20"), (" 0.5 % ", "1/200"), ("0%", "0"), ("100%", "1"), ("12.25%", "0.1225")]
)
def test_within_is_a_percentage(text: str, share: str) -> None:
    assert parse_within(text) == Fraction(share)


def test_a_log_that_has_nothing_to_check_does_not_pass() -> None:
    logged = read_log("Free memory on device (77.64/79.19 GiB)\nGraph capturing finished in 9 secs, took 1.00 GiB\n")
    assert rows(receipt(answer(), logged, None)[0])
    with pytest.raises(InputError, match="nothing to check"):
        receipt(answer(), logged, FIVE)


@pytest.mark.parametrize("text", ["0.05", "5", "", "%", "-5%", "101%", "5%%", "1e1%", "nan%", "\uff15%"])
def test_anything_else_is_refused_with_what_to_type(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_within(text)
    assert caught.value.hint == "write it as in --within 5%"
