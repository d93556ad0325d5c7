"""How the C library gets memory: a step allocates and frees the same large tensors over and over."""

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# The largest threshold it takes.
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for its next allocations.

    glibc gives large blocks back to the system at once, and the system clears every page anew when they are asked for again: on a virtual
    machine that took up to three quarters of the time of a softmax over 50 MB. The price: the process stays as large as it once was.

    Returns:
        Whether it could be done: on Linux with glibc.

    Source: our measurement (benchmarks/README.md); mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
