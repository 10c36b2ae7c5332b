"""Tasks through this process, or through worker processes that each take the next task when they want it."""

import contextlib
import ctypes
import functools
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from reactvl.manifest import ReactvlError

Task = TypeVar("Task")
Result = TypeVar("Result")

GRACE = 10  # seconds that a worker has to end


def run(tasks: Iterable[Task], fn: Callable[[Task], Result], workers: int = 1) -> Iterator[Result]:
    """Yield `fn(task)` for every task, in the order of the tasks, by `stream`."""
    waiting: dict[int, Result] = {}
    turn = 0
    for number, result in stream(enumerate(tasks), functools.partial(one_by_one, fn), workers):
        waiting[number] = result
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1


def one_by_one(
    fn: Callable[[Task], Result], worker: int, tasks: Iterator[tuple[int, Task]]
) -> Iterator[tuple[int, Result]]:
    for number, task in tasks:
        yield number, fn(task)


def stream(
    tasks: Iterable[Task], work: Callable[[int, Iterator[Task]], Iterator[Result]], workers: int = 1
) -> Iterator[Result]:
    """Yield what `work(number of the worker, tasks)` yields, as it comes; each task goes to one worker.

    A worker asks for a task when its `work` takes one, so that it can look ahead. One worker is this process, and
    lazy. More are new processes, started by spawn: `work`, tasks and results are pickled, `work` is a module's function
    or a `functools.partial` of one. The first exception of a worker is raised here and ends the others. Raises
    ReactvlError for a worker count below 1 and for a worker that dies.
    """
    if workers < 1:
        raise ReactvlError(f"{workers} workers: at least 1 is needed")
    return work(0, iter(tasks)) if workers == 1 else in_processes(iter(tasks), work, workers)


def in_processes(tasks: Iterator[Task], work: Callable, workers: int) -> Iterator[Any]:
    # spawn: a forked child would inherit torch's thread pools and locks in whatever state they were
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, BaseProcess] = {}
    ended: list[BaseProcess] = []
    try:
        for number in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(work, number, theirs), daemon=True)
            process.start()
            theirs.close()
            running[ours] = process
        while running:
            for pipe in wait(list(running)):
                word, value = heard(pipe, running[pipe])
                if word == "next":
                    answer(pipe, list(islice(tasks, 1)))
                elif word == "result":
                    yield value
                elif word == "fault":
                    raise value
                else:
                    ended.append(running.pop(pipe))
    finally:
        for process in running.values():
            process.terminate()  # what it has half written has a temporary name
        for process in (*running.values(), *ended):
            process.join(GRACE)
            if process.is_alive():
                process.kill()


def heard(pipe: Connection, process: BaseProcess) -> tuple[str, Any]:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        process.join(GRACE)
        killed = process.exitcode is not None and process.exitcode < 0
        why = (
            "most likely for lack of memory; run again with fewer processes"
            if killed
            else "its own message stands above; a script that starts processes needs `if __name__ == '__main__':`"
        )
        raise ReactvlError(f"a worker process died ({process.exitcode}), {why}") from None


def answer(pipe: Connection, task: list[Any]) -> None:
    """Send a list of the next task, empty when there is none."""
    with contextlib.suppress(OSError):  # it has died since; the next that is heard of it says so
        pipe.send(task)


def serve(work: Callable, number: int, pipe: Connection) -> None:
    """A worker process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends its workers
    die_with_parent()
    try:
        for result in work(number, asked(pipe)):
            pipe.send(("result", result))
        pipe.send(("end", None))
    except (BrokenPipeError, EOFError, ConnectionResetError):
        return  # the parent has gone
    except Exception as fault:
        pipe.send(("fault", portable(fault)))


def die_with_parent() -> None:
    """Be killed when the parent is, so that no orphan writes where a later run is at work. Linux can; elsewhere an orphan
    ends when it next speaks to its parent."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != multiprocessing.parent_process().pid:  # it died before
        os._exit(1)


PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def asked(pipe: Connection) -> Iterator[Any]:
    while True:
        pipe.send(("next", None))
        task = pipe.recv()
        if not task:
            return
        yield task[0]


def portable(fault: Exception) -> Exception:
    """The exception with the worker's traceback as a note; in words where it cannot be pickled."""
    fault.add_note("in a worker process:\n" + "".join(traceback.format_exception(fault)))
    try:
        return pickle.loads(pickle.dumps(fault))
    except Exception:  # an exception's own pickling may raise anything
        return ReactvlError(f"a worker process failed: {type(fault).__name__}: {fault}")
