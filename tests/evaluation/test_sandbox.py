"""Attacks on the sandbox: each ends in a recorded failure, the next program runs, nothing is left behind."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from illada_lab.evaluation.sandbox import Limits, Outcome, missing_protections, run_program, run_programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is the Linux kernel's")
SHORT = Limits(seconds=1.0, memory_mib=256, file_mib=1)
LONG = Limits(seconds=30.0)
# What each attack does, and how its failure is told.
ATTACKS = {
    "endless loop": ("while True: pass", "more than 1 s|SIGXCPU|SIGKILL"),
    "sleep": ("import time; time.sleep(60)", "more than 1 s"),
    "fork bomb": ("import os\nwhile True: os.fork()", "PermissionError"),
    "memory bomb": ("x = []\nwhile True: x.append(bytearray(10**7))", "MemoryError"),
    "huge output": ("while True: print('x' * 10000)", "more than 65536 bytes"),
    "huge file": ("f = open('big', 'wb')\nwhile True: f.write(b'x' * 10**6)", "File too large|SIGXFSZ|No space"),
    "own environment": ("import os; print(os.environ['PATH'])", "KeyError"),
    "environment in /proc": ("print(open('/proc/self/environ').read())", "PermissionError|FileNotFoundError"),
    "the parent's": ("import os; print(open(f'/proc/{os.getppid()}/environ').read())", "PermissionError|FileNotFound"),
    "kill the parent": ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
    "kill everything": ("import os; os.kill(-1, 9)", "PermissionError"),
    "kill by ctypes": ("import ctypes, os; assert ctypes.CDLL(None).kill(os.getppid(), 9) == 0", "AssertionError"),
    "socket": ("import socket; socket.create_connection(('127.0.0.1', 22))", "PermissionError"),
    "unix socket": ("import socket; socket.socket(socket.AF_UNIX)", "PermissionError"),
    "deep recursion": ("def f(): return f()\nf()", "RecursionError"),
    "stack overflow": ("import sys; sys.setrecursionlimit(10**9)\ndef f(x): return [f(x)]\nf(1)", "SIG|MemoryError|Recursion|SystemError"),
    "sys.exit": ("import sys; sys.exit(0)", "SystemExit"),
    "os._exit": ("import os; os._exit(0)", "before its end"),
    "exec": ("import os; os.execv('/bin/true', ['true'])", "PermissionError"),
    "subprocess": ("import subprocess; subprocess.run(['/bin/true'], check=True)", "PermissionError"),
    "shell by ctypes": ("import ctypes; assert ctypes.CDLL(None).system(b'true') == 0", "AssertionError"),
    "lift the limits": (
        "import resource as r; r.setrlimit(r.RLIMIT_CPU, (99, 99)); r.setrlimit(r.RLIMIT_AS, (-1, -1))", "PermissionError|ValueError"
    ),
    "shared memory": ("from multiprocessing import shared_memory as s; s.SharedMemory(create=True, size=9)", "Error"),
    "read a user's file": ("open('/etc/passwd').read()", "PermissionError"),
    "a wrong answer": ("assert 1 + 1 == 3", "AssertionError"),
    "no Python": ("def f(:", "SyntaxError"),
    "a report of its own": (
        "import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'{\"nonce\": \"\", \"reason\": \"\"}\\n')\n"
        "  except OSError: pass\nos._exit(0)",
        "before its end",
    ),
}  # fmt: skip


def leftovers() -> set[str]:
    return {p.name for p in Path(tempfile.gettempdir()).glob("illada_lab_sandbox_*")}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_end_in_a_recorded_failure(attack, monkeypatch):
    monkeypatch.setenv("A_SECRET", "of the parent")
    program, told = ATTACKS[attack]
    before = leftovers()
    outcome = run_program(
        program, SHORT if attack in ("endless loop", "sleep", "huge file") else Limits(seconds=20.0, memory_mib=128)
    )
    assert not outcome.has_passed and "of the parent" not in outcome.output
    assert any(part in outcome.reason for part in told.split("|")), outcome.reason
    assert "\n" not in outcome.reason and len(outcome.output) <= 65_536
    assert leftovers() <= before


def test_writing_outside_leaves_nothing(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for program in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(victim)!r}, 'a')",
        f"import os; os.unlink({str(victim)!r})",
        f"import os; os.symlink('/', 'root'); open('root' + {str(tmp_path / 'new')!r}, 'w')",
        f"import os; os.chmod({str(victim)!r}, 0); open({str(victim)!r}).read()",
    ):
        assert "PermissionError" in run_program(program, LONG).reason
    assert victim.read_text() == "untouched" and os.listdir(tmp_path) == ["victim"]


def test_honest_programs_pass_and_programs_do_not_meet():
    inside = "open('a.txt', 'w').write('x'); assert open('a.txt').read() == 'x'"
    library = "import hashlib, re, heapq, typing, math, collections, itertools, threading; assert math.isqrt(9) == 3; print('ok')"
    empty = "import os; assert os.listdir('.') == [] and dict(os.environ).keys() <= {'LC_CTYPE'}"
    thread = "import threading; t = threading.Thread(target=print, args=('t',)); t.start(); t.join()"
    outcomes = run_programs([inside, library, empty, thread, "import sys; sys.exit(0)", empty], LONG, n_workers=2)
    assert [o.status for o in outcomes] == ["passed"] * 4 + ["failed", "passed"]
    assert outcomes[1].output == "ok\n" and outcomes[1].reason == ""


def test_a_background_thread_ends_with_the_program():
    outcome = run_program("import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()", LONG)
    assert outcome.has_passed and outcome.seconds < 25


def test_what_the_kernel_does_not_give_is_said():
    assert missing_protections() == run_program("pass", LONG).missing
    assert isinstance(run_program("pass", LONG), Outcome)


def test_limits_are_checked():
    with pytest.raises(ValueError, match="memory_mib = 0"):
        Limits(memory_mib=0)


def test_other_systems_refuse(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "sparc")
    with pytest.raises(ValueError, match="cannot lock a program in on linux on sparc; Linux on x86_64 or aarch64"):
        run_program("pass")
