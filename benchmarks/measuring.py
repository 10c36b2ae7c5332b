"""How every benchmark here measures: rounds in turns, medians, ratios to a named baseline, peak memory of a child process.

A question's script makes a `Report`, adds rows and finishes it: each row is printed with its verdict, and all of them
go, with the machine, the versions and the seconds of every round, to benchmarks/results/NAME.json, from which
`benchmarks/tables.py` writes docs/benchmarks.md.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parent
CACHE = HOME.parent / "out" / "benchmarks"  # made again when deleted: data, environments, indexes of the baselines
PACKAGES = ("reactvl", "torch", "open_clip_torch", "numpy", "faiss-cpu", "pyarrow", "pillow", "simplejpeg")
Rounds = dict[str, list[float]]  # way -> seconds of each round


class Need(NamedTuple):
    """What is required of a row: a text, and whether (ours, baseline) meets it."""

    text: str
    met: Callable[[float, float | None], bool]


def times(bound: float) -> Need:
    """Ours takes `bound` times less than the baseline."""
    return Need(f"{bound:g} times less", lambda ours, baseline: baseline >= bound * ours)


def within(bound: float) -> Need:
    """Ours takes at most `bound` times the baseline."""
    return Need(f"at most {bound:g} times", lambda ours, baseline: ours <= bound * baseline)


def least(bound: float) -> Need:
    return Need(f"at least {bound:g}", lambda ours, _: ours >= bound)


def most(bound: float) -> Need:
    return Need(f"at most {bound:g}", lambda ours, _: ours <= bound)


def not_below(slack: float = 0.0) -> Need:
    """Ours is the baseline or more."""
    return Need("the baseline's or more", lambda ours, baseline: ours >= baseline - slack)


def parser(doc: str, *, rounds: int = 3) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    made.add_argument("--quick", action="store_true", help="tiny sizes, seconds: whether it runs, not how fast")
    made.add_argument("--rounds", type=int, default=rounds, help="rounds in turns, of which medians are taken")
    made.add_argument("--cache", type=Path, default=CACHE, help="folder of what is made once and may be deleted")
    made.add_argument("--results", type=Path, help="folder of NAME.json (benchmarks/results; none with --quick)")
    return made


def parsed(options: argparse.ArgumentParser, quick: dict[str, Any], args: Sequence[str] | None = None):
    """The arguments given; `quick` overrides what was left at its default under --quick."""
    given = options.parse_args(args)
    if given.quick:
        for name, value in {"rounds": 1, **quick}.items():
            if getattr(given, name) == options.get_default(name):
                setattr(given, name, value)
        given.cache /= "quick"
    elif given.results is None:
        given.results = HOME / "results"
    given.cache.mkdir(parents=True, exist_ok=True)
    return given


class Report:
    """The rows of one benchmark, printed as they come.

    `minutes`: what the full sizes take on two cores. `differences`: every line in which a restated baseline differs
    from the code that it stands for.
    """

    def __init__(self, name: str, question: str, given: argparse.Namespace, minutes: float, differences=()):
        self.name, self.question, self.given, self.differences = name, question, given, list(differences)
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.seconds: Rounds = {}
        self.facts: dict[str, Any] = {}
        self.began = time.monotonic()
        length = "seconds (--quick: no verdicts)" if given.quick else f"about {minutes:g} minutes on two cores"
        print(f"{name}: {question}\n  {length}", flush=True)

    def row(
        self,
        label: str,
        ours: float,
        baseline: float | None = None,
        unit: str = "s",
        *,
        against: str = "",
        need: Need | None = None,
        also: bool = True,
        more: bool = False,
    ) -> None:
        """Add a row. `also` is a further condition of the requirement, such as equal answers; `more`: more is better, and the
        ratio is ours to the baseline."""
        verdict = None if need is None or self.given.quick else bool(also and need.met(ours, baseline))
        entry = {
            "label": label,
            "ours": ours,
            "baseline": baseline,
            "unit": unit,
            "against": against,
            "ratio": (ours / baseline if more else baseline / ours) if baseline and ours else None,
            "required": need.text if need else "",
            "met": verdict,
        }
        self.rows.append(entry)
        print(f"  {line(entry)}", flush=True)

    def note(self, text: str) -> None:
        """A sentence that belongs under the table."""
        self.notes.append(text)
        print(f"  {text}", flush=True)

    def timed(
        self,
        ways: dict[str, Callable[[], Any]],
        rounds: int,
        prefix: str = "",
        before: Callable[[str], Any] | None = None,
    ) -> dict[str, float]:
        """Median seconds of each way, measured in turns."""
        seconds = in_turns(ways, rounds, before)
        self.seconds |= {prefix + name: [round(value, 5) for value in values] for name, values in seconds.items()}
        return {name: statistics.median(values) for name, values in seconds.items()}

    def finish(self) -> bool:
        """Write NAME.json; returns whether no row missed its requirement."""
        spent = time.monotonic() - self.began
        missed = [row["label"] for row in self.rows if row["met"] is False]
        print(f"  {spent:.0f} s" + (f"; MISSED: {', '.join(missed)}" if missed else ""), flush=True)
        if self.given.results:
            path = self.given.results / f"{self.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.content(spent), indent=1, ensure_ascii=False) + "\n")
        return not missed

    def content(self, spent: float) -> dict[str, Any]:
        skip = {"quick", "cache", "results"}
        return {
            "name": self.name,
            "question": self.question,
            "command": shlex.join([".venv/bin/python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
            "machine": machine(),
            "versions": versions(),
            "settings": {name: plain(value) for name, value in vars(self.given).items() if name not in skip},
            "minutes": round(spent / 60, 1),
            "rows": self.rows,
            "notes": self.notes,
            "differences": self.differences,
            "facts": self.facts,
            "seconds_of_rounds": self.seconds,
        }


def line(entry: dict[str, Any]) -> str:
    """One row as text."""
    text = f"{entry['label']}: {shown(entry['ours'])} {entry['unit']}"
    if entry["baseline"] is not None:
        text += f", {entry['against']} {shown(entry['baseline'])} {entry['unit']}"
        text += f", ratio {shown(entry['ratio'])}" if entry["ratio"] is not None else ""
    if entry["required"]:
        verdict = {True: "met", False: "MISSED", None: "not judged"}[entry["met"]]
        text += f" | required: {entry['required']} | {verdict}"
    return text


def shown(value: float) -> str:
    """A figure with three significant digits, four where it is a share near 1."""
    if value is None:
        return ""
    if 0.9 <= value < 1:
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int, before: Callable[[str], Any] | None = None) -> Rounds:
    """Seconds of every way in every round; the ways take turns, so that load from outside falls on all of them.
    `before` is called with the way's name ahead of each, and not timed."""
    seconds: Rounds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            if before:
                before(name)
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return seconds


