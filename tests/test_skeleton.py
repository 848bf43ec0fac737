"""The shape of the project: what imports what, what start-up loads, what ships, what the docs promise."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import archcalc
from archcalc.cli.app import COMMANDS
from archcalc.files.loader import bundled_names, load_spec
from archcalc.workload import Workload

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE = ROOT / "archcalc"
HEAVY = {"huggingface_hub", "matplotlib", "numpy", "torch", "transformers"}


def run(command: Sequence[str | Path], cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    # An outer make hands its flags down in MAKEFLAGS; a make started here must not see them.
    clean = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | {"NO_COLOR": "1", "COLUMNS": "120"} | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def archcalc_run(*arguments: str, cwd: Path = ROOT, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    argv = ["archcalc", *arguments]
    code = f"import sys; from archcalc.cli import main; sys.argv = {argv!r}; sys.exit(main())"
    return run([sys.executable, *options, "-c", code], cwd=cwd, PYTHONPATH=str(ROOT))


# ---------------------------------------------------------------------------------------------- imports


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("lint-imports")
    return run([tool, "--no-cache", "--no-logo"], cwd=tree, PYTHONPATH=str(tree))


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("tape/broken.py", "from archcalc.files import model", "Imports point one way"),
        ("units.py", "from archcalc import workload", "Imports point one way"),
        ("arch/broken.py", "def f():\n    from archcalc.calc import params", "Imports point one way"),
        ("stray.py", "", "Imports point one way"),  # a new room has no place in the order yet
        ("reference/broken.py", "from archcalc.arch import block", "Imports point one way"),
        ("reference/broken.py", "from archcalc import workload", "Imports point one way"),
        ("calc/broken.py", "from archcalc.files import model", "Calculators see tapes"),
        ("cli/broken.py", "from archcalc import reference", "Only the cross-check"),
        ("reference/kernels/eager.py", "def f():\n    from archcalc.reference import ffn", "import each other"),
        ("proof/broken.py", "import torch", "Only the torch twin"),
        ("calc/broken.py", "def f():\n    import numpy", "nobody imports numpy"),
        ("cli/broken.py", "from matplotlib.figure import Figure", "Only render/plot.py"),
        ("render/broken.py", "import typer", "Only the command line"),
        ("files/broken.py", "from archcalc.hf import source", "Imports point one way"),
        ("documents/broken.py", "from archcalc.api import report", "Imports point one way"),
        ("api/broken.py", "from archcalc import cli", "Imports point one way"),
        ("hf/source.py", "def f():\n    import huggingface_hub", "Only hf/hub.py"),
    ],
)
def test_an_import_against_the_order_breaks_its_contract(tmp_path: Path, module: str, line: str, contract: str) -> None:
    shutil.copytree(ROOT / "archcalc", tmp_path / "archcalc", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "archcalc" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "Could not" not in done.stdout
    if module == "stray.py":  # refused before any contract is judged
        assert "stray" in done.stdout + done.stderr
    else:
        broken = [row for row in done.stdout.splitlines() if " BROKEN" in row]
        assert any(contract in row for row in broken), done.stdout


def test_no_room_has_the_name_of_a_command() -> None:
    """`archcalc.params` and its like are functions: a package of that name would stand in their place."""
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert {"tape", "units"} <= rooms
    assert rooms.isdisjoint([*COMMANDS, *archcalc.__all__])


def test_the_import_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


# --------------------------------------------------------------------------------------------- start-up


def modules_loaded_by(cwd: Path, *arguments: str) -> set[str]:
    """Names of all modules that a whole run of archcalc loads, as the interpreter itself reports them."""
    done = archcalc_run(*arguments, cwd=cwd, options=["-X", "importtime"])
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}


def test_no_physics_is_decided_by_the_kind_of_an_operation() -> None:
    """Outside tape/ nothing is compared with the name of an operation, however it was got hold of."""
    specs = [load_spec(name) for name in bundled_names()]
    tapes = [spec.trace(Workload(phase="train", seq=8, images=((60, 60),) if spec.vision else ())) for spec in specs]
    kinds = {op.kind for tape in tapes for segment in tape.segments for op in segment.ops}
    kinds |= {"short_conv", "scan", "index_scores", "add_positions", "per_head_linear"}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in ("tape", "reference"):
            continue
        comparisons = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare))
        for node in comparisons:
            sides = [node.left, *node.comparators]
            named = [s for s in sides if getattr(s, "attr", getattr(s, "id", "")) == "kind"]
            words = {each.value for side in sides for each in ast.walk(side) if isinstance(each, ast.Constant)}
            if named and words & kinds:
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


@pytest.mark.parametrize(
    "arguments",
    [("params", "k25"), ("params", "k25", "--format", "json"), ("claims", "k25"), ("specs",), ("--help",)],
    ids=" ".join,
)
def test_everyday_commands_load_no_heavy_library(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    # In a folder of no consequence: the bundled name is found from anywhere.
    loaded = modules_loaded_by(tmp_path, *arguments)
    assert {"archcalc.cli", "typer"} <= loaded
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()


def test_params_loads_neither_the_torch_twin_nor_the_training_plan(tmp_path: Path) -> None:
    loaded = modules_loaded_by(tmp_path, "params", "k25")
    assert "archcalc.tape" in loaded
    for absent in ("archcalc.reference", "archcalc.proof", "archcalc.render.plot", "archcalc.training"):
        assert not [name for name in loaded if name == absent or name.startswith(absent + ".")]


# ------------------------------------------------------------------------------------------- the package


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without a network."""
    folder = tmp_path_factory.mktemp("built")
    done = run([sys.executable, "-m", "hatchling", "build", "-d", folder])
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def files_under(folder: str, suffix: str) -> set[str]:
    return {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob(f"*{suffix}")}


