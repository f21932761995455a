"""Memory that is freed is used again, and does not come from the system anew."""

import platform
import subprocess
import sys

import pytest

# Three blocks at a time are more than malloc holds after freeing one such block, and less than it holds once it was taught.
ROUNDS = """
import resource, torch
from mplug_owl.chat.memory import keep_freed_memory

torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.ones(8 * 2**20, dtype=torch.uint8) for _ in range(3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

untaught = faults()
keep_freed_memory()
faults()
print(untaught, faults())
"""


@pytest.mark.slow  # two processes that import torch
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc has other rules")
def test_pages_are_fetched_once() -> None:
    untaught, taught = map(int, subprocess.check_output([sys.executable, "-c", ROUNDS], text=True).split())
    assert untaught > 20 * taught
    assert taught < 1000
