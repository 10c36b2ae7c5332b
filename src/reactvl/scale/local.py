"""Per-shard work in this process or in local worker processes, results in the order of the tasks."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from reactvl.manifest import ReactvlError

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2  # tasks a worker has waiting, so that it is never idle and an early error stops soon


def run(tasks: Iterable[Task], fn: Callable[[Task], Result], workers: int = 1) -> Iterator[Result]:
    """Yield `fn(task)` for every task, in the order of the tasks.

    With one worker it runs here. With more it runs in that many new processes, started by spawn: `fn`, tasks and
    results are pickled, `fn` is a module's function or a `functools.partial` of one. Results come as soon as all
    before them have; the first exception of a task is raised here and the tasks that have not begun are dropped.
    Raises ReactvlError for a worker count below 1 and for a worker that dies.
    """
    if workers < 1:
        raise ReactvlError(f"{workers} workers: at least 1 is needed")
    return (fn(task) for task in tasks) if workers == 1 else in_processes(tasks, fn, workers)


def in_processes(tasks: Iterable[Task], fn: Callable[[Task], Result], workers: int) -> Iterator[Result]:
    waiting: deque = deque()
    # spawn: a forked child would inherit torch's thread pools and locks in whatever state they were
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for task in tasks:
            waiting.append(executor.submit(fn, task))
            if len(waiting) >= workers * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise ReactvlError(
            "a worker process died, most likely for lack of memory; run again with fewer workers"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
