"""What one answer's numbers needed stays with the process for the next one's."""

import torch

# glibc goes no further than 32 MB.
LARGEST_BYTES = 31 * 2**20


def keep_freed_memory() -> None:
    """Have malloc keep up to 62 MB of what is freed, where it gave much of it back to the system each time.

    glibc learns from the largest block that is freed: smaller ones are then taken from what it holds, and it holds twice as
    much. One block that nobody writes to costs nothing and teaches it. Otherwise a small model's numbers come from fresh
    pages, which the system fills with zeros, one fault each (benchmarks/exam.py). Where malloc is another, nothing happens.
    """
    torch.empty(LARGEST_BYTES, dtype=torch.uint8)
