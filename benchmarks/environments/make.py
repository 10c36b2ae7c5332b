"""Environments for the baselines, which cannot share ours: each a venv of exactly pinned packages.

    .venv/bin/python benchmarks/environments/make.py                     # all of them
    .venv/bin/python benchmarks/environments/make.py autofaiss           # one

autofaiss wants pyarrow under 20 and NumPy 1; clip-retrieval wants webdataset 0.2, NumPy 1 and setuptools under 81;
clip-benchmark wants NumPy under 2.4, and brings what its other tasks need; img2dataset, which no benchmark but a slow test
needs, wants webdataset 0.2 and pandas 2. An environment that is there and was made of the same list is left as it is.
"""

import argparse
import subprocess
import venv
from pathlib import Path

HOME = Path(__file__).parent
CACHE = HOME.parents[1] / "out" / "benchmarks"
NAMES = tuple(sorted(path.stem for path in HOME.glob("*.txt")))


def interpreter(name: str, cache: Path = CACHE) -> Path | None:
    """The Python of an environment; None when it is not made, or of another list."""
    for home in (cache, CACHE):
        folder = home / "environments" / name
        if (folder / "made").exists() and (folder / "made").read_text() == wanted(name):
            return folder / "bin" / "python"
    return None


def required(name: str, cache: Path = CACHE) -> Path:
    """The Python of an environment; SystemExit says how to make it."""
    found = interpreter(name, cache)
    if found is None:
        raise SystemExit(f"needs the environment {name}: .venv/bin/python benchmarks/environments/make.py {name}")
    return found


def wanted(name: str) -> str:
    return (HOME / f"{name}.txt").read_text()


def make(name: str, cache: Path = CACHE) -> Path:
    """Make an environment unless it is there."""
    found = interpreter(name, cache)
    if found is None:
        folder = cache / "environments" / name
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        python = folder / "bin" / "python"
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", HOME / f"{name}.txt"]
        subprocess.run([str(word) for word in command], check=True)
        (folder / "made").write_text(wanted(name))
        found = python
    print(f"{name}: {found}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"no environment {unknown[0]!r}; there are {', '.join(NAMES)}")
    for name in names:
        make(name)


if __name__ == "__main__":
    main()
