"""What a result says of the code that made it."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from illada_lab import doctor, manifest


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


GIB = 2**30
UNLIMITED = str(2**63 - 4096)  # as cgroup v1 says it


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/job/step", {"job/step/memory.max": 4 * GIB, "job/memory.max": 2 * GIB, "memory.max": "max"}, 2),
        ("0::/job/step", {"job/step/memory.max": "max"}, 16),
        ("0::/a/path/of/the/host", {"memory.max": 3 * GIB}, 3),  # in a container
        ("5:cpu:/\n4:memory:/slurm/job", {"memory/slurm/job/memory.limit_in_bytes": 5 * GIB, "memory.max": GIB}, 5),
        ("4:memory:/gone", {"memory/memory.limit_in_bytes": 6 * GIB}, 6),
        ("4:memory:/", {"memory/memory.limit_in_bytes": UNLIMITED}, 16),
        ("0::/job", {"job/memory.max": 64 * GIB}, 16),
        ("0::/job", {"job/memory.max": 0}, 16),
    ],
)
def test_memory_is_what_a_container_or_a_job_may_take(tmp_path, monkeypatch, own, limits, expected):
    in_groups(tmp_path, monkeypatch, own, limits)
    assert manifest.memory_bytes() == expected * GIB


def test_memory_that_nobody_tells_is_a_limit_or_not_known(tmp_path, monkeypatch):
    in_groups(tmp_path, monkeypatch, "0::/job", {"job/memory.max": 2 * GIB})
    monkeypatch.delattr(manifest.os, "sysconf")  # as on Windows
    assert manifest.memory_bytes() == 2 * GIB
    monkeypatch.setattr(manifest, "OWN_CONTROL_GROUPS", tmp_path / "none")
    assert manifest.memory_bytes() == 0


@pytest.mark.parametrize(
    ("name", "key"), [("memory.max", "inactive_file"), ("memory.limit_in_bytes", "total_inactive_file")]
)
def test_free_memory_is_what_the_job_has_left(tmp_path, monkeypatch, name, key):
    """Files that are only kept for later do not count as taken."""
    is_v1 = name == "memory.limit_in_bytes"
    folder, taken = ("memory/job", "memory.usage_in_bytes") if is_v1 else ("job", "memory.current")
    own = "4:memory:/job" if is_v1 else "0::/job"
    stat = f"anon 1\n{key} {20 * 2**20}"
    files = {name: 100 * 2**20, taken: 70 * 2**20, "memory.stat": stat}
    in_groups(tmp_path, monkeypatch, own, {f"{folder}/{file}": text for file, text in files.items()})
    assert doctor.free_memory_bytes() == 50 * 2**20


def in_groups(folder, monkeypatch, own, files):
    """A process in these control groups, on a machine of 16 GiB."""
    (folder / "own").write_text(f"{own}\n")
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(f"{text}\n")
    monkeypatch.setattr(manifest, "CONTROL_GROUPS", folder / "groups")
    monkeypatch.setattr(manifest, "OWN_CONTROL_GROUPS", folder / "own")
    monkeypatch.setattr(manifest.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4 * 2**20}[name])
