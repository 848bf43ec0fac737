"""Every command with a model in each form that a SPEC may have: the answers are those for the spec that it prints."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hf.hub_server import OLD, Hub, in_a_process, serving
from tests.hf.test_source import settle
from tests.support import Ran, answered, run

NAME = "Tiny-1.5"
MODEL = f"moon/{NAME}"
CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "mlp_only_layers": [0],
    "decoder_sparse_step": 1,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
QUANT = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
PLAN = """\
kind: plan
name: small
title: Small
sources: {all: a test}
hardware: h800
parallel: {world: 2, pp: 2, vpp: 1, layout: auto, ep: 1, etp: 1, tp: 1, sp: false, cp: 1, zero: 1}
schedule: {kind: 1f1b}
batch: {seq: 64, micro_batch: 1, global_tokens: 256}
precision: {params: bf16, grads: fp32, optimizer: adamw}
activations: {kernels: fused, router_probs: out, recompute: [], fp8: [], offload: none, moe_imbalance: 1.0}
vision: {process: decoupled}
memory: {fixed: 0B, allocator_efficiency: 1.0}
"""
LOG = "Model loading took 16.96 GiB memory and 31.65 seconds\nGPU KV cache size: 708,992 tokens\n"

FORMS = {
    "config": f"{NAME}/config.json",
    "folder": NAME,
    "dotted": f"./{NAME}",
    "slashed": f"{NAME}/",
    "absolute": "{here}/" + NAME,
    "absolute config": "{here}/" + f"{NAME}/config.json",
    "hub": f"hf:{MODEL}",
    "revision": f"hf:{MODEL}@v1",
}
"""As they are written in the folder `here`; that of the hub at v1 has one layer less."""

COMMANDS = {
    "params": ("params", "{spec}"),
    "params by role": ("params", "{spec}", "--by", "role"),
    "claims": ("claims", "{spec}"),
    "flops": ("flops", "{spec}", "--seq", "64"),
    "kv": ("kv", "{spec}", "--context", "64"),
    "weights": ("weights", "{spec}"),
    "train": ("train", "{spec}", "--plan", "plan.yaml"),
    "crosscheck": ("crosscheck", "{spec}", "--only", "params"),
    "serve": ("serve", "{spec}", "--gpu", "h200", "--check"),
    "serve beside a log": ("serve", "{spec}", "--gpu", "h200", "--log", "vllm.log"),
    "serve with a draft": ("serve", "llama-3.1-70b", "--gpu", "h200", "--tp", "2", "--draft", "{spec}"),
    "plot memory": ("plot", "memory", "llama-3.1-70b", "{spec}", "--context", "128..512"),
    "plot kv": ("plot", "kv", "{spec}", "llama-3.1-70b", "--context", "128..512"),
    "plot flops": ("plot", "flops", "{spec}", "--context", "128..512"),
    "plot train": ("plot", "train", "{spec}", "--plan", "plan.yaml"),
}
"""Commands that answer with a report."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a release, and a hub that has it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / NAME, CONFIG)
    (tmp_path / NAME / "hf_quant_config.json").write_text(json.dumps(QUANT))
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "vllm.log").write_text(LOG)
    older = json.dumps(CONFIG | {"num_hidden_layers": 2}).encode()
    files = {f"{MODEL}/config.json": json.dumps(CONFIG).encode(), f"{MODEL}@OLD/config.json": older}
    files |= {f"{MODEL}{at}/hf_quant_config.json": json.dumps(QUANT).encode() for at in ("", "@OLD")}
    with serving(Hub(files)) as hub:
        settle(monkeypatch, hub.url, tmp_path / "cache")
        yield tmp_path


def write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config, indent=1))
    return path


def printed(form: str, here: Path, file: str = "printed.yaml") -> str:
    """The spec that `import` prints, as a file."""
    ran = run("import", form)
    assert (ran.code, ran.err) == (0, "")
    (here / file).write_text(ran.out)
    return file


def refused(*arguments: str) -> str:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, ""), ran
    return ran.err


# ------------------------------------------------------------------------------------------------ every form


