"""Attacks on the sandbox: each ends in a recorded failure, the next program runs, nothing is left behind."""

import ast
import errno
import json
import os
import platform
import re
import signal
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from illada_lab.commands import evaluate
from illada_lab.evaluation import sandbox
from illada_lab.evaluation.benchmarks import HumanEval, programs
from illada_lab.evaluation.sandbox import Limits, Outcome, missing_protections, run_program, run_programs
from illada_lab.samplers import VariableLength

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
    "lift the limits by an address whose lower half is null": (
        "import ctypes as c, resource as r, struct\nlibc = c.CDLL(None); libc.mmap.restype = c.c_void_p\n"
        "place = libc.mmap(c.c_void_p(2**32), c.c_size_t(4096), 3, 0x32, -1, 0); assert place == 2**32, place / 0\n"
        "c.memmove(place, struct.pack('QQ', 9, 9), 16)\nassert libc.prlimit(0, r.RLIMIT_NOFILE, c.c_void_p(place), None) == 0",
        "AssertionError"
    ),
    "shared memory": ("from multiprocessing import shared_memory as s; s.SharedMemory(create=True, size=9)", "Error"),
    "read a user's file": ("open('/etc/passwd').read()", "PermissionError"),
    "a wrong answer": ("assert 1 + 1 == 3", "AssertionError"),
    "no Python": ("def f(:", "SyntaxError"),
    "no text": ("\ud800", "UnicodeEncodeError"),
    "an exception without a name": ("raise type('\\n', (Exception,), {})", "failed"),
    "an exception that cannot be told": ("class E(Exception):\n  def __str__(self): raise self\nraise E", "before its end"),
    "a report of its own": (
        "import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'{\"nonce\": \"\", \"reason\": \"\"}\\n')\n"
        "  except OSError: pass\nos._exit(0)",
        "before its end",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """What is left behind is looked for where no other process of these tests puts its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


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


def test_programs_are_the_main_module():
    """As in plain Python: what looks there for a class or a function finds it, and nothing else."""
    programs = [
        "import pickle\nclass A: pass\nassert isinstance(pickle.loads(pickle.dumps(A())), A)",
        "from __future__ import annotations\nimport typing\nclass A:\n  x: A\nassert typing.get_type_hints(A) == {'x': A}",
        "import doctest\ndef f():\n  '''\n  >>> f()\n  1\n  '''\n  return 1\nassert doctest.testmod() == (0, 1)",
        "import __main__\na = 1\nassert vars(__main__) is globals() and not {'LIBC', 'lock_calls', 'main'} & set(dir(__main__))",
    ]
    assert [(o.status, o.reason) for o in run_programs(programs, LONG)] == [("passed", "")] * len(programs)


def test_a_background_thread_ends_with_the_program():
    outcome = run_program("import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()", LONG)
    assert outcome.has_passed and outcome.seconds < 25


def test_what_the_kernel_does_not_give_is_said():
    assert missing_protections() == run_program("pass", LONG).missing
    assert isinstance(run_program("pass", LONG), Outcome)


SEND = "import os\nfor fd in range(3, 64):\n  try: os.write(fd, {!r})\n  except OSError: pass\n"


@pytest.mark.parametrize(
    "sent",
    [
        b'{"refused":"x"}\n', b'{"missing":5}\n', b'{"missing":["no protection"]}\n', b"[" * 60_000 + b"\n", b"[5]\n", b"\xff\xfe\n",
        b"9" * 9_000 + b"\n", b'{"nonce":null,"reason":""}\n', b"\n\n", b'{"a', b'{"nonce":{"a":1},"reason":[]}\n',
    ],
)  # fmt: skip
def test_what_a_program_sends_among_the_reports_is_no_report(sent):
    honest = run_program("pass", LONG)
    for ending, reason in (
        ("", ""),
        ("raise KeyError(5)", "KeyError: 5"),
        ("os._exit(3)", "left with status 3 before its end"),
    ):
        outcome = run_program(SEND.format(sent) + ending, LONG)
        if not sent.endswith(b"\n") and "3" not in ending:
            reason = "left with status 0 before its end"  # it has spoilt the line that would have said so
        assert (outcome.reason, outcome.missing) == (reason, honest.missing)
        assert outcome.has_passed == (reason == "")


# A program that looks for the secret number finds it: it can forge its end, but not break the run.
FIND = """
import gc, os
found = {{v for d in gc.get_objects() if isinstance(d, dict) for v in d.values() if isinstance(v, str) and len(v) == 32}}
import sys
frame = sys._getframe()
while frame:
    found |= {{v for v in frame.f_locals.values() if isinstance(v, str) and len(v) == 32}}
    frame = frame.f_back
for nonce in found:
    for fd in range(3, 64):
        try: os.write(fd, ('{{"nonce":"' + nonce + '","reason":{}}}\\n').encode())
        except OSError: pass
os._exit(0)
"""


NO_END = "left with status 0 before its end"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("5", NO_END), ("null", NO_END), ("[1, 2]", NO_END), ("[" * 500 + "]" * 500, NO_END), ("[" * 3_000, NO_END), ('"a\\\\nb"', "a"),
        (f'"{"x" * 400}"', "x" * 300), ('"x", "missing": 5', "x"), ('"\\\\ud800"', r"\ud800"),
    ],
)  # fmt: skip
def test_a_forged_report_is_a_line_or_nothing(reason, told):
    outcome = run_program(FIND.format(reason), LONG)
    assert (outcome.status, outcome.reason, outcome.missing) == ("failed", told, run_program("pass", LONG).missing)


def test_signals_without_a_name_and_text_that_no_file_holds_are_recorded():
    # A timer of its own, 1 ms, that sends the real-time signal 40: struct sigevent {value, signo, notify}, struct itimerspec.
    program = """
    import ctypes, struct, time
    libc = ctypes.CDLL(None, use_errno=True)
    timer = ctypes.c_void_p()
    assert libc.timer_create(1, struct.pack("QII48x", 0, 40, 0), ctypes.byref(timer)) == 0
    assert libc.timer_settime(timer, 0, struct.pack("QQQQ", 0, 0, 0, 10**6), None) == 0
    time.sleep(20)
    """
    assert run_program(textwrap.dedent(program), LONG).reason == "ended by signal 40"
    outcome = run_program("raise Exception('\\ud800 and ä')", LONG)
    assert outcome.reason == r"Exception: \ud800 and ä"
    assert json.dumps(outcome.reason, ensure_ascii=False).encode()
    assert run_program("raise Exception('x' * 10**5)", LONG).reason == "Exception: " + "x" * 289


@pytest.fixture
def weaker(tmp_path, monkeypatch):
    """A kernel that gives less: the child with some of its functions replaced."""

    def build(*names: str) -> None:
        text = sandbox.CHILD.read_text()
        assert text.endswith("\n\nmain()\n")
        replaced = "".join(f"{name} = lambda setting: ['no {name}']\n" for name in names)
        child = tmp_path / "weaker_child.py"
        child.write_text(text.removesuffix("main()\n") + replaced + "main()\n")
        monkeypatch.setattr(sandbox, "CHILD", child)
        missing_protections.cache_clear()

    yield build
    missing_protections.cache_clear()


def test_what_is_left_in_a_shared_file_system_is_removed(weaker):
    weaker("leave_network")
    before = leftovers()
    deep = "import os\nfor _ in range(3000): os.mkdir('a'); os.chdir('a')\nopen('b', 'w')"
    closed = "import os; os.makedirs('a/b'); open('a/c', 'w'); os.symlink('/', 'a/d'); os.mkdir('a/e', 0); os.symlink('a', 'f')"
    for program in (deep, closed):
        assert run_program(program, LONG).has_passed
    assert leftovers() <= before


def test_a_folder_that_a_program_removed_or_replaced_is_left_alone(weaker, tmp_path):
    weaker("leave_network", "lock_files")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    before = leftovers()
    gone = "import os; here = os.getcwd(); os.rmdir(here)"
    for program in (gone, f"{gone}; os.symlink({str(tmp_path / 'kept')!r}, here)"):
        assert run_program(program, LONG).has_passed
    (link,) = leftovers() - before
    (Path(tempfile.gettempdir()) / link).unlink()
    assert (tmp_path / "kept" / "file").exists()


def test_a_pipe_that_a_program_has_emptied_is_read_again(monkeypatch):
    # Where a program can open /proc it wins this race now and then; here it does so every time.
    read, fails = os.read, [BlockingIOError()]

    def emptied(pipe: int, size: int) -> bytes:
        if fails and size == 65_536:
            raise fails.pop()
        return read(pipe, size)

    monkeypatch.setattr(os, "read", emptied)
    assert run_program("print('told')", LONG).output == "told\n" and not fails


def test_system_calls_have_the_numbers_of_the_kernels_headers():
    headers = {
        "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        "aarch64": Path("/usr/include/asm-generic/unistd.h"),
    }
    if not all(header.exists() for header in headers.values()):
        pytest.skip("no headers of the kernel (linux-libc-dev)")
    parts = [part for part in ast.parse(sandbox.CHILD.read_text()).body if isinstance(part, ast.Assign)]
    (table,) = (ast.literal_eval(part.value) for part in parts if ast.unparse(part.targets[0]) == "REFUSED")
    for machine, header in headers.items():
        pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
        numbers = {name: int(number) for name, number in pairs}
        # Calls younger than the headers have numbers above all of theirs.
        newest = max(numbers.values())
        assert {name: n for name, n in table[machine].items() if n <= newest or name in numbers} == {
            name: numbers[name] for name in table[machine] if name in numbers
        }


# Every way to change what a file is beside what it holds; each prints its name if the kernel said yes.
CHANGES = """
import ctypes, os, struct
libc, path, at = ctypes.CDLL(None, use_errno=True), {path!r}.encode(), -100
def attempt(name, call):
    try: done = call() == 0
    except Exception: done = False
    if done: print(name)
def named(name, *rest): attempt(name, lambda: getattr(libc, name)(*rest))
def numbered(name, number, *rest): attempt(name, lambda: libc.syscall(number, *rest))
times, value = struct.pack("qqqq", 9, 9, 9, 9), ctypes.create_string_buffer(b"x")
attributes = struct.pack("QII", ctypes.addressof(value), 1, 0)
named("chmod", path, 0)
named("fchmodat", at, path, 0, 0)
numbered("fchmodat2", 452, at, path, 0, 0)
named("chown", path, {uid}, {gid})
named("lchown", path, {uid}, {gid})
named("fchownat", at, path, {uid}, {gid}, 0)
for number in {old_times}: numbered(number, number, path, times)
numbered("futimesat", {futimesat}, at, path, times)
named("utimensat", at, path, times, 0)
numbered("file_setattr", 469, at, path, struct.pack("QIIII", 0x80, 0, 0, 0, 0), ctypes.c_size_t(24), 0)
if {has_attributes}:
    named("setxattr", path, b"user.a", b"x", 1, 0)
    named("lsetxattr", path, b"user.b", b"x", 1, 0)
    numbered("setxattrat", 463, at, path, 0, b"user.c", attributes, ctypes.c_size_t(16))
    named("removexattr", path, b"user.kept1")
    named("lremovexattr", path, b"user.kept2")
    numbered("removexattrat", 466, at, path, 0, b"user.kept3")
try: fd = os.open(path, os.O_RDONLY)
except OSError: fd = None
if fd is not None:
    print("opened")
    named("fchmod", fd, 0)
    named("fchown", fd, {uid}, {gid})
    named("futimens", fd, times)
    named("ioctl", fd, ctypes.c_ulong(0x40086602), struct.pack("L", 0x40))
    if {has_attributes}:
        named("fsetxattr", fd, b"user.d", b"x", 1, 0)
        named("fremovexattr", fd, b"user.kept4")
"""


@pytest.mark.parametrize("rules", ["with file rules", "without"])
def test_files_outside_keep_mode_owner_times_and_attributes(rules, weaker, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    victim.chmod(0o640)
    os.utime(victim, (10**9, 10**9))
    try:
        for number in range(1, 5):
            os.setxattr(victim, f"user.kept{number}", b"x")
        has_attributes = True
    except OSError:
        has_attributes = False

    def state():
        found = victim.stat()
        attributes = sorted(os.listxattr(victim)) if has_attributes else []
        return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_ctime_ns, attributes

    if rules == "without":
        weaker("lock_files")
    before = state()
    # utime, utimes and futimesat: arm64 has none, and the C library none that calls them.
    old_times, futimesat = {"x86_64": ((132, 235), 261), "aarch64": ((), -1)}[platform.machine()]
    program = CHANGES.format(
        path=str(victim), uid=os.getuid(), gid=os.getgid(), has_attributes=has_attributes,
        old_times=old_times, futimesat=futimesat,
    )  # fmt: skip
    outcome = run_program(program, LONG)
    # Where files can be opened, the calls on open ones have been tried as well.
    assert outcome.has_passed and outcome.output == ("opened\n" if rules == "without" else "")
    assert state() == before and victim.read_text() == "untouched"


def test_the_parent_keeps_its_priority_its_cores_and_its_scheduler():
    import ctypes

    syscall = ctypes.CDLL(None).syscall
    set_io, get_io, set_attributes = {"x86_64": (251, 252, 314), "aarch64": (30, 31, 274)}[platform.machine()]

    def state():
        return (
            os.getpriority(os.PRIO_PROCESS, 0),
            os.sched_getaffinity(0),
            os.sched_getscheduler(0),
            syscall(get_io, 1, 0),
        )

    nice, cores, scheduler, io = before = state()
    attributes = "struct.pack('IIQiIQQQ', 48, 3, 0, 7, 0, 0, 0, 0)"  # SCHED_BATCH, nice 7
    try:
        for call in (
            f"os.setpriority(os.PRIO_PROCESS, parent, {nice + 5})",
            f"os.sched_setaffinity(parent, {{{min(cores)}}})",
            "os.sched_setscheduler(parent, os.SCHED_BATCH, os.sched_param(0))",
            f"libc.syscall({set_attributes}, parent, {attributes}, 0)",
            f"libc.syscall({set_io}, 1, parent, 3 << 13)",
        ):
            run_program(f"import ctypes, os, struct; libc, parent = ctypes.CDLL(None), os.getppid(); {call}", LONG)
            assert state() == before, call
        # With the values of before (a machine may have one core) there is nothing to be seen on the parent.
        for call in ("os.sched_setparam(parent, os.sched_param(0))", f"os.sched_setaffinity(parent, {cores})"):
            outcome = run_program(f"import os; parent = os.getppid(); {call}", LONG)
            assert outcome.reason.startswith("PermissionError")
    finally:
        os.sched_setscheduler(0, scheduler, os.sched_param(0))
        os.sched_setaffinity(0, cores)
        syscall(set_io, 1, 0, io)
        if os.getpriority(os.PRIO_PROCESS, 0) != nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)


def test_calls_without_an_effect_to_be_seen_here_are_refused_by_the_filter():
    # Pages of other processes; a file's flags, generation, project and seal. Without the filter these end in another error, or in none.
    pages = {"x86_64": (256, 279), "aarch64": (238, 239)}[platform.machine()]
    program = f"""
    import ctypes
    libc, zero = ctypes.CDLL(None, use_errno=True), ctypes.c_size_t(0)
    for number in {pages}:
        print(libc.syscall(number, 0, zero, zero, zero, zero, 0), ctypes.get_errno())
    for command in (0x40086602, 0x40087602, 0x401C5820, 0x40806685):
        print(libc.ioctl(0, ctypes.c_ulong(command), zero), ctypes.get_errno())
    """
    assert run_program(textwrap.dedent(program), LONG).output.splitlines() == [f"-1 {errno.EPERM}"] * 6


SIGNALS = """
import fcntl, os, struct
a, b = os.pipe()
for command, value in (({signal}, 12), (8, os.getppid()), (15, struct.pack("ii", 1, os.getppid()))):
    try: fcntl.fcntl(a, command, value)
    except OSError: pass
fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)
os.write(b, b"x")
assert fcntl.fcntl(a, 9) == 0 and fcntl.fcntl(a, 11) == 0, "F_GETOWN, F_GETSIG"
"""


@pytest.mark.parametrize("rules", ["with file rules", "without"])
def test_no_signal_reaches_the_parent_through_a_file_that_it_is_made_to_own(rules, weaker):
    # Without Landlock's own rule for signals, as on kernels before 6.12.
    if rules == "without":
        weaker("lock_files")
    received = []
    usual = {
        number: signal.signal(number, lambda n, _: received.append(n)) for number in (signal.SIGUSR2, signal.SIGIO)
    }
    try:
        outcomes = [run_program(SIGNALS.format(signal=command), LONG) for command in (10, 9)]
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    assert received == [] and [outcome.reason for outcome in outcomes] == ["", ""]


def test_honest_programs_keep_the_library_that_asks_for_modes_and_times():
    program = """
    import fcntl, os, shutil, tempfile
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile("w") as file:
        file.write("x")
        file.flush()
        shutil.copyfile(file.name, os.path.join(folder, "copy"))
        assert open(os.path.join(folder, "copy")).read() == "x"
        fcntl.fcntl(file, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        try: shutil.copy(file.name, folder)
        except PermissionError: pass
    """
    assert run_program(textwrap.dedent(program), LONG).reason == ""


@pytest.mark.parametrize("names", [(), ("leave_network",), ("leave_network", "lock_files")])
def test_what_the_kernel_does_not_give_is_told_and_recorded(names, weaker, tmp_path, capsys):
    ours = missing_protections()
    if names:
        weaker(*names)
    wanted = [f"no {name}" for name in names] if names else list(ours)
    line = {"task_id": "t/1", "prompt": "def f():\n", "entry_point": "f", "test": "def check(c): pass"}
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(line) + "\n")
    sampler = VariableLength(max_length=16, block_length=8)
    benchmark = HumanEval(path=str(path), run_code=True, sampler=sampler)
    benchmark.items()
    told = capsys.readouterr().err
    assert told.startswith("run_code = true") and told.count("\n") == 1
    if wanted:
        assert f"MISSING on this kernel: {'; '.join(wanted)}\n" in told and "no network," not in told
    else:
        assert "no network, no files outside of a temporary directory" in told and "MISSING" not in told
    assert benchmark.settings()["missing_protections"] == wanted
    assert HumanEval(path=str(path), sampler=sampler).settings()["missing_protections"] is None
    # The world's questions: settings of the folder and of the manifest.
    for run_code, recorded in ((True, {"missing_protections": wanted}), (False, {})):
        config = OmegaConf.create({"evaluation": {"run_code": run_code}})
        assert evaluate._asked(config) == {"evaluation": {"run_code": run_code}, **recorded}


def test_an_empty_list_is_no_promise_where_nothing_runs(weaker, monkeypatch):
    weaker()
    monkeypatch.setattr(sandbox, "CHILD", Path(sandbox.CHILD).with_name("nowhere.py"))
    with pytest.raises(ValueError, match="an empty program does not run in the sandbox here: left with status 2"):
        missing_protections()


@pytest.mark.parametrize("n_late", [1, 2])
def test_an_interpreter_that_does_not_start_says_nothing_of_its_program(monkeypatch, tmp_path, n_late):
    """The first ones sleep, as on a machine that is busy, before they read their program."""
    late = tmp_path / "late.py"
    late.write_text("import time; time.sleep(60)")
    children = [late] * n_late + [sandbox.CHILD] * (2 - n_late)
    seconds = [0.2] * n_late + [60.0] * (2 - n_late)
    run, before = sandbox._run, leftovers()

    def busy(*arguments):
        monkeypatch.setattr(sandbox, "CHILD", children.pop(0))
        monkeypatch.setattr(sandbox, "START_SECONDS", seconds.pop(0))
        return run(*arguments)

    monkeypatch.setattr(sandbox, "_run", busy)
    if n_late == 1:
        assert run_program("print('so')", LONG).output == "so\n"
    else:
        with pytest.raises(ValueError, match="run_code = true; an interpreter has not started within 0.2 s, 2 times"):
            run_program("pass", SHORT)
    assert not children and leftovers() == before


@pytest.mark.parametrize(("cores", "n"), [({0}, 1), ({0, 2, 5}, 3), (None, 7)])
def test_programs_at_a_time_are_the_cores_that_may_be_used(monkeypatch, tmp_path, cores, n):
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.delattr(os, "sched_getaffinity")
    if cores is not None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores, raising=False)
    monkeypatch.setattr(programs, "missing_protections", lambda: ())
    path, sampler = tmp_path / "problems.jsonl", VariableLength(max_length=8, block_length=8)
    path.write_text("")
    told = [
        HumanEval(path=str(path), sampler=sampler, **settings).settings()["n_workers"]
        for settings in ({"run_code": True}, {"run_code": True, "n_workers": 5}, {})
    ]
    assert told == [n, 5, None]


def test_limits_are_checked():
    with pytest.raises(ValueError, match="memory_mib = 0"):
        Limits(memory_mib=0)


def test_other_systems_refuse(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "sparc")
    with pytest.raises(ValueError, match="cannot lock a program in on linux on sparc; Linux on x86_64 or aarch64"):
        run_program("pass")
