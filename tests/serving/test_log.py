"""What vLLM and SGLang print of their memory: lines in their form, written here, with figures that were published."""

from __future__ import annotations

import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.errors import InputError
from archcalc.limits import LOG_BYTES
from archcalc.serving.log import MAX_LINE, MEASURED, Logged, load_log, read_log
from archcalc.serving.log_lines import RULES

GIB = 2**30


def gib(text: str) -> int:
    return int(Fraction(text) * GIB)


# RedHatAI/Llama-3.3-70B-Instruct-fp8-dynamic on four H100-80GB: llm-d-incubation/llm-d-planner,
# accuracy/results/v0.19.0/logs/fp8dyn-llama-3-3-70b--h100-80gb--tp4pp1dp1--8192.log
VLLM_0_19 = """\
(EngineCore pid=88) INFO 04-22 17:01:31 [core.py:107] Initializing a V1 LLM engine (v0.19.0) with config: \
max_seq_len=8192,
(Worker_TP0 pid=120) INFO 04-22 17:02:40 [gpu_model_runner.py:4879] Model loading took 16.96 GiB \
memory and 31.65 seconds
(Worker_TP0 pid=120) INFO 04-22 17:03:39 [gpu_model_runner.py:5993] Estimated CUDA graph memory: 1.70 GiB total
\x1b[0;36m(Worker_TP0 pid=120)\x1b[0;0m INFO 04-22 17:03:40 [gpu_worker.py:436] Available KV cache memory: 54.09 GiB
(EngineCore pid=88) INFO 04-22 17:03:40 [kv_cache_utils.py:1319] GPU KV cache size: 708,992 tokens
(EngineCore pid=88) INFO 04-22 17:03:40 [kv_cache_utils.py:1324] Maximum concurrency for 8,192 tokens \
per request: 86.55x
(Worker_TP0 pid=120) INFO 04-22 17:04:02 [gpu_model_runner.py:6243] Graph capturing finished in 21 secs, took 1.66 GiB
(Worker_TP0 pid=120) DEBUG 04-22 17:04:02 [gpu_worker.py:621] Free memory on device (77.64/79.19 GiB) on startup. \
Desired GPU memory utilization is (0.95, 75.23 GiB). Actual usage is 16.96 GiB for weight, 1.97 GiB for peak \
activation, 2.21 GiB for non-torch memory, and 1.66 GiB for CUDAGraph memory.
"""

# UI-TARS 7B on a card of 24 GB, vLLM 0.6.6: memory lines of a public log of 2025-04-02
VLLM_V0 = """\
INFO 04-02 21:42:00 llm_engine.py:234] Initializing an LLM engine (v0.6.6) with config: model='m', max_seq_len=8192
INFO 04-02 21:42:59 model_runner.py:1099] Loading model weights took 15.5083 GB
INFO 04-02 21:43:03 worker.py:241] the current vLLM instance can use total_gpu_memory (23.67GiB) x \
gpu_memory_utilization (0.90) = 21.30GiB
INFO 04-02 21:43:03 worker.py:241] model weights take 15.51GiB; non_torch_memory takes 0.28GiB; PyTorch activation \
peak memory takes 1.16GiB; the rest of the memory reserved for KV Cache is 4.36GiB.
INFO 04-02 21:43:03 gpu_executor.py:76] # GPU blocks: 5102, # CPU blocks: 4681
INFO 04-02 21:43:03 gpu_executor.py:80] Maximum concurrency for 8192 tokens per request: 9.96x
INFO 04-02 21:43:24 model_runner.py:1523] Graph capturing finished in 19 secs, took 1.92 GiB
"""

