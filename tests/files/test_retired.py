"""Keys that were read once: a file that still has one is read without it, and told so."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from archcalc.errors import RetiredKey
from archcalc.files.loader import bundled_dir
from archcalc.serving.engine import load_engine
from tests.support import ROOT, run, text

VLLM = (bundled_dir() / "engines" / "vllm.yaml").read_text()
OLD = VLLM.replace(
    "tensor_parallel:\n", "kv_cache_dtypes: {auto: 2}\ntensor_parallel:\n  replicated: [router]\n"
).replace("assumed:\n", "measured:\n  - run: r1\n    total_gib: many\nassumed:\n")
K25 = text("k25").replace("  temporal_merge_kernel_size", "  sample_fps: 2.0\n  temporal_merge_kernel_size")


def place(content: str, key: str) -> str:
    """LINE:COLUMN of a key that stands there once."""
    n, line = next((n, line) for n, line in enumerate(content.splitlines(), 1) if line.strip().startswith(f"{key}:"))
    return f"{n}:{line.index(key) + 1}"


def serve(engine: str) -> tuple[int, str, str]:
    return run("serve", "k25", "--gpu", "h200", "--format", "json", "--engine", engine)


def test_a_file_with_retired_keys_is_answered_as_if_it_had_none(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    code, out, err = serve(str(path))
    bundled = serve("vllm")
    own = json.loads(out)
    own.pop("files")  # a report holds the files that it rests on, but for bundled ones
    assert (code, own) == (bundled[0], json.loads(bundled[1]))
    assert err.splitlines() == [
        f"warning: {path}:{place(OLD, key)}: `{key}` is no longer read; delete it"
        for key in ("kv_cache_dtypes", "replicated", "measured")
    ]


def test_it_is_told_again_by_the_next_run_but_once_in_each(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(K25)
    for _ in range(2):
        ran = run("plot", "kv", str(path), str(path))
        assert ran.err == f"warning: {path}:{place(K25, 'sample_fps')}: `sample_fps` is no longer read; delete it\n"


def test_validate_tells_it_and_passes(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(K25)
    ran = run("validate", str(path))
    assert (ran.code, ran.out) == (0, f"{path}: valid (Kimi K2.5)\n")
    assert "`sample_fps` is no longer read" in ran.err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sample_fps: 2.0", "sample_fps: [{deep: 1}, null]", None),
        ("patch_size: 14", "patch_size: -14", "patch_size must be greater than 0"),
        ("patch_size: 14", "patch_sise: 14", "unknown key `patch_sise`"),
        ("vt_num_attention_heads: 16", "vt_num_attention_heads: 17", "does not divide into vt_num_attention_heads"),
    ],
)
def test_what_else_is_wrong_is_still_an_error(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    path = tmp_path / "old.yaml"
    assert old in K25
    path.write_text(K25.replace(old, new))
    ran = run("validate", str(path))
    assert ran.code == (0 if message is None else 1)
    assert "warning: " in ran.err
    assert message is None or message in ran.err
    assert "error: unknown key `sample_fps`" not in ran.err


def test_a_retired_key_of_one_section_is_unknown_in_another(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(text("k25").replace("  kind: patch_merger", "  kind: patch_merger\n  sample_fps: 2.0"))
    ran = run("validate", str(path))
    assert ran.code == 1
    assert "unknown key `sample_fps`" in ran.err


def test_a_caller_in_python_gets_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    with pytest.warns(RetiredKey, match="is no longer read; delete it$") as told:
        assert load_engine(str(path)) == load_engine()
    assert len(told) == 3


@pytest.mark.parametrize(("kind", "content"), [("engine", OLD), ("spec", K25)])
def test_editors_accept_an_old_file_and_offer_no_retired_key(kind: str, content: str) -> None:
    import yaml

    schema = json.loads((ROOT / "schema" / f"{kind}.schema.json").read_text())
    assert jsonschema.Draft7Validator(schema).is_valid(yaml.safe_load(content))
    sections = [schema, *schema["definitions"].values()]
    offered = {key for section in sections for key in section.get("properties", ())}
    assert not offered & {"measured", "kv_cache_dtypes", "fp8_ds_mla_bytes_per_layer", "replicated", "sample_fps"}
