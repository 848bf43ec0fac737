"""Values that options may be meant to have, the usual ones first, and how often a command is tried."""

from __future__ import annotations

WEIGHTS = {
    "params": 14,
    "validate": 16,
    "kv": 12,
    "flops": 10,
    "weights": 9,
    "train": 18,
    "serve": 10,
    "import": 16,
    "diff": 6,
    "claims": 4,
    "card": 0.6,
    "check": 5,
    "show": 4,
    "schema": 1,
    "specs": 1,
    "crosscheck": 0.12,
    "report": 0.3,
    "plot kv": 3,
    "plot flops": 3,
    "plot train": 4,
    "plot memory": 1,
}
"""How often a command is tried: less where it takes long. One without a weight is tried as often as `show`."""

USUAL = {"serve": ("gpu",)}
"""Options that a command can hardly do without."""

SIZES = ("1", "2", "3", "4", "8", "16", "7", "64", "0", "256", "1000000", "1000001", "4k", "128k", "1M")
LENGTHS = ("1", "64", "100", "4k", "8k", "256k", "0", "1M", "0.5k", "16G", "1,000", "15.5T", "999999999999")
MEMORIES = ("80GiB", "80GB", "1B", "0", "512 MiB", "1e9", "80G", "0.5GiB", "99999PB")
PICTURE = ("448x448", "1024x768", "1x1", "56x9999999", "0x0", "28x28")
CLIP = ("4x56x56", "1x1x1", "16x448x448", "9999999x14x14", "0x1x1")
FORMATS = ("table", "json", "json", "json", "csv", "markdown", "github", "JSON", "xml", "")
OUTPUTS = (
    *(
        "o.json",
        "o.csv",
        "o.md",
        "o.txt",
        "o.yaml",
        "-",
        "o.JSON",
        "o",
        "missing/o.json",
        ".",
        "",
        "loop.json",
        "/dev/null",
    ),
    *("/dev/full", f"{'n' * 250}.json", f"{'n' * 251}.json", "o.html", "::add-mask::o.json", "o\n.json", "o\u202e.csv"),
)
"""None of them leads out of the folder of the case."""
PICTURES = ("o.svg", "o.svg", "o.png")
DTYPES = ("bf16", "fp8", "fp8_ds_mla", "int8", "fp16", "BF16")
PARTS = (
    "lm_head",
    "model.layers.0",
    "model.layers.*",
    "model.embed_tokens",
    "",
    ".",
    "*",
    "vision_tower",
    "model.norm",
)
KINDS = ("spec", "plan", "hardware", "engine", "stack", "books", "budgets", "Spec", "x")

VALUES: dict[str, tuple[str, ...]] = {
    "format_name": FORMATS,
    "units": ("gib", "gb", "bytes", "GiB", "mb"),
    "by": ("component", "role", "dtype", "Role", "x"),
    "explain": PARTS,
    "seq": LENGTHS,
    "lengths": ("4096,1024x3", "1x1000", "64", "0", "1k,,2", "1x1000000", "x", "1x0"),
    "context": LENGTHS,
    "tokens": LENGTHS,
    "image": PICTURE,
    "video": CLIP,
    "kv_dtype": DTYPES,
    "memory": MEMORIES,
    "overhead": MEMORIES,
    "optimizer": ("adamw", "muon", "sgd", "adamw-bf16-moments", "AdamW", "x"),
    "as_name": ("released", "bf16", "fp8", "k25", "deepseek-v3", "x"),
    "rank": ("0", "0", "1", "1", "15", "16", "-1", "x"),
    "against": ("twin", "transformers", "x"),
    "only": ("params", "params,kv", "flops", "schedule", "x", ""),
    "gpus": ("auto", *SIZES),
    "ep": ("all", *SIZES),
    "utilization": ("0.9", "0.5", "1", "0", "-1", "1e-300", "nan", "1e999", "0.0001"),
    "batched_tokens": LENGTHS,
    "max_num_seqs": LENGTHS,
    "block_size": LENGTHS,
    "offload_experts": ("host", *SIZES),
    "price": ("h100=2.1", "h200=3", "h100=0", "x=1", "h100", "h100=1e9", "=1"),
    "within": ("5%", "0%", "100%", "x", "5", "-1%", "1e999%"),
    "base": ("HEAD", "HEAD~1", "--x", "main", "0" * 40),
    "directory": ("r", ".", "reports", "r/deep/er", "s.yaml", ""),
    "kind": KINDS,
}
"""Values of options by name; one without a line takes sizes, words of other options and nonsense."""

OF = {("train", "explain"): ("activations", "transient", "x")}
"""Values of options that mean another thing to one command."""

SWEPT = {
    "context": ("4k..256k", "1..2", "64..1k", "1..1", "0..1", "1..16G", "4k", ".."),
    "batch": ("1,8", "1", "0", "1,1,2", "9" * 12),
    "kv_dtype": ("bf16,fp8", *DTYPES),
}
"""The same of the plots, which sweep over several."""

FILES = {
    "plan": ("plan", "k2-pretrain"),
    "gpu": ("hardware", "h200"),
    "engine": ("engine", "sglang"),
    "draft": ("spec", "llama-3.1-8b"),
    "log": ("log", ""),
    "source": ("config", ""),
    "path": ("budgets", ""),
}
"""Options and arguments that name a file: of which kind, and a bundled one instead."""

ANY = ("spec", "spec", "config", "plan", "hardware", "engine", "stack", "budgets", "books")

SETTINGS = (
    *(
        "1",
        "2",
        "4",
        "8",
        "3",
        "0",
        "-1",
        "256",
        "1e308",
        "5e-324",
        "1e999",
        "true",
        "null",
        "[]",
        "{}",
        "none",
        "all",
        "full",
    ),
    *(
        "[layernorm]",
        "{pp: 2}",
        "interleaved-1f1b",
        "gpipe",
        "zb-v",
        "dualpipe",
        "bf16",
        "fp32",
        "adamw",
        "muon",
        "lora(8)",
        "fused",
    ),
    *(
        "eager",
        "4k",
        "1T",
        "4GB",
        "h100",
        "megatron-2025",
        "torch-fsdp2",
        "{typical: 1.2, worst: 3}",
        "real",
        "0.5",
        "[[",
        "&a",
        "x: y",
    ),
)


NUMBERS = ("1", "2", "4", "8", "3", "16", "256", "0", "-1")
