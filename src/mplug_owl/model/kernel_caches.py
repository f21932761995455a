"""Memory stays flat on a CPU: kernels made for one shape of batch are let go of when other shapes came after it."""

import os

# oneDNN's own cache of kernels, and the one that PyTorch keeps in front of it, one a thread. Each holds 1,024 as it comes.
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
# A forward and backward pass of owl-tiny needs about 60, of LLaMA's layers fewer: layers are alike, passes are not. Rows are
# padded to a few lengths (`data.loader.MULTIPLE`), so that what is kept comes again.
TRAINING = 256
# A forward pass alone needs half as many, and a request's length seldom comes again. 64 would cost a server a twelfth of its
# time (docs/measurements.md).
ANSWERING = 128


def bound_kernel_caches(kernels: int) -> None:
    """Have oneDNN and PyTorch keep so many kernels each, those of the last few passes, and not the last 1,024.

    On a CPU every product of a new shape has a kernel made for it, half a MB with what belongs to it. Batches differ in
    length and in pictures, so many shapes do not come again, and what is kept for them only grows and leaves tensors
    scattered between. What is computed is the same. Both caches read their size once, at the process's first product: a
    process that has computed before keeps what it had, and so does a user who has set these variables.
    """
    for name in CACHES:
        os.environ.setdefault(name, str(kernels))
