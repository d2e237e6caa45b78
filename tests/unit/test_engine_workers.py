"""Workers that share out chunks: each task once, errors to the caller, no other threads awake."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from nerfcore.field.workers import for_each, worker_count


def test_every_task_is_done_once_and_a_worker_does_one_at_a_time() -> None:
    done, busy = np.zeros(200, int), np.zeros(worker_count(), int)
    lock = threading.Lock()

    def work(worker: int, task: int) -> None:
        with lock:
            busy[worker] += 1
            assert busy[worker] == 1
        done[task] += 1
        with lock:
            busy[worker] -= 1

    for_each(len(done), work)
    assert (done == 1).all()


def test_an_error_reaches_the_caller() -> None:
    def work(_: int, task: int) -> None:
        if task == 3:
            raise ArithmeticError("task 3")

    with pytest.raises(ArithmeticError, match="task 3"):
        for_each(8, work)


def test_matrix_products_wake_no_other_threads() -> None:
    for_each(2, lambda *_: None)
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    assert blas
    assert {library["num_threads"] for library in blas} == {1}
