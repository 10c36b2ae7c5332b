"""Progress of anything over two seconds: a bar on a terminal, plain lines in a log, with rate and time left.

All of it goes to standard error; `say` prints what a stage did, to standard output.
"""

import contextlib
import sys
import time
from collections.abc import Iterator

LOG_EVERY = 10.0  # seconds between the lines of a log


def say(text: str) -> None:
    """Print one line of result."""
    print(text, flush=True)


class Progress:
    """Counts work that is done; `note` stands behind the figures (a loss, a share of time waited for data)."""

    def __init__(self, title: str, total: int, unit: str):
        self.title, self.total, self.unit = title, total, unit
        self.done = self.skipped = 0
        self.note = ""
        self.began = self.logged = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None, *, resumed: bool = False) -> None:
        """`count` more are done; `resumed` ones were done by an earlier run and do not enter the rate."""
        self.done += count
        self.skipped += count if resumed else 0
        self.note = self.note if note is None else note
        self.show()

    def show(self) -> None:
        now = time.monotonic()
        if now - self.logged >= LOG_EVERY:
            self.logged = now
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """`embedding 1,024/13,000 pairs, 310.2 pairs/s, 0:39 left`"""
        rate = self.rate()
        left = f", {clock((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        return f"{self.title} {self.done:,}/{self.total:,} {self.unit}, {rate:,.1f} {self.unit}/s{left}" + (
            f", {self.note}" if self.note else ""
        )

    def rate(self) -> float:
        return (self.done - self.skipped) / max(time.monotonic() - self.began, 1e-9)


@contextlib.contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Progress]:
    """A `Progress` shown as a bar on a terminal and as a line every ten seconds elsewhere."""
    if not sys.stderr.isatty():
        counter = Progress(title, total, unit)
        yield counter
        if time.monotonic() - counter.began > 2:
            print(counter.line(), file=sys.stderr, flush=True)
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Bar(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        counter = Progress(title, total, unit)
        task = bar.add_task(title, total=total, rate="", note="")
        counter.show = lambda: bar.update(  # type: ignore[method-assign]
            task, completed=counter.done, rate=f"{counter.rate():,.1f} {unit}/s", note=counter.note
        )
        yield counter


def clock(seconds: float) -> str:
    """`1:02:03` or `4:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