@pytest.mark.parametrize("form", FORMS)
def test_every_command_answers_as_for_the_printed_spec(form: str, here: Path) -> None:
    spec = FORMS[form].format(here=here)
    file = printed(spec, here)
    for name, command in COMMANDS.items():
        if name == "crosscheck" and form not in ("folder", "hub"):  # takes torch, and seconds
            continue
        ours, theirs = (answered(*(word.format(spec=each) for word in command)) for each in (spec, file))
        for part in ("quantities", "rows", "tables", "findings", "title"):
            assert ours[part] == theirs[part], (name, part)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_about_files_takes_every_form(form: str, here: Path) -> None:
    spec = FORMS[form].format(here=here)
    text = run("import", spec).out
    assert run("show", spec) == Ran(0, text, "")
    assert run("validate", spec) == Ran(0, f"{spec}: valid ({NAME})\n", "")
    (here / "out.yaml").unlink(missing_ok=True)
    (here / "spec.schema.json").unlink(missing_ok=True)
    assert run("import", spec, "-o", "out.yaml") == Ran(0, "", "wrote out.yaml\nwrote spec.schema.json\n")
    assert (here / "out.yaml").read_text() == f"# yaml-language-server: $schema=spec.schema.json\n{text}"
    explained = answered("import", spec, "--explain")
    assert {row["path"] for row in explained["rows"] if not row["default"]} == set(CONFIG)
    assert run("import", spec, "--strict").code == 1
    assert run("specs").code == 0


def test_the_form_makes_no_difference(here: Path) -> None:
    texts = {form: run("import", spec.format(here=here)).out for form, spec in FORMS.items()}
    assert len({texts[form] for form in FORMS if form not in ("hub", "revision")}) == 1
    for form in ("hub", "revision"):
        lines = texts[form].splitlines()
        assert [line for line in lines if "hf:" in line and "config.json" in line]  # where it is from
    found = {form: answered("weights", spec.format(here=here))["quantities"] for form, spec in FORMS.items()}
    assert found["hub"] == found["folder"]
    assert found["revision"] != found["hub"]


def test_a_pipe_and_a_file_of_another_name_are_read_by_what_they_hold(here: Path) -> None:
    alone = answered("params", f"{NAME}/config.json")["quantities"]
    (here / "saved.json").write_text(json.dumps(CONFIG))
    (here / "config.json.bak").write_text(json.dumps(CONFIG))
    for argument in ("saved.json", "./config.json.bak"):
        assert answered("params", argument)["quantities"] == alone
    ran = run("params", "-", "--format", "json", stdin=json.dumps(CONFIG))
    assert json.loads(ran.out)["quantities"] == alone
    assert json.loads(ran.out)["title"].startswith("model: ")
    assert (
        run("import", "-", stdin=json.dumps(CONFIG)).out == run("import", "-", stdin=json.dumps(CONFIG, indent=2)).out
    )
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text(json.dumps(CONFIG)))
    writer.start()
    assert answered("params", "./pipe")["quantities"] == alone
    writer.join()


def test_a_spec_of_ours_in_json_is_a_spec(here: Path) -> None:
    from tests.support import tiny

    (here / "s.json").write_text(json.dumps(tiny()))
    assert answered("params", "s.json")["inputs"]["spec"] == tiny()["name"]
    assert run("diff", "s.json", "./s.json").out.startswith("s.json → ./s.json: nothing changed")


# ------------------------------------------------------------------------------------------------------ diff


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", ["params", "flops", "kv", "weights", "claims"])
def test_a_saved_report_of_a_release_is_asked_for_again(command: str, form: str, here: Path) -> None:
    spec = FORMS[form].format(here=here)
    assert run(command, spec, "-o", "saved.json").code == 0
    for other in (spec, printed(spec, here)):
        assert run("diff", "saved.json", other).out.startswith(f"saved.json → {other}: nothing changed")
        assert run("diff", other, "saved.json", "--exit-code").code == 0


def test_an_explained_import_is_a_report_and_no_config(here: Path) -> None:
    assert run("import", NAME, "--explain", "-o", "e.json").code == 0
    assert '"model_type"' in (here / "e.json").read_text()
    assert "e.json → ./e.json: nothing changed" in run("diff", "e.json", "./e.json").out
    assert "this is a saved report of archcalc" in refused("params", "e.json")


def test_a_diff_takes_every_form_on_either_side(here: Path) -> None:
    for spec in FORMS.values():
        spec = spec.format(here=here)
        other = spec.replace("@v1", f"@{OLD}") if "@" in spec else f"{NAME}/config.json"
        for sides in ((spec, other), (other, spec)):
            assert run("diff", *sides, "--exit-code").code == 0, sides
    said = answered("diff", f"hf:{MODEL}@v1", NAME)
    assert said["inputs"]["base_file"] is None
    assert said["inputs"]["head_file"] == f"{NAME}/config.json"
    assert {row["field"] for row in said["tables"]["fields"]} >= {"backbone.num_hidden_layers"}


