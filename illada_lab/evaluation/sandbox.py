"""Programs that a model wrote, run where they can do no harm: a process of their own, locked in by the kernel, for a limited time.

What holds a program in (`sandbox_child.py` sets it up before the program's first line):

| attack | what stops it |
|---|---|
| endless loop | wall-clock and CPU time limit, then the whole process group is killed |
| fork bomb, exec of binaries, killing others | a seccomp filter: one process, no exec, no signals |
| memory bomb, deep recursion | address-space and stack limit |
| huge output | stops at `max_output_bytes` |
| writing outside, reading other files | Landlock: the temporary directory and Python's own files only; each file's size is limited |
| modes, owners, times, attributes of files outside | the seccomp filter (Landlock does not look at them) |
| another process's priority, cores, scheduler; signals by way of a file's owner | the seccomp filter |
| reading the environment | it is empty, and /proc cannot be read |
| sockets | the seccomp filter; a network namespace of its own where the kernel allows |
| sys.exit | a program has passed only if it ran to its end |
| reports of its own | those of the child are its first line, written before the program runs, and a line with a secret number |

What a kernel does not give is told before programs run (`announce`) and in their results (`missing_protections`).

It keeps accidents and simple attacks from a machine that matters. A program that is out to forge its result can: it runs in the
interpreter that reports. Whoever evaluates models that may be hostile puts a virtual machine around it.
"""

import json
import os
import platform
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from illada_lab.processes import processes_here

# For the start of an interpreter on a busy machine, and how often that is tried; our choice.
START_SECONDS, N_STARTS = 60.0, 2
UNSTARTED = "unstarted"
CHILD = Path(__file__).with_name("sandbox_child.py")
WARNING = "run_code = true: programs written by the model will run on this machine, each in a sandbox"
PROMISE = "no network, no files outside of a temporary directory, limited time and memory"
REASON_LENGTH = 300  # characters; our choice: a line of a table


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use.

    Args:
        seconds: wall clock, and CPU time.
        memory_mib: address space.
        file_mib: size of each file it writes, and of all of them where the kernel gives it a file system of its own.
        max_output_bytes: of stdout and stderr together.

    Source: HumanEval allows 3 s; memory as large as its reference solutions need, several times over (our choice).
    """

    seconds: float = 3.0
    memory_mib: int = 512
    file_mib: int = 8
    max_output_bytes: int = 65_536

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} = {value}; a limit of the sandbox; above 0")


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        status: "passed", "failed", "timeout" or "output" (too much of it).
        reason: one line: the exception, the signal, the exit status; "" where it passed.
        output: what it printed, cut.
        seconds: wall clock.
        missing: protections that this kernel does not give.
    """

    status: str
    reason: str
    output: str
    seconds: float
    missing: tuple[str, ...]

    @property
    def has_passed(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "passed"


def run_program(program: str, limits: Limits | None = None) -> Outcome:
    """Run a Python program (the standard library is all it has) to its end, or until a limit or an attack ends it.

    Args:
        program: source text.
        limits: None: the usual ones.

    Returns:
        Its outcome; whatever the program does once it is locked in, nothing is raised and nothing is left behind.

    Raises:
        ValueError: a kernel that cannot lock a program in (seccomp; Linux on x86-64 or arm64), or a machine too busy to start an
            interpreter, twice: nothing is known of the program then, and it is not to count as wrong.
    """
    limits = limits or Limits()
    check_kernel()
    for _ in range(N_STARTS):
        folder = tempfile.mkdtemp(prefix="illada_lab_sandbox_")
        try:
            if (outcome := _run(program, limits, folder)) is not None:
                return outcome
        finally:
            _remove(folder)
    raise ValueError(
        f"run_code = true; an interpreter has not started within {START_SECONDS:g} s, {N_STARTS} times, so that nothing is known of its "
        "program: the machine is too busy; fewer programs at a time (n_workers), or the same later: answers of earlier batches are kept"
    )


def run_programs(programs: Iterable[str], limits: Limits | None = None, n_workers: int | None = None) -> list[Outcome]:
    """`run_program` of many, several at a time (None: `usual_workers`)."""
    with ThreadPoolExecutor(n_workers or usual_workers()) as pool:
        return list(pool.map(lambda program: run_program(program, limits), programs))


def usual_workers() -> int:
    """Programs at a time: as many as there are cores that this process may use, which the processes of a run divide."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, n_cores // processes_here())


def check_kernel() -> None:
    """Raise ValueError where programs cannot be locked in at all."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        where = f"{sys.platform} on {platform.machine()}"
        raise ValueError(
            f"run_code = true; the sandbox cannot lock a program in on {where}; Linux on x86_64 or aarch64"
        )


@lru_cache(maxsize=1)
def missing_protections() -> tuple[str, ...]:
    """Protections that this kernel does not give, found by running an empty program.

    Raises:
        ValueError: programs cannot be run here at all.
    """
    outcome = run_program("pass", Limits(seconds=20.0))
    if not outcome.has_passed:
        # Its list may be empty for no better reason than that it never came to be written.
        raise ValueError(f"run_code = true; an empty program does not run in the sandbox here: {outcome.reason}; false")
    return outcome.missing


def announce() -> None:
    """Say on stderr that programs are about to run, and which protections they run without.

    Raises:
        ValueError: programs cannot be run here at all.
    """
    missing = missing_protections()
    held = f"limited time and memory); MISSING on this kernel: {'; '.join(missing)}" if missing else f"{PROMISE})"
    print(f"{WARNING} ({held}", file=sys.stderr)


def _run(program: str, limits: Limits, folder: str) -> Outcome | None:
    """Start the child, feed it, watch it, end it; None: it has not started in time."""
    report_in, report_out = os.pipe()
    nonce = secrets.token_hex(16)
    begin = time.perf_counter()
    # -I: no user's files, no environment; -S: no site-packages.
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(CHILD), str(report_out)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={}, cwd=folder, pass_fds=(report_out,), start_new_session=True,
    )  # fmt: skip
    os.close(report_out)
    try:
        assert process.stdin is not None and process.stdout is not None
        setting = {"nonce": nonce, "program": program, "folder": folder, **asdict(limits)}
        with suppress(BrokenPipeError):  # it died at once; the report will be missing
            process.stdin.write(json.dumps(setting).encode())
            process.stdin.close()
        output, said, why = _watch(process, report_in, limits)
    finally:
        _kill(process)
        os.close(report_in)
        process.stdout.close()  # type: ignore[union-attr]
    start, end = _reports(said, nonce)
    seconds, missing = time.perf_counter() - begin, tuple(start.get("missing", ()))
    text = output.decode(errors="replace")
    if "refused" in start:
        raise ValueError(f"run_code = true; the sandbox cannot lock a program in here: {start['refused']}; false")
    if why == UNSTARTED:
        return None
    if why:
        reason = f"more than {limits.seconds:g} s" if why == "timeout" else f"more than {limits.max_output_bytes} bytes"
        return Outcome(why, reason, text, seconds, missing)
    if end.get("reason") == "" and process.returncode == 0:
        return Outcome("passed", "", text, seconds, missing)
    return Outcome("failed", _line(end.get("reason")) or _how_it_died(process.returncode), text, seconds, missing)