class Child(NamedTuple):
    """What a child process says: its answer (JSON), wall and CPU seconds, peak resident and peak own memory in MiB."""

    answer: Any
    wall: float
    cpu: float
    peak: float
    own: float


def child(command: Sequence[str | Path], request: Any, threads: int | None = None) -> Child:
    """Run `python script.py` in a process of its own: `request` goes in as JSON, the answer comes back through `serve`.

    Raises RuntimeError with the child's last words when it fails.
    """
    environment = dict(os.environ)
    if threads:
        environment |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([str(word) for word in command], text=True, env=environment, **pipes) as process:
        watch = OwnMemory(process.pid)
        out, err = process.communicate(json.dumps(plain(request)))
        own = watch.stop()
    answers = [text for text in out.split("\n") if text.startswith(ANSWER)]
    if process.returncode or not answers:
        words = "\n".join((out + err).strip().splitlines()[-20:])
        raise RuntimeError(f"{' '.join(map(str, command))} ended with code {process.returncode}:\n{words}")
    return Child(**json.loads(answers[-1].removeprefix(ANSWER)), own=own)


ANSWER = "#answer "


def serve(work: Callable[[Any], Any]) -> None:
    """The child's side of `child`: read the request, do the work, print the answer with the resources it took."""
    request = json.loads(sys.stdin.read())
    wall, cpu = time.perf_counter(), time.process_time()
    answer = work(request)
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    said = {"answer": answer, **spent, "peak": status("self", "VmHWM")}
    print("\n" + ANSWER + json.dumps(said), flush=True)  # on a line of its own, whatever was printed
    os._exit(0)  # thread pools of libraries that hang at exit have nothing to say any more


class OwnMemory:
    """The peak of a process's own (anonymous) memory, looked at every 10 ms from outside: pages of mapped files, which
    the kernel takes back when it needs them, are not in it."""

    def __init__(self, pid: int):
        self.pid, self.peak, self.done = pid, 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        while not self.done.wait(0.01):
            with contextlib.suppress(OSError, KeyError):  # it has ended
                self.peak = max(self.peak, status(self.pid, "RssAnon"))

    def stop(self) -> float:
        self.done.set()
        self.thread.join()
        return self.peak


def status(pid: int | str, field: str) -> float:
    """MiB of a field of /proc/PID/status. VmHWM begins anew at exec, unlike getrusage's ru_maxrss, which may hold the
    parent's peak."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith(field + ":"):
            return int(text.split()[1]) / 1024
    raise KeyError(field)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cpu = next(
        (
            text.partition(":")[2].strip()
            for text in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in text
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = Path("/proc/cpuinfo").read_text()
    found = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in flags]
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "flags": found,
        "memory_gib": round(memory, 1),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def plain(value: Any) -> Any:
    """A value as JSON has it; paths under the working folder are given relative to it."""
    if isinstance(value, Path):
        near = value.is_absolute() and value.is_relative_to(Path.cwd())
        return str(value.relative_to(Path.cwd()) if near else value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
