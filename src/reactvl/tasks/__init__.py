"""What to classify: tasks as data files, and the readers of the benchmarks' formats."""

from reactvl.tasks.task import Samples, Task, find

__all__ = ["Samples", "Task", "find"]
