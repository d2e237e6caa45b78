"""Owns the threads that work on chunks of samples, and the process's settings that make it fast.

Matrix products on chunks that fit in cache run fastest on one thread each: a product spread over
the cores reaches a third of that and stalls when the machine is shared. So PyTorch's own threading
is off and chunks are dealt to one Python thread a core; PyTorch and the compiled kernels release
the interpreter's lock inside their operations. NumPy's BLAS has one thread too: its others would
spin for tens of milliseconds after every product, on cores that the compiled kernels use.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from threadpoolctl import threadpool_limits

from nerfcore.allocator import keep_freed_memory
from nerfcore.machine import usable_cores


@cache
def worker_count() -> int:
    """Threads that work on chunks: the cores this process may use when it first asks."""
    return usable_cores()


@cache
def _pool() -> ThreadPoolExecutor:
    torch.set_num_threads(1)
    threadpool_limits(1, "blas")
    keep_freed_memory()
    return ThreadPoolExecutor(worker_count(), thread_name_prefix="chunks")


def for_each(count: int, work: Callable[[int, int], None]) -> None:
    """Call `work(worker, task)` for tasks 0 .. count, each worker taking the next one left.

    A worker's calls never overlap, so `worker` may index private buffers. An exception in any call
    is raised here once all workers have ended.
    """
    tasks = itertools.count()

    def run(worker: int) -> None:
        with torch.inference_mode():
            while (task := next(tasks)) < count:
                work(worker, task)

    pool = _pool()
    if count == 1:
        run(0)
        return
    for future in [pool.submit(run, worker) for worker in range(worker_count())]:
        future.result()