def test_a_config_of_a_revision_is_read_with_the_files_beside_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.invalid")
    for arguments in (("init", "-q", "."), ("add", NAME), ("commit", "-qm", "one")):
        subprocess.run(["git", *who, *arguments], check=True, capture_output=True)
    for path in (f"{NAME}/config.json", f"./{NAME}/config.json"):
        assert "nothing changed" in run("diff", f"git:HEAD:{path}", NAME).out
        assert "nothing changed" in run("diff", f"{NAME}/config.json", f"git:HEAD:{path}").out
    write(here / NAME, CONFIG | {"num_hidden_layers": 5})
    said = answered("diff", f"git:HEAD:{NAME}/config.json", f"{NAME}/config.json")
    assert said["title"].startswith(f"{NAME}/config.json at HEAD → {NAME}/config.json: ")
    lines = {row["field"]: row["line"] for row in said["tables"]["fields"]}
    assert lines["backbone.num_hidden_layers"] == list(CONFIG).index("num_hidden_layers") + 2
    (here / NAME / "hf_quant_config.json").write_text("{]")
    subprocess.run(["git", *who, "commit", "-qam", "two"], check=True)
    assert f"git:HEAD:{NAME}/hf_quant_config.json:1:2: error" in refused("diff", "k25", f"git:HEAD:{NAME}/config.json")
    assert "name a file inside it" in refused("diff", "k25", f"git:HEAD:{NAME}")


# ---------------------------------------------------------------------------------------------------- report


@pytest.mark.parametrize("form", FORMS)
def test_a_report_says_how_to_ask_again_wherever_the_model_lay(
    form: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archcalc.proof.check.find_spec", lambda name: None)
    spec = FORMS[form].format(here=here)
    assert run("report", spec, "--dir", "reports").code == 0
    assert run("report", spec, "--dir", "reports", "--check").code == 0
    text = (here / "reports" / "tiny-1.5.md").read_text()
    word = spec if spec.startswith("hf:") else f"{NAME}/config.json"
    assert f"archcalc params {word}\n" in text
    assert f"{here}" not in text
    assert "nothing changed" in run("diff", "reports/tiny-1.5.json", spec).out


def test_a_folder_called_like_a_bundled_spec_is_not_taken_for_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archcalc.proof.check.find_spec", lambda name: None)
    write(here / "k25", CONFIG)
    assert answered("params", "k25")["title"].startswith("Kimi K2.5: ")
    assert answered("params", "./k25")["title"].startswith("k25: ")
    run("report", "./k25", "--dir", "reports")
    assert "archcalc params k25/config.json\n" in (here / "reports" / "k25.md").read_text()


# ------------------------------------------------------------------------------------------------ what is not


MANY = ("params", "show", "import", "kv", "claims")


@pytest.mark.parametrize("command", MANY)
@pytest.mark.parametrize(
    ("argument", "says", "hint"),
    [
        ("empty", "empty: error: this folder has no config.json", "a folder that holds the config.json"),
        ("./empty/", "./empty/: error: this folder has no config.json", "a folder that holds the config.json"),
        ("empty/config.json", "empty/config.json: error: no such file", "check the path"),
        ("nowhere/config.json", "nowhere/config.json: error: no such file", "check the path"),
        ("moon/Other", "moon/Other: error: no such file", "did you mean hf:moon/Other?"),
        ("hf:", '"hf:" names no model of the hub', "hf:ORG/NAME"),
        ("hf:a/b/c", '"hf:a/b/c" names no model of the hub', "hf:ORG/NAME"),
        ("k52", 'is named "k52"', "did you mean k25?"),
        ("loop/config.json", "Too many levels of symbolic links", "check the path"),
    ],
)
def test_what_names_no_model_says_so(command: str, argument: str, says: str, hint: str, here: Path) -> None:
    (here / "empty").mkdir()
    (here / "loop").mkdir()
    (here / "loop" / "config.json").symlink_to("config.json")
    err = refused(command, argument)
    assert says in err
    assert hint in err


def test_import_of_a_spec_says_what_prints_one(here: Path) -> None:
    assert "hint: archcalc show prints a spec" in refused("import", "k25")
    (here / "notes.txt").write_text("hello")
    assert "notes.txt: error: this is no config.json of a model" in refused("import", "notes.txt")


def test_a_pipe_that_nobody_writes_to_does_not_hang(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archcalc.files.text_file.NOBODY", 0.1)
    write(here / "other", CONFIG)
    (here / "piped").mkdir()
    for path in ("pipe.json", "piped/config.json", "other/hf_quant_config.json", "other/model.safetensors.index.json"):
        os.mkfifo(path)
    for argument in ("pipe.json", "piped", "other", "./piped/config.json"):
        assert "nobody writes to this pipe" in refused("params", argument)
        assert "nobody writes to this pipe" in refused("import", argument)
    assert "nobody writes to this pipe" in refused("diff", "k25", "pipe.json")


def test_validate_tells_an_invalid_config_from_one_that_can_not_be_read(here: Path) -> None:
    bad = {
        "type": (CONFIG | {"model_type": "klingon"}, 1),
        "size": (CONFIG | {"hidden_size": -1}, 1),
        "key": (CONFIG | {"memory_heads": 3}, 1),
        "rule": (CONFIG | {"num_key_value_heads": 3}, 1),
        "quantized": (CONFIG | {"quantization_config": {"quant_method": "klingon"}}, 1),
        "infinite": (CONFIG | {"vocab_size": float("inf")}, 1),
    }
    for name, (config, code) in bad.items():
        write(here / name, config)
        ran = run("validate", name)
        assert (ran.code, ran.out) == (code, "")
        assert ran.err.startswith(f"{name}/config.json:")
    (here / "size" / "config.json").write_text("{")
    assert run("validate", "size").code == 2
    assert run("validate", "nowhere/config.json").code == 2
    assert run("validate", "key", NAME, "size").code == 2
    assert run("validate", "key", NAME).out == f"{NAME}: valid ({NAME})\n"


def test_a_draft_that_is_no_model_is_told_as_a_spec_is(here: Path) -> None:
    write(here / "bad", CONFIG | {"model_type": "klingon"})
    err = refused("serve", "llama-3.1-70b", "--gpu", "h200", "--draft", "bad")
    assert 'bad/config.json:2:16: error: model_type "klingon" is not read' in err


# ----------------------------------------------------------------------------------------------------- import -o


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("a.json", "what is written is YAML, which a.json does not say"),
        ("a.MD", "which a.MD does not say"),
        ("a.svg", "which a.svg does not say"),
        ("none/a.yaml", "can't write none/a.yaml"),
        (".", "can't write"),
        (f"{NAME}/config.json/a.yaml", "can't write"),
    ],
)
def test_what_can_not_be_written_is_one_error(output: str, says: str, here: Path) -> None:
    before = sorted(here.rglob("*"))
    assert says in refused("import", NAME, "-o", output)
    assert sorted(here.rglob("*")) == before


