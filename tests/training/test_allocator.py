"""Freed memory stays with the process; tried in another process, because it cannot be undone."""

import subprocess
import sys

import pytest

# Pages that the process has to ask for, over 20 allocations of 64 MiB, after 20 in which it has found room.
PROGRAM = """
import resource, sys
import torch
from illada_lab.training.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
for i in range(40):
    if i == 20:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_used_again():
    assert page_faults("kept") < page_faults("given back") / 10