# Grok-1 in fp8 on eight H100: memory lines of a public log of 2025-09-11. The fraction is the one that they imply;
# times and the last free memory are made up.
SGLANG = """\
[2025-09-11 10:23:10] server_args=ServerArgs(model_path='/grok', mem_fraction_static=0.831, max_total_tokens=None)
[2025-09-11 10:24:10 TP0] Load weight begin. avail mem=77.43 GB
[2025-09-11 10:25:33 TP0] Load weight end. type=Grok1ForCausalLM, dtype=torch.bfloat16, avail mem=40.69 GB, \
mem usage=36.73 GB.
[2025-09-11 10:25:43 TP3] KV Cache is allocated. #tokens: 903439, K size: 13.79 GB, V size: 13.79 GB
[2025-09-11 10:25:43 TP0] KV Cache is allocated. #tokens: 903439, K size: 13.79 GB, V size: 13.79 GB
[2025-09-11 10:26:01 TP0] Capture cuda graph end. Time elapsed: 17.72 s. mem usage=0.89 GB. avail mem=10.27 GB.
[2025-09-11 10:26:02 TP0] max_total_num_tokens=903439, chunked_prefill_size=8192, max_running_requests=3529, \
context_len=131072, available_gpu_mem=10.27 GB
"""


def refused(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read_log(text)
    return caught.value


# ------------------------------------------------------------------------------------------- whole logs


def test_every_term_of_a_v1_log_with_its_line() -> None:
    assert read_log(VLLM_0_19) == Logged(
        engine="vllm",
        version="0.19.0",
        total_bytes=gib("79.19"),
        utilization=Fraction(19, 20),
        weights_bytes=gib("16.96"),
        activation_bytes=gib("1.97"),
        non_torch_bytes=gib("2.21"),
        cuda_graphs_bytes=gib("1.66"),
        kv_bytes=gib("54.09"),
        tokens=708_992,
        max_model_len=8192,
        lines={
            "version": 1,
            "weights_bytes": 2,
            "kv_bytes": 4,
            "tokens": 5,
            "max_model_len": 6,
            "cuda_graphs_bytes": 7,
            "total_bytes": 8,
            "utilization": 8,
            "activation_bytes": 8,
            "non_torch_bytes": 8,
        },
        spans={},
    )


def test_every_term_of_a_v0_log_whose_tokens_are_pages() -> None:
    found = read_log(VLLM_V0)
    assert (found.version, found.total_bytes, found.utilization) == ("0.6.6", gib("23.67"), Fraction(9, 10))
    assert found.weights_bytes == gib("15.5083")  # the line with four decimals, not the one with two
    assert (found.activation_bytes, found.non_torch_bytes) == (gib("1.16"), gib("0.28"))
    assert (found.kv_bytes, found.cuda_graphs_bytes) == (gib("4.36"), gib("1.92"))
    assert (found.tokens, found.block_size, found.max_model_len) == (5102 * 16, 16, 8192)
    assert found.lines["tokens"] == 5


def test_every_term_of_an_sglang_log() -> None:
    found = read_log(SGLANG)
    assert (found.engine, found.version, found.total_bytes) == ("sglang", None, None)
    assert found.utilization == Fraction(831, 1000)
    assert found.weights_bytes == gib("36.73")
    assert found.kv_bytes == 2 * gib("13.79")  # K and V of one rank, not of all
    assert (found.tokens, found.max_model_len) == (903_439, 131_072)
    assert found.cuda_graphs_bytes == gib("0.89")
    assert found.spans == {}


# ------------------------------------------------------------------------------------- forms of one line


@pytest.mark.parametrize(
    ("line", "term", "value"),
    [
        ("Model loading took 72.02 GiB memory and 95.1 seconds", "weights_bytes", gib("72.02")),
        ("Model loading took 14.9888 GiB and 2.0 seconds", "weights_bytes", gib("14.9888")),
        ("Model loading took 14.9888 GB", "weights_bytes", gib("14.9888")),
        ("Available KV cache memory: \x1b[1;36m0.64\x1b[0m GiB", "kv_bytes", gib("0.64")),
        ("Actual usage is 14.99 GiB for weight, 1.89 GiB for peak activation", "weights_bytes", gib("14.99")),
        ("and 0.0 GiB for CUDAGraph memory.", "cuda_graphs_bytes", 0),
        ("Estimated CUDA graph memory: 1.22 GiB total", "cuda_graphs_bytes", gib("1.22")),
        ("Graph capturing finished in 5 secs, took -0.21 GiB", "cuda_graphs_bytes", gib("-0.21")),
        ("the rest of the memory reserved for KV Cache is -0.94GiB.", "kv_bytes", gib("-0.94")),
        ("model weights take 5.43GiB; non_torch_memory takes 0.1GiB", "weights_bytes", gib("5.43")),
        ("non_torch_memory=0.14GiB kv_cache_size=53.91GiB gpu_memory_utilization=0.90", "kv_bytes", gib("53.91")),
        ("max_total_num_tokens=0, chunked_prefill_size=8192", "tokens", 0),
        ("non_torch_memory takes -0.51GiB;", "non_torch_bytes", gib("-0.51")),
        ("Initial free memory 31.17 GiB, reserved 1.62 GiB memory for KV Cache as specified", "kv_bytes", gib("1.62")),
        (
            "GPU KV cache size: 460,496 tokens, Maximum concurrency for 131,072 tokens per request",
            "tokens",
            460496,
        ),
        ("# cuda blocks: 27897, # CPU blocks: 2048", "tokens", 27897 * 16),
        (
            "KV Cache is allocated. dtype: torch.uint8, #tokens: 2454421, KV size: 160.63 GB",
            "kv_bytes",
            gib("160.63"),
        ),
        ("KV Cache is allocated. K size: 27.13 GB, V size: 27.13 GB.", "kv_bytes", 2 * gib("27.13")),
        ("KV Cache is allocated. dtype: torch.bfloat16, #tokens: 600000", "tokens", 600_000),
        (
            "Capture target decode CUDA graph end. elapsed=16.40 s, mem usage=1.22 GB, avail mem=3.10 GB",
            "cuda_graphs_bytes",
            gib("1.22"),
        ),
    ],
)
def test_each_form_of_a_line(line: str, term: str, value: int) -> None:
    assert getattr(read_log(f"INFO 11-20 10:00:00 [gpu_worker.py:298] {line}"), term) == value


def test_a_refusal_to_start_says_what_there_was() -> None:
    newer = read_log(
        "ValueError: To serve at least one request with the models's max seq len (40960), (4.38 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (4.00 GiB). Based on the available "
        "memory, the estimated maximum model length is 37440."
    )
    assert (newer.kv_bytes, newer.max_model_len) == (4 * GIB, 40_960)
    older = read_log(
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored "
        "in KV cache (52848). Try increasing `gpu_memory_utilization`"
    )
    assert (older.tokens, older.max_model_len) == (52_848, 131_072)


def test_consumed_memory_less_the_weights_is_non_torch() -> None:
    # Llama-3.1-8B on one H100, v0.31.0: 15.0 GiB of weights, 15.26 GiB consumed
    found = read_log(
        "Model loading took 15.0 GiB memory and 5.420225 seconds\n"
        "Actual usage is 15.26 GiB for consumed memory (weights + non-torch), 1.44 GiB for peak activation"
    )
    assert found.non_torch_bytes == gib("15.26") - gib("15.0")


def test_free_memory_before_and_after_gives_the_weights_where_nothing_else_does() -> None:
    # Llama-3.1-8B on one H100, SGLang of 2025-01-23
    found = read_log(
        "[2025-01-23 19:35:10 TP0] Load weight begin. avail mem=78.81 GB\n"
        "[2025-01-23 19:35:20 TP0] Load weight end. type=LlamaForCausalLM, dtype=torch.bfloat16, avail mem=63.72 GB\n"
    )
    assert (found.weights_bytes, found.lines["weights_bytes"]) == (gib("78.81") - gib("63.72"), 2)


def test_pages_of_another_size() -> None:
    assert read_log("cache_config: block_size=32, swap\n# GPU blocks: 100, # CPU blocks: 2").tokens == 3200


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("non-default args: {'max_model_len': 8192, 'gpu_memory_utilization': 0.96}", "0.96"),
        ("args: Namespace(model='m', gpu_memory_utilization=0.85, dtype='auto')", "0.85"),
        ("vllm serve m --gpu-memory-utilization 0.7", "0.7"),
        (
            "The current --gpu-memory-utilization=0.8500 is equivalent to 0.6: set --gpu-memory-utilization=0.9",
            "0.85",
        ),
    ],
)
def test_the_share_that_the_engine_was_told(line: str, share: str) -> None:
    assert read_log(f"{line}\nAvailable KV cache memory: 1.0 GiB").utilization == Fraction(share)


