"""What to classify: tasks as data files, and the readers of the benchmarks' formats."""

from reactvl.tasks.finding import find
from reactvl.tasks.task import Captioned, CaptionTask, Samples, Task

__all__ = ["CaptionTask", "Captioned", "Samples", "Task", "find"]
