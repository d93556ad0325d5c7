"""What a result says of the code that made it."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from illada_lab import manifest


@pytest.fixture
def checkout(tmp_path):
    """A small checkout with the module in it, and its `commit` as called from there."""
    for name in ("illada_lab/__init__.py", "results/a.json", "benchmarks/results/b.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    shutil.copy(manifest.__file__, tmp_path / "illada_lab/manifest.py")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    spec = importlib.util.spec_from_file_location("manifest_of_checkout", tmp_path / "illada_lab/manifest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tmp_path, module.commit


def test_changed_code_is_told_and_changed_results_are_not(checkout):
    folder, commit = checkout
    clean = commit()
    assert clean is not None and len(clean) == 12
    for name in ("results/a.json", "benchmarks/results/b.json", "notes.txt"):
        (folder / name).write_text("new")
    assert commit() == clean
    with Path(folder / "illada_lab/__init__.py").open("a") as file:
        file.write("# changed")
    assert commit() == f"{clean}+changes"


def test_a_package_outside_of_a_checkout_has_no_commit(checkout):
    folder, commit = checkout
    shutil.rmtree(folder / ".git")
    assert commit() is None