@pytest.mark.parametrize(
    "line",
    [
        "Initializing a V1 LLM engine (v0.11.0) with config: model='m', max_seq_len=4096, download_dir=None",
        "INFO 10-23 18:38:42 [model.py:1510] Using max model len 4096",
        "non-default args: {'max_model_len': 4096, 'seed': 1234}",
        "args: Namespace(model='m', max_model_len=4096)",
    ],
)
def test_the_longest_sequence(line: str) -> None:
    assert read_log(f"{line}\nAvailable KV cache memory: 1.0 GiB").max_model_len == 4096


def test_the_scheduler_says_how_many_tokens_where_pools_hold_fewer() -> None:
    # MiMo-V2-Flash, SGLang pull request 18039: a pool for windows beside the one for whole sequences
    found = read_log(
        "[2026-01-31 13:50:39 TP1] KV Cache is allocated. #tokens: 300288, K size: 8.38 GB, V size: 5.59 GB\n"
        "[2026-01-31 13:50:40 TP1] max_total_num_tokens=375360, chunked_prefill_size=8192\n"
    )
    assert found.tokens == 375_360


# ------------------------------------------------------------------------------------- ranks and starts


def test_of_several_ranks_the_most_weights_and_the_least_cache_are_taken() -> None:
    found = read_log(
        "(Worker_PP0) Model loading took 70.10 GiB memory\n(Worker_PP1) Model loading took 71.20 GiB memory\n"
        "(Worker_PP0) Available KV cache memory: 9.84 GiB\n(Worker_PP1) Available KV cache memory: 8.02 GiB\n"
    )
    assert (found.weights_bytes, found.kv_bytes) == (gib("71.20"), gib("8.02"))
    assert found.lines == {"weights_bytes": 2, "kv_bytes": 4}
    assert found.spans == {
        "weights_bytes": (gib("70.10"), gib("71.20")),
        "kv_bytes": (gib("8.02"), gib("9.84")),
    }