def _watch(process: subprocess.Popen, report_in: int, limits: Limits) -> tuple[bytes, bytes, str]:
    """Read what the process prints and reports until it ends: both, and "timeout", "output", UNSTARTED or "" for what cut it short."""
    assert process.stdout is not None
    printed = process.stdout.fileno()
    read = {printed: b"", report_in: b""}
    # The program's time begins where the child says that it is locked in, not with the start of an interpreter.
    deadline = time.perf_counter() + START_SECONDS
    is_running = False
    with selectors.DefaultSelector() as selector:
        for pipe in read:
            os.set_blocking(pipe, False)
            selector.register(pipe, selectors.EVENT_READ)
        while True:
            # Closing its pipes is no end of a process: look at it as well, and before its pipes. Afterwards, what it wrote and reported
            # between the two looks would be lost.
            has_ended = process.poll() is not None
            ready = selector.select(0.02) if selector.get_map() else time.sleep(0.005) or []
            for key, _ in ready:
                try:
                    part = os.read(key.fd, 65_536)
                except BlockingIOError:  # a program that can open /proc has emptied its own pipe
                    continue
                if not part:
                    selector.unregister(key.fd)
                read[key.fd] += part
            if not is_running and b"\n" in read[report_in]:
                is_running, deadline = True, time.perf_counter() + limits.seconds
            if len(read[printed]) > limits.max_output_bytes or len(read[report_in]) > limits.max_output_bytes:
                return read[printed][: limits.max_output_bytes], read[report_in], "output"
            if not ready and has_ended:
                return read[printed], read[report_in], ""
            if time.perf_counter() > deadline:
                return read[printed], read[report_in], "timeout" if is_running else UNSTARTED


def _kill(process: subprocess.Popen) -> None:
    """End the process and whatever shares its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _remove(folder: str) -> None:
    """Remove a directory with all that a program left in it: nested by the thousand, or closed to its own user.

    It goes down by names and up by "..", one directory open at a time, so that neither recursion nor paths nor the work of a level
    grow with the depth. What cannot be removed stays: the outcome counts.
    """
    try:
        here = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # without file rules a program can put something else in its place
        return
    with suppress(OSError):
        names, rest = [], [_empty(here)]  # how it came here; directories to go, of each level
        while names or rest[-1]:
            if rest[-1]:
                names.append(rest[-1].pop())
                os.chmod(names[-1], 0o700, dir_fd=here)
                there = os.open(names[-1], os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                rest.append(_empty(there))
            else:
                there = os.open("..", os.O_DIRECTORY, dir_fd=here)
                rest.pop()
                os.rmdir(names.pop(), dir_fd=there)
            os.close(here)
            here = there
        os.rmdir(folder)
    os.close(here)


def _empty(directory: int) -> list[str]:
    """Remove the files of an open directory; the names of the directories in it."""
    inner = []
    with os.scandir(directory) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            else:
                with suppress(OSError):
                    os.unlink(entry.name, dir_fd=directory)
    return inner


def _reports(said: bytes, nonce: str) -> tuple[dict, dict]:
    """What the child said of its start and of the program's end; all else was written by the program.

    Args:
        said: all that came through the pipe of reports, which the program can write to as well.
        nonce: what the child's last line holds.

    Returns:
        The first line, written before the program ran, and the last one with the nonce; empty where there is none.
    """
    first, *others = said.split(b"\n")
    ends = [found for line in others if nonce.encode() in line and (found := _object(line)).get("nonce") == nonce]
    return _object(first), ends[-1] if ends else {}


def _object(line: bytes) -> dict:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _line(reason: object) -> str:
    """A reason as one line that every file can hold: lone surrogates are spelt out."""
    text = reason if isinstance(reason, str) else ""
    first = (text.splitlines() or [""])[0][:REASON_LENGTH]
    return first.encode("utf-8", "backslashreplace").decode()


def _how_it_died(status: int) -> str:
    if status >= 0:
        return f"left with status {status} before its end"
    try:
        return f"ended by signal {signal.Signals(-status).name}"
    except ValueError:  # most real-time signals have no name
        return f"ended by signal {-status}"