def test_the_wheel_holds_the_package_with_its_specs_and_schemas_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {f"archcalc/{name}" for name in files_under("archcalc", ".py")}
    specs = {f"archcalc/bundled/specs/{name}" for name in files_under("specs", ".yaml")}
    schemas = {f"archcalc/bundled/schema/{name}" for name in files_under("schema", ".json")}
    assert "archcalc/bundled/specs/k25.yaml" in specs
    assert "archcalc/bundled/schema/spec.schema.json" in schemas
    assert {name for name in names if ".dist-info/" not in name} == (
        code | specs | schemas | {"archcalc/py.typed", "archcalc/hf/defaults.json"}
    )
    assert f"archcalc-{archcalc.__version__}.dist-info/licenses/LICENSE" in names


def test_the_sdist_can_be_tested_and_holds_no_environment(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"Makefile", "constraints.txt", "specs/k25.yaml", "tests/test_skeleton.py", "archcalc/py.typed"}
    assert wanted <= names
    assert not [name for name in names if name.startswith(".venv") or "__pycache__" in name]


def test_the_version_is_the_same_everywhere() -> None:
    assert archcalc.__version__ == PYPROJECT["project"]["version"]
    assert f"## {archcalc.__version__}" in (ROOT / "CHANGELOG.md").read_text()


# ----------------------------------------------------------------------------------------- dependencies


def required() -> dict[str, Requirement]:
    """Every distribution that pyproject.toml asks for, by name; our own extras left out."""
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    found = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    del found[canonicalize_name("archcalc")]
    return {str(name): requirement for name, requirement in found.items()}


def pins() -> dict[str, str]:
    rows = [row.strip() for row in (ROOT / "constraints.txt").read_text().splitlines()]
    found: dict[str, str] = {}
    for row in rows:
        if row and not row.startswith("#"):
            name, exact, version = row.partition("==")
            assert exact, row
            key = str(canonicalize_name(name))
            assert key not in found, f"{name} is pinned twice"
            found[key] = version
    return found


def test_every_requirement_is_pinned_within_its_range() -> None:
    found = pins()
    for name, requirement in required().items():
        assert name in found, f"{name} has no pin in constraints.txt"
        assert requirement.specifier.contains(found[name], prereleases=False), str(requirement)


def test_pins_are_public_versions_that_any_index_may_serve() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"\d+(\.\d+)*(\.?post\d+)?", version), f"{name}=={version}"


def test_the_base_install_pulls_no_heavy_library() -> None:
    base = {Requirement(line).name.lower() for line in PYPROJECT["project"]["dependencies"]}
    assert base == {"typer", "rich", "pydantic", "pyyaml"}


# ------------------------------------------------------------------------------------------ make and docs


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_readme_begins_with_the_two_commands() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line]
    opening = [lines[0], *(line.partition("#")[0].strip() for line in lines[1:5])]
    assert opening == ["# archcalc", "```sh", "make run", "make test", "```"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_in_the_docs_is_a_target(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)", text, re.MULTILINE))
    words = {first or second for first, second in named}
    assert "test" in words
    assert words <= make_targets()


def test_make_test_runs_each_check_once_and_pytest_last() -> None:
    done = run(["make", "-n", "test"])
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(".venv/bin/")]
    commands = [line.removeprefix(".venv/bin/").removeprefix("python -m ") for line in lines]
    checks = [command.partition(" -n ")[0] for command in commands if not command.startswith("pip ")]
    assert checks == [
        "ruff check",
        "ruff format --check",
        "mypy",
        "lint-imports --no-logo",
        "codespell",
        "pytest",
    ]


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]


def test_the_readme_lists_the_commands_of_the_help() -> None:
    done = archcalc_run("--help")
    assert done.returncode == 0, done.stderr
    _, _, panel = done.stdout.partition("Commands")
    offered = set(re.findall(r"^[^\w\n]*([a-z][a-z-]*) {2,}\S", panel, re.MULTILINE))
    section = (ROOT / "README.md").read_text().partition("## Commands")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `([a-z][a-z-]*)", section, re.MULTILINE))
    assert "params" in offered
    assert offered == listed