def test_a_draft_adds_to_the_model_and_the_pools_of_a_rank_add_up() -> None:
    # weights of DeepSeek-V4 and its draft on GB10; pools of another public log of a model with a draft
    found = read_log(
        "[2026-09-01 10:00:00 TP0] Load weight end. avail mem=17.47 GB, mem usage=94.00 GB.\n"
        "[2026-09-01 10:00:09 TP0] Load weight end. avail mem=14.74 GB, mem usage=2.80 GB.\n"
        "[2026-09-01 10:00:09 TP0] KV Cache is allocated. #tokens: 171008, K size: 5.22 GB, V size: 5.22 GB\n"
        "[2026-09-01 10:00:09 TP0] KV Cache is allocated. #tokens: 171008, K size: 0.33 GB, V size: 0.33 GB\n"
    )
    assert found.weights_bytes == gib("94.00") + gib("2.80")
    assert found.kv_bytes == 2 * gib("5.22") + 2 * gib("0.33")


def test_the_last_start_is_read() -> None:
    first = "vLLM API server version 0.10.0\nModel loading took 70.00 GiB memory\n"
    second = "vLLM API server version 0.11.0\nModel loading took 14.99 GiB memory\n"
    found = read_log(first + second)
    assert (found.weights_bytes, found.version, found.starts, found.spans) == (gib("14.99"), "0.11.0", 2, {})
    assert read_log(first + second + "vLLM API server version 0.11.0\nexiting\n").weights_bytes == gib("14.99")


def test_servers_that_say_their_version_together_are_one_start() -> None:
    said = "vLLM API server version 0.11.0\nnon-default args: {'gpu_memory_utilization': 0.8}\n"
    found = read_log(said + "vLLM API server version 0.11.0\nModel loading took 14.99 GiB memory\n")
    assert (found.starts, found.utilization) == (1, Fraction(4, 5))


def test_lines_of_a_container_are_read_inside_its_json() -> None:
    found = read_log('{"log":"INFO Available KV cache memory: 0.64 GiB\\n","stream":"stderr"}\r\n')
    assert found.kv_bytes == gib("0.64")


