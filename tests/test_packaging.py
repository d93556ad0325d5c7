"""What users install: the wheel, the pins, what an import brings along, the direction of imports."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import illada_lab
from illada_lab.config import conf_dir
from illada_lab.extras import NEEDED_BY, OPTIONAL

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = {"lightning", "pytorch_lightning", "datasets", "wandb", "matplotlib", "transformers", "pandas", "tensorboard"}


def python(code: str, cwd: Path = ROOT, **environment: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_every_configuration(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "illada_lab").rglob("*.py")}
    files = {f"illada_lab/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "conf").rglob("*.yaml")}
    recorded = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "illada_lab/training/reference/recorded").glob("*.json")
    }
    assert modules <= held and files <= held and len(files) > 30
    templates = {p.relative_to(ROOT).as_posix() for p in (ROOT / "illada_lab").glob("*/templates/*.*")}
    assert recorded <= held and recorded and templates <= held and len(templates) > 3
    assert not [name for name in held if name.startswith(("tests/", "conf/")) or name.endswith(".pyc")]


def test_an_installed_wheel_works_far_from_the_checkout(wheel, tmp_path):
    """Unpacked beside nothing else: its own conf/ is found and a configuration composes, checks and is counted."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import illada_lab, sys; from illada_lab.config import conf_dir; print(conf_dir());"
        "from illada_lab.cli import main; sys.exit(main(['config', 'scale=8b']))"
    )
    (tmp_path / "elsewhere").mkdir()
    out = python(code, cwd=tmp_path / "elsewhere", PYTHONPATH=str(tmp_path / "site")).splitlines()
    assert Path(out[0]) == tmp_path / "site" / "illada_lab" / "conf"
    assert out[-1].startswith("parameters: 7,615,025,152")


def test_the_checkout_uses_the_configurations_at_its_top():
    assert conf_dir() == ROOT / "conf"


def test_every_folder_of_modules_is_a_package():
    """A folder without __init__.py is not seen by the checks of the import direction."""
    folders = {path.parent for path in (ROOT / "illada_lab").rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_version_and_license():
    assert PYPROJECT["project"]["version"] == illada_lab.__version__
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


@pytest.mark.parametrize(
    "module",
    [
        "illada_lab",
        "illada_lab.cli",
        "illada_lab.diffusion",
        "illada_lab.models",
        "illada_lab.objectives",
        "illada_lab.samplers",
    ],
)
def test_imports_bring_nothing_heavy_along(module):
    code = f"import {module}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    imported = set(python(code).split())
    assert not imported & HEAVY
    if module != "illada_lab.cli":
        assert "hydra" not in imported


@pytest.mark.parametrize("code", ["import illada_lab", "from illada_lab.cli import main; main(['--help'])"])
def test_import_and_help_do_not_wait_for_torch(code):
    """What was imported and not seconds: torch alone takes 2 to 4 s, a busy machine any number."""
    out = python(f"{code}; import sys; print('imported', *sorted(sys.modules))")
    names = out.partition("imported ")[2].split()
    slow = HEAVY | {"torch", "numpy", "hydra", "omegaconf", "rich", "sympy"}
    assert "illada_lab" in names and not {name.partition(".")[0] for name in names} & slow


def test_public_names_are_there_and_others_are_not():
    for name in illada_lab.__all__:
        assert getattr(illada_lab, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        illada_lab.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_pins_are_exact_portable_and_cover_what_the_package_needs():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "torch==2.13.0"
    pattern = re.compile(r"([A-Za-z0-9._-]+)==([0-9A-Za-z.!]+)(; [a-z_]+ == \"\w+\")?")
    matches = [pattern.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if match is None]
    pinned = {match[1].lower().replace("_", "-") for match in matches if match}
    assert len(pinned) == len(lines)
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["dev"], *extras["tensorboard"], "setuptools"]:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert name and name[0].lower().replace("_", "-") in pinned, requirement


def test_the_base_install_asks_for_no_optional_package():
    base = " ".join(PYPROJECT["project"]["dependencies"])
    assert not [name for name in ("flash-attn", "lm-eval", "jupyter", "pytest", "transformers") if name in base]


def test_every_optional_package_is_used_somewhere():
    """In the code or by a configuration; tools that open and run notebooks are started by hand."""
    spare = ("extras.py", "doctor.py", Path(__file__).name)
    files = [path for folder in ("illada_lab", "tests") for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text() for path in files if path.name not in spare)
    asked_for = [o.module for o in OPTIONAL if o.extra != "notebooks" and o.module not in NEEDED_BY.values()]
    assert not [module for module in asked_for if not re.search(rf"\b{module}\b", text)]
    for extra in ("gpu", "eval", "lora", "tensorboard"):
        asked = PYPROJECT["project"]["optional-dependencies"][extra]
        names = {re.split(r"[>=<;\[ ]", requirement)[0].replace("-", "_") for requirement in asked}
        assert names == {o.module for o in OPTIONAL if o.extra == extra}


def test_make_needs_no_target_that_is_not_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("reproduce", "test", "bench", "notebooks", "lint", "format", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_hook_for_configurations_runs_their_contracts():
    (hook,) = (
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
        if hook["id"] == "configurations"
    )
    paths = [word for word in hook["entry"].split() if word.startswith("tests/")]
    assert {"tests/test_config.py", "tests/conf"} <= set(paths) and all((ROOT / path).exists() for path in paths)
    watched = [
        "conf/model/toy.yaml",
        *(f"illada_lab/config/{path.name}" for path in (ROOT / "illada_lab/config").glob("*.py")),
    ]
    assert len(watched) > 3 and all(re.search(hook["files"], path) for path in watched)


def test_files_that_contributors_are_told_of_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = [name for name in re.findall(r"`([\w/]+\.(?:py|yaml))`", text) if "my_" not in name]
    folders = ("", "illada_lab", "illada_lab/samplers", "illada_lab/models")
    assert len(named) > 8
    assert not [name for name in named if not any((ROOT / folder / name).is_file() for folder in folders)]
