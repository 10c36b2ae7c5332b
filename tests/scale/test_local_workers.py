"""Every task goes to one worker, whatever runs it; a worker that dies is one clear error."""

import functools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactvl.manifest import ReactvlError
from reactvl.scale import places, run, stream


def powers(base, number, tasks):
    for task in tasks:
        yield number, task, base**task


def inverse(number, tasks):
    for task in tasks:
        yield 1 / task


def here(number, tasks):
    for _ in tasks:
        yield os.getpid()


def dying(number, tasks):
    for task in tasks:
        os.kill(os.getpid(), task)
        yield task


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one + two)


def odd(number, tasks):
    yield next(tasks)
    raise Odd("a", "b")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_worked_off_once_and_a_workers_own_in_order(workers):
    events = list(stream(range(20), functools.partial(powers, 3), workers))
    assert sorted((task, power) for _, task, power in events) == [(task, 3**task) for task in range(20)]
    for worker in range(workers):
        own = [task for number, task, _ in events if number == worker]
        assert own == sorted(own)
    assert list(stream([], functools.partial(powers, 3), workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_results_of_a_function_come_in_the_order_of_the_tasks(workers):
    power = functools.partial(pow, 3)
    assert list(run(range(20), power, workers)) == [3**number for number in range(20)]
    assert list(run([], power, workers)) == []


def test_work_runs_in_new_processes_or_here():
    assert os.getpid() not in set(stream(range(6), here, 2))
    assert set(stream(range(6), here, 1)) == {os.getpid()}


def test_the_first_fault_of_a_worker_is_raised():
    with pytest.raises(ZeroDivisionError) as caught:
        list(stream([1, 2, 0, 3], inverse, 2))
    assert "in a worker process" in caught.value.__notes__[0]


def test_a_fault_that_cannot_be_pickled_is_told_in_words():
    with pytest.raises(ReactvlError, match="Odd: ab"):
        list(stream([1, 2], odd, 2))


def test_one_worker_is_lazy():
    seen = []
    events = stream(range(5), lambda number, tasks: (seen.append(task) for task in tasks), 1)
    next(events)
    assert seen == [0]


def test_a_worker_that_dies_is_a_clear_error():
    with pytest.raises(ReactvlError, match="fewer processes"):
        list(stream([9, 9, 9], dying, 2))


def test_no_workers_are_refused():
    with pytest.raises(ReactvlError, match="at least 1"):
        stream([], here, 0)


@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 64))
def test_every_device_has_a_worker(devices, processes, cores):
    names = [f"cuda:{number}" for number in range(devices)]
    assert places("local", names, cores) == names
    assert places("processes", names, cores) == names
    if processes < devices:
        with pytest.raises(ReactvlError, match="as many processes"):
            places(f"processes:{processes}", names, cores)
    else:
        placed = places(f"processes:{processes}", names, cores)
        assert len(placed) == processes and set(placed) == set(names)
        counts = [placed.count(name) for name in names]
        assert max(counts) - min(counts) <= 1


def test_processes_on_a_cpu_are_one_a_core():
    assert places("processes", ["cpu"], 6) == ["cpu"] * 6
    assert places("local", ["cpu"], 6) == ["cpu"]


@pytest.mark.parametrize("executor", ["", "Local", "processes:", "processes:0", "processes:-1", "processes:x", "ray"])
def test_another_spelling_is_refused(executor):
    with pytest.raises(ReactvlError, match="use local, processes or processes:N"):
        places(executor, ["cpu"], 2)