# -------------------------------------------------------------------------------------------- refusals


def test_a_log_without_memory_says_what_was_looked_for() -> None:
    for text in (
        "",
        "hello\n",
        "vLLM API server version 0.11.0\n",
        "[x] server_args=ServerArgs(mem_fraction_static=0.8)",
    ):
        error = refused(text)
        assert "no line on memory" in error.message
        assert "Available KV cache memory" in (error.hint or "")
        assert "KV Cache is allocated" in (error.hint or "")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Model loading took 99999999999.0 GiB memory", "more than any GPU has"),
        (f"Model loading took {'9' * 300} GiB memory", "more than any GPU has"),
        ("GPU KV cache size: 12.5 tokens", "no number of tokens"),
        (f"GPU KV cache size: {10**16} tokens", "no number of tokens"),
        ("gpu_memory_utilization (1.20)", "no share"),
        ("gpu_memory_utilization=0.0", "no share"),
    ],
)
def test_numbers_that_cannot_be_are_named_with_their_line(line: str, why: str) -> None:
    error = refused(f"first\n{line}")
    assert why in error.message
    assert error.line == 2


def test_binary_text_and_text_beyond_the_bounds_are_refused() -> None:
    assert "binary" in refused("Available KV cache memory: 1.0 GiB\0").message
    assert refused("\n" + "x" * (MAX_LINE + 1)).line == 2
    assert "`log-bytes`" in refused("x\n" * (LOG_BYTES.most // 2 + 1)).message


def test_files_that_are_no_logs(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    for raw, why in (
        (b"\x1f\x8b\0\0", "binary"),
        ("Available".encode("utf-16"), "UTF-16"),
        (b"a\n" * (LOG_BYTES.most // 2 + 1), "`log-bytes`"),
        (b"nothing", "no line on memory"),
    ):
        path.write_bytes(raw)
        with pytest.raises(InputError, match=why) as caught:
            load_log(path)
        assert caught.value.source == str(path)
    with pytest.raises(InputError, match="no such file"):
        load_log(tmp_path / "none.log")
    with pytest.raises(InputError, match="a directory") as caught:
        load_log(tmp_path)
    assert caught.value.hint == "name a log inside it"


def test_a_log_cut_inside_a_character_is_read(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_bytes("█ Available KV cache memory: 0.64 GiB\n█".encode()[1:-1])
    assert load_log(path).kv_bytes == gib("0.64")


# ------------------------------------------------------------------------------------------------ fuzz

PIECES = [rule.anchor for rule in RULES] + [
    "KV size: ", "K size: ", " GiB", " GB", " tokens", "mem usage=", "avail mem=", "0.5", "-1", "1,000", "(", ")", "=",
    "\n", "\r", " ", ",", ".", "\x1b[0m", "[x TP1] ", "9" * 50, "server_args=ServerArgs(", "vLLM API server version 1",
    "Load weight begin. avail mem=1 GB", "Load weight end. avail mem=2 GB", "block_size=0", "# GPU blocks: 3",
    "Model loading took 1 GiB", "1 GiB for consumed memory (weights + non-torch)",
]  # fmt: skip


@given(st.one_of(st.text(max_size=300), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
@settings(max_examples=400, deadline=None)
def test_no_text_makes_anything_but_an_answer_or_an_input_error(text: str) -> None:
    try:
        found = read_log(text)
    except InputError:
        return
    lines = len(text.split("\n"))
    assert any(getattr(found, term) is not None for term in MEASURED)
    assert all(1 <= line <= lines for line in found.lines.values())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.term}-{rule.anchor.strip()}")
def test_no_line_takes_long(rule: object) -> None:
    anchor = next(r.anchor for r in RULES if r is rule)
    for filling in ("1", "1,", "1.", " ", "a", anchor, f"{anchor}1", f"{anchor} 1 GiB", "Capture Capture raph end "):
        line = anchor + filling * (100_000 // len(filling)) + anchor
        before = time.process_time()
        with suppress(InputError):
            read_log(line)
        assert time.process_time() - before < 2
