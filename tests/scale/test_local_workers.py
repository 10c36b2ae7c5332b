"""Results come in the order of the tasks, whatever ran them; a worker that dies is one clear error."""

import functools
import operator
import os

import pytest

from reactvl.manifest import ReactvlError
from reactvl.scale import run


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_order(workers):
    power = functools.partial(pow, 3)
    assert list(run(range(20), power, workers)) == [3**number for number in range(20)]
    assert list(run([], power, workers)) == []


def test_work_runs_in_new_processes_or_here():
    # os.readlink is importable in a worker, and tells which process asks
    here = str(os.getpid())
    assert here not in set(run(["/proc/self"] * 6, os.readlink, 2))
    assert set(run(["/proc/self"] * 6, os.readlink, 1)) == {here}


def test_the_first_fault_of_a_task_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(run([1, 2, 0, 3], functools.partial(operator.truediv, 1), 2))


def test_one_worker_is_lazy():
    seen = []
    results = run(range(5), lambda task: seen.append(task), 1)
    next(results)
    assert seen == [0]


def test_a_worker_that_dies_is_a_clear_error():
    with pytest.raises(ReactvlError, match="fewer workers"):
        list(run([1, 2, 3], os._exit, 2))


def test_no_workers_are_refused():
    with pytest.raises(ReactvlError, match="at least 1"):
        run([], abs, 0)
