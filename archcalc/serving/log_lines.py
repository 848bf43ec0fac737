"""The lines in which vLLM and SGLang print their memory, each as a pattern, and what one line of a log says.

Forms of vLLM 0.6 to 0.33 (V0: worker/worker.py, executor/executor_base.py; V1: v1/worker/gpu_worker.py,
gpu_model_runner.py, v1/core/kv_cache_utils.py) and of SGLang 0.4 and 0.5 (model_executor/model_runner.py,
mem_cache/memory_pool.py). Both print 2^30 bytes as GB or as GiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, NamedTuple

from archcalc.errors import InputError, show_value

EngineName = Literal["vllm", "sglang"]

MAX_MEMORY = 1 << 50
"""More than any device has [bytes]."""
MAX_TOKENS = 10**15


class Seen(NamedTuple):
    """One printed value [bytes, tokens, or a share], its line, and the rank that SGLang says."""

    value: int | Fraction
    line: int
    rank: str


class Rule(NamedTuple):
    """One form of a line: `pattern` is searched for where `anchor` stands. `summed`: the lines of a rank add up."""

    engine: EngineName
    term: str
    anchor: str
    pattern: re.Pattern[str]
    summed: bool = False


_N = r"(?<![0-9.,])(-?[0-9][0-9,]{0,400}(?:\.[0-9]{1,40})?)"
"""A number, tried once where it begins. All gaps below are bounded: time grows with the text, whatever it is."""
_GB = r" ?Gi?B"


def _vllm(term: str, anchor: str, pattern: str) -> Rule:
    return Rule("vllm", term, anchor, re.compile(pattern.replace("<N>", _N).replace("<GB>", _GB)))


def _sglang(term: str, anchor: str, pattern: str, *, summed: bool = False) -> Rule:
    return Rule("sglang", term, anchor, re.compile(pattern.replace("<N>", _N).replace("<GB>", _GB)), summed)


RULES = (
    _vllm("total_bytes", "Free memory on device", r"Free memory on device[^(]{0,40}\([0-9.,]{1,40}/<N><GB>\)"),
    _vllm("total_bytes", "total_gpu_memory", r"total_gpu_memory(?: \(|=)<N><GB>"),
    _vllm("utilization", "esired GPU memory utilization", r"esired GPU memory utilization (?:is )?\(<N>,"),
    _vllm("utilization", "gpu_memory_utilization", r"gpu_memory_utilization \(<N>\)"),
    _vllm("utilization", "gpu_memory_utilization", r"gpu_memory_utilization['\"]?(?:=|: ?)<N>"),
    _vllm("utilization", "--gpu-memory-utilization", r"--gpu-memory-utilization[= ]<N>"),
    _vllm("weights_bytes", " took ", r"(?:Model loading|Loading model weights) took <N><GB>"),
    _vllm("weights_bytes", "GiB for weight", r"Actual usage is <N><GB> for weight"),
    _vllm("weights_bytes", "model weights take", r"model weights take <N><GB>"),
    _vllm("activation_bytes", "for peak activation", r"<N><GB> for peak activation"),
    _vllm("activation_bytes", "activation peak memory", r"PyTorch activation peak memory takes <N><GB>"),
    _vllm("non_torch_bytes", "for non-torch memory", r"<N><GB> for non-torch memory"),
    _vllm("non_torch_bytes", "non_torch_memory", r"non_torch_memory(?: takes |=)<N><GB>"),
    _vllm(
        "cuda_graphs_bytes", "Graph capturing finished", r"Graph capturing finished in [0-9.]{1,20} secs?, took <N><GB>"
    ),
    _vllm("cuda_graphs_bytes", "for CUDAGraph memory", r"<N><GB> for CUDAGraph memory"),
    _vllm("cuda_graphs_bytes", "Estimated CUDA graph memory", r"Estimated CUDA graph memory: <N><GB>"),
    _vllm("kv_bytes", "Available KV cache memory", r"Available KV cache memory: <N><GB>"),
    _vllm("kv_bytes", "reserved for KV Cache", r"memory reserved for KV Cache is <N><GB>"),
    _vllm("kv_bytes", "memory for KV Cache", r"reserved <N><GB> memory for KV Cache"),
    _vllm("kv_bytes", "kv_cache_size=", r"kv_cache_size=<N><GB>"),
    _vllm("kv_bytes", "available KV cache memory (", r"larger than the available KV cache memory \(<N><GB>\)"),
    _vllm("tokens", "GPU KV cache size", r"GPU KV cache size: <N> tokens"),
    _vllm("tokens", "stored in KV cache", r"can be stored in KV cache \(<N>\)"),
    _vllm("blocks", " blocks: ", r"# (?:GPU|cuda) blocks: <N>"),
    _vllm("block_size", "block_size", r"\bblock_size['\"]?(?:=|: ?)<N>"),
    _vllm("max_model_len", "Maximum concurrency", r"Maximum concurrency for <N> tokens per request"),
    _vllm("max_model_len", "max seq len", r"max seq len \(<N>\)"),
    _vllm("max_model_len", "max_seq_len=", r"\bmax_seq_len=<N>"),
    _vllm("max_model_len", "max model len", r"Using max model len <N>"),
    _vllm("max_model_len", "max_model_len", r"\bmax_model_len['\"]?(?:=|: ?)<N>"),
    _vllm("consumed", "for consumed memory", r"<N><GB> for consumed memory \(weights \+ non-torch\)"),
    _sglang("utilization", "mem_fraction_static", r"\bmem_fraction_static=<N>"),
    _sglang("weights_bytes", "Load weight end", r"Load weight end\b.{0,400}?mem usage=<N><GB>", summed=True),
    _sglang("before_bytes", "Load weight begin", r"Load weight begin\b.{0,40}?avail mem=<N><GB>", summed=True),
    _sglang("after_bytes", "Load weight end", r"Load weight end\b.{0,400}?avail mem=<N><GB>", summed=True),
    _sglang("cuda_graphs_bytes", "raph end", r"Capture [\w ]{0,60}raph end\b.{0,200}?mem usage=<N><GB>", summed=True),
    _sglang("kv_bytes", "KV Cache is allocated", r"\b(?:KV|K|V) size: <N><GB>", summed=True),
    _sglang("tokens", "max_total_num_tokens=", r"\bmax_total_num_tokens=<N>"),
    _sglang("tokens", "KV Cache is allocated", r"#tokens: <N>"),
    _sglang("max_model_len", "context_len=", r"\bcontext_len=<N>"),
)
"""By engine and term, the form that says most first: a later one is read only where a log has none before it."""

SHORTEST = 12
"""Characters of a line that could match."""
_COUNTS = frozenset({"tokens", "blocks", "block_size", "max_model_len"})
_RANK = re.compile(r"\b(?:DP|PP|TP|EP)[0-9]{1,5}\b")
_RANK_WITHIN = 120
"""Characters of a line in which SGLang says the rank."""
_VERSION = re.compile(r"(?:LLM engine \(v|vLLM API server version v?)([0-9][0-9A-Za-z.+_-]{0,60})")
_COLOUR = re.compile(r"\x1b\[[0-9;?]{0,40}[A-Za-z]")


def uncoloured(line: str) -> str:
    """A line without the colours of a terminal."""
    return _COLOUR.sub("", line) if "\x1b" in line else line


def starts_engine(line: str) -> bool:
    """Whether an engine begins to start here."""
    return "vLLM API server version " in line or "server_args=ServerArgs(" in line


def version_in(line: str) -> str | None:
    """The version of vLLM that a line names."""
    found = _VERSION.search(line)
    return None if found is None else found[1]


def read_line(line: str, number: int) -> Iterator[tuple[Rule, Seen]]:
    """Everything that a line says of memory. Raises InputError for numbers that can't be."""
    for rule in RULES:
        if rule.anchor in line:
            for found in rule.pattern.finditer(line):
                yield rule, Seen(_value(rule.term, found[1], line, number), number, _rank(line))


def _rank(line: str) -> str:
    return " ".join(_RANK.findall(line[:_RANK_WITHIN]))


def _value(term: str, text: str, line: str, number: int) -> int | Fraction:
    exact = Fraction(text.replace(",", ""))
    if term == "utilization":
        if 0 < exact <= 1:
            return exact
        why = "is no share of the memory"
    elif term in _COUNTS:
        if exact.denominator == 1 and abs(exact) <= MAX_TOKENS:
            return int(exact)
        why = "is no number of tokens"
    else:
        if abs(exact) * 2**30 <= MAX_MEMORY:
            return int(exact * 2**30)
        why = "GiB is more than any GPU has"
    raise InputError(f"{show_value(text)} {why}", line=number, value=text, snippet=line, hint="is the log damaged?")
