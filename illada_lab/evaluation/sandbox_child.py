"""Inside of the sandbox: locks itself in, then runs the program. Started by `sandbox.py` as a script; imports nothing of the package.

The kernel is asked through ctypes: Landlock (who may touch which files), a seccomp filter (which system calls are answered),
namespaces (where they are allowed). Numbers are those of the kernel's headers.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

EPERM, ENOSYS = 1, 38
# System calls that are refused, by machine. clone is a case of its own: threads are allowed, processes are not. Modes, owners, times
# and attributes of files are refused altogether: Landlock does not look at them, and a filter cannot tell whose file it is.
REFUSED = {
    "x86_64": {
        "socket": 41, "socketpair": 53, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "shmget": 29, "semget": 64,
        "msgget": 68, "ptrace": 101, "setpgid": 109, "setsid": 112, "rt_sigqueueinfo": 129, "setrlimit": 160, "mount": 165,
        "tkill": 200, "tgkill": 234, "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
        "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
        "memfd_create": 319, "bpf": 321, "execveat": 322, "userfaultfd": 323, "pidfd_send_signal": 424, "io_uring_setup": 425,
        "pidfd_open": 434, "pidfd_getfd": 438, "memfd_secret": 447,
        "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "utime": 132, "setpriority": 141,
        "sched_setparam": 142, "sched_setscheduler": 144, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
        "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "sched_setaffinity": 203, "utimes": 235,
        "ioprio_set": 251, "migrate_pages": 256, "fchownat": 260, "futimesat": 261, "fchmodat": 268, "move_pages": 279,
        "utimensat": 280, "sched_setattr": 314, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466,
        "file_setattr": 469,
    },
    "aarch64": {
        "mount": 40, "unshare": 97, "ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
        "setpgid": 154, "setsid": 157, "setrlimit": 164, "mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194,
        "socket": 198, "socketpair": 199, "add_key": 217, "request_key": 218, "keyctl": 219, "execve": 221,
        "rt_tgsigqueueinfo": 240, "perf_event_open": 241, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
        "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282, "pidfd_send_signal": 424, "io_uring_setup": 425,
        "pidfd_open": 434, "pidfd_getfd": 438, "memfd_secret": 447,
        "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
        "ioprio_set": 30, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88,
        "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122, "setpriority": 140,
        "migrate_pages": 238, "move_pages": 239, "sched_setattr": 274, "fchmodat2": 452, "setxattrat": 463,
        "removexattrat": 466, "file_setattr": 469,
    },
}  # fmt: skip
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
PRLIMIT = {"x86_64": 302, "aarch64": 261}
# Calls of which some commands (their second argument) are refused. A file's owner is who gets its signals: it could be another process.
FCNTL, IOCTL = {"x86_64": 72, "aarch64": 25}, {"x86_64": 16, "aarch64": 29}
FCNTL_REFUSED = {"F_SETOWN": 8, "F_SETSIG": 10, "F_SETOWN_EX": 15}
IOCTL_REFUSED = {
    "FS_IOC_SETFLAGS": 0x40086602, "FS_IOC_SETVERSION": 0x40087602, "FS_IOC_FSSETXATTR": 0x401C5820,
    "FS_IOC_ENABLE_VERITY": 0x40806685,
}  # fmt: skip
CLONE3 = 435
CLONE_THREAD, CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = (
    0x10000, 0x20000, 0x8000000, 0x10000000, 0x40000000,
)  # fmt: skip
LIBC = ctypes.CDLL(None, use_errno=True)
# Protections that a kernel may lack, as they are told.
OWN_FILES = "file system of its own (each file's size is limited, their number is not)"
FILE_RULES = "file rules (Landlock: programs can read and write where this user can)"
TRUNCATION = "file rules for truncation (Landlock 3: programs can cut files where this user can write)"


def limit_resources(limits: dict[str, Any]) -> None:
    """CPU time, address space, size of a file, open files; no core dumps."""
    cpu = int(limits["seconds"]) + 1
    for name, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, limits["memory_mib"] * 2**20),
        (resource.RLIMIT_FSIZE, limits["file_mib"] * 2**20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def leave_network(limits: dict[str, Any]) -> list[str]:
    """Namespaces of its own: no network but an unconnected one, a small file system in memory for the temporary directory.

    Returns:
        What the kernel did not allow.
    """
    uid, gid = os.getuid(), os.getgid()
    if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWNS):
        return ["network namespace (sockets are refused all the same)", OWN_FILES]
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    ms_private = 0x40000 | 0x4000  # with everything below
    flags = 0x2 | 0x4 | 0x8  # no set-uid files, no devices, no programs
    size = f"size={4 * limits['file_mib']}m,nr_inodes=4096,mode=700".encode()
    folder = limits["folder"].encode()
    if LIBC.mount(None, b"/", None, ms_private, None) or LIBC.mount(b"none", folder, b"tmpfs", flags, size):
        return [OWN_FILES]
    os.chdir(limits["folder"])
    return []


def lock_files(folder: str) -> list[str]:
    """Landlock: everything in `folder`, reading of Python's own files, nothing else.

    Returns:
        What the kernel did not allow.
    """
    abi = LIBC.syscall(444, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return [FILE_RULES]
    execute, write, read_file, read_dir = 1, 2, 4, 8
    everything = (1 << 13) - 1
    everything |= (abi >= 2) << 13 | (abi >= 3) << 14 | (abi >= 5) << 15
    ruleset = struct.pack("QQQ", everything, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    fd = LIBC.syscall(444, ruleset, ctypes.c_size_t(size), 0)
    if fd < 0:
        return [FILE_RULES]
    python = {
        sys.prefix,
        sys.base_prefix,
        sys.base_exec_prefix,
        *sys.path,
        "/usr/lib",
        "/lib",
        "/lib64",
        "/usr/share/zoneinfo",
    }
    for path in sorted(python):
        if path and os.path.isdir(path) and os.path.realpath(path) not in ("/", folder):
            _allow(fd, path, read_file | read_dir)
    for path in ("/dev/null", "/dev/urandom", "/dev/zero"):
        _allow(fd, path, read_file | write)
    _allow(fd, folder, everything & ~execute)
    if LIBC.syscall(446, fd, 0):
        return [FILE_RULES]
    os.close(fd)
    return [] if abi >= 3 else [TRUNCATION]


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rule = struct.pack("=Qi", access, fd)
    LIBC.syscall(445, ruleset, 1, rule, 0)
    os.close(fd)


def lock_calls(machine: str) -> None:
    """The seccomp filter.

    Raises:
        OSError: the kernel takes none.
    """
    allow, refuse, absent = 0x7FFF0000, 0x00050000 | EPERM, 0x00050000 | ENOSYS
    load, equal, at_least, any_bit, leave = 0x20, 0x15, 0x35, 0x45, 0x06
    number, arch, first, second, third = 0, 4, 16, 24, 32  # offsets of what a call is; its arguments have 8 bytes each
    lines: list[tuple[int, int, int, int]] = [
        (load, 0, 0, arch), (equal, 1, 0, AUDIT_ARCH[machine]), (leave, 0, 0, refuse),
        (load, 0, 0, number), (at_least, 0, 1, 0x40000000), (leave, 0, 0, refuse),
        # The C library falls back to clone, whose flags can be seen.
        (equal, 0, 1, CLONE3), (leave, 0, 0, absent),
        (equal, 0, 4, CLONE[machine]), (load, 0, 0, first), (any_bit, 0, 1, CLONE_THREAD), (leave, 0, 0, allow), (leave, 0, 0, refuse),
        # Limits may be read, its own, and not set.
        (equal, 0, 8, PRLIMIT[machine]), (load, 0, 0, first), (equal, 0, 5, 0),
        # An address is null if both of its halves are.
        (load, 0, 0, third), (equal, 0, 3, 0), (load, 0, 0, third + 4), (equal, 0, 1, 0), (leave, 0, 0, allow), (leave, 0, 0, refuse),
    ]  # fmt: skip
    for call, commands in ((FCNTL[machine], FCNTL_REFUSED), (IOCTL[machine], IOCTL_REFUSED)):
        # The kernel takes a command as 32 bits, which is what is loaded here.
        lines += [(equal, 0, 2 * len(commands) + 2, call), (load, 0, 0, second)]
        for command in commands.values():
            lines += [(equal, 0, 1, command), (leave, 0, 0, refuse)]
        lines.append((leave, 0, 0, allow))
    for call in REFUSED[machine].values():
        lines += [(equal, 0, 1, call), (leave, 0, 0, refuse)]
    lines.append((leave, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    no_new_privileges, set_seccomp, filter_mode, set_dumpable = 38, 22, 2, 4
    LIBC.prctl(set_dumpable, 0, 0, 0, 0)
    if LIBC.prctl(no_new_privileges, 1, 0, 0, 0) or LIBC.prctl(set_seccomp, filter_mode, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


def main() -> None:
    """Read the setting, lock up, run, report."""
    report = int(sys.argv[1])
    setting = json.loads(sys.stdin.buffer.read())
    nonce, program = setting.pop("nonce"), setting.pop("program")

    def say(**values: Any) -> None:
        os.write(report, json.dumps(values).encode() + b"\n")

    try:
        missing = leave_network(setting)
        limit_resources(setting)
        LIBC.prctl(38, 1, 0, 0, 0)  # no new privileges: Landlock asks for it too
        missing += lock_files(setting["folder"])
        lock_calls(platform.machine())
    except (OSError, ValueError, KeyError) as error:
        say(refused=str(error))
        os._exit(1)
    say(missing=missing)
    # A module of its own, in the place where pickle, typing and doctest look for the program's classes and functions. Nothing of this file
    # is in reach by a name then; frames lead to it, as everywhere, but what is locked stays so.
    scope = sys.modules["__main__"] = ModuleType("__main__")
    reason = ""
    try:
        exec(compile(program, "<program>", "exec"), scope.__dict__)
    except BaseException as error:
        # A class may have a name that begins with a line's end.
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300] or "failed"
    with suppress(OSError, ValueError, AttributeError):  # it may have closed it
        sys.stdout.flush()
    say(nonce=nonce, reason=reason)
    os._exit(0)  # no exit handlers, no waiting for threads


main()