def test_a_dash_is_stdout(here: Path) -> None:
    assert run("import", NAME, "-o", "-") == run("import", NAME)
    assert not (here / "-").exists()


# ------------------------------------------------------------------------------------------------------- hub


def test_a_missing_model_or_revision_of_the_hub_is_named(here: Path) -> None:
    for command in (*MANY, "validate", "weights"):
        ran = run(command, "hf:moon/none")
        assert (ran.code, ran.out) == (2, "")
        assert "has no model moon/none" in ran.err
        assert "moon/Tiny-1.5 has no revision v9" in run(command, f"hf:{MODEL}@v9").err


def test_offline_the_cache_answers_or_it_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answered("params", f"hf:{MODEL}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert answered("params", f"hf:{MODEL}") == before
    err = refused("params", f"hf:{MODEL}@v1")
    assert "HF_HUB_OFFLINE is set, and config.json of moon/Tiny-1.5 is not in the cache" in err


def test_an_error_in_a_config_of_the_hub_has_its_place(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Hub({f"{MODEL}/config.json": json.dumps({"memory_heads": 3, **CONFIG}, indent=1).encode()})) as hub:
        settle(monkeypatch, hub.url, here / "another")
        err = refused("params", f"hf:{MODEL}")
    assert err.startswith(f"hf:{MODEL}/config.json:2:2: error: memory_heads 3 could change a size")


def test_a_command_line_of_its_own_reads_from_the_hub(here: Path) -> None:
    """As people run it: settings from the environment, nothing but the answer printed."""
    code = "import sys; from archcalc.cli import main; sys.exit(main(['params', sys.argv[1], '--format', 'json']))"
    with serving(Hub({f"{MODEL}/config.json": json.dumps(CONFIG).encode()})) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(here / "home")}
        ran = in_a_process(f"hf:{MODEL}", env, code)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["quantities"] == answered("params", f"{NAME}/config.json")["quantities"]
    ran = in_a_process(f"hf:{MODEL}", {}, f"import sys; sys.modules['huggingface_hub'] = None\n{code}")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines() == [
        f"hf:{MODEL}: error: reading from the hub needs huggingface_hub",
        "hint: pip install 'archcalc[hub]'",
    ]
