"""Manifests, atomic writes, hashes and errors: the floor that every stage stands on.

A stage owns one output folder. Work in progress lies in `.work/` there, so that a killed stage goes on where it stopped;
`manifest.json` is written last, so that a folder without one is never taken for whole. A manifest holds what decided the
result (tool version, options, the hash of each input's manifest, the model's hash), the counts, and the hash of every file;
wall-clock figures go to `timing.json`, which is not hashed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

import msgspec

from reactvl import __version__
from reactvl.progress import say


class ReactvlError(Exception):
    """A fault the user can mend; a command prints it as one line and exits with code 2."""


class ModelId(msgspec.Struct, frozen=True):
    """Which model made an output: its name as given, the SHA-256 of its weights and config, the width of its vectors."""

    name: str
    sha256: str
    dim: int


class InputId(msgspec.Struct, frozen=True):
    """One input of a stage: where it lies (relative to the stage's folder where they share a parent) and its hash."""

    path: str
    sha256: str


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """`manifest.json` of a stage's folder. `measured` holds wall-clock figures that people look for here (an index's latency):
    they are no part of the result, and `input_id` leaves them out."""

    stage: str
    version: str
    options: dict[str, Any]
    inputs: dict[str, InputId]
    model: ModelId | None = None
    counts: dict[str, int] = {}
    facts: dict[str, Any] = {}
    files: dict[str, str] = {}
    measured: dict[str, Any] = {}

    def request(self, leave_out: Collection[str] = ()) -> str:
        """SHA-256 of what was asked for, but for the inputs left out: manifests of equal request describe the same result."""
        inputs = {name: given.sha256 for name, given in self.inputs.items() if name not in leave_out}
        return sha256_json([self.stage, self.version, self.options, inputs])


def read_manifest(folder: Path | str, stage: str | None = None) -> Manifest:
    """The manifest of a finished stage folder; ReactvlError when there is none or it is another stage's."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        what = "was interrupted: run its stage again" if (Path(folder) / ".work").exists() else "is no stage's output"
        raise ReactvlError(f"{folder}: {what} (no manifest.json)")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError) as fault:
        raise ReactvlError(f"{path}: not a manifest of this tool ({fault})") from None
    if stage and manifest.stage != stage:
        raise ReactvlError(f"{folder}: holds the output of `{manifest.stage}`, not of `{stage}`")
    return manifest


def input_id(folder: Path | str, beside: Path | str) -> InputId:
    """The identity of a stage folder as an input of the stage that writes `beside`."""
    return InputId(path=path_beside(folder, beside), sha256=manifest_id(Path(folder) / "manifest.json"))


def manifest_id(path: Path) -> str:
    """SHA-256 of a manifest's file as it would be without wall-clock figures: equal results are equal inputs."""
    raw = path.read_bytes()
    value = json.loads(raw) if b'"measured"' in raw else {}
    return hashlib.sha256(json_bytes(value) if value.pop("measured", None) else raw).hexdigest()


def path_beside(folder: Path | str, beside: Path | str) -> str:
    """How the stage folder `beside` names another folder: relative where both lie under one parent, so that they can be
    moved together."""
    folder, beside = Path(folder).resolve(), Path(beside).resolve()
    return os.path.relpath(folder, beside) if folder.is_relative_to(beside.parent) else str(folder)


def input_path(folder: Path | str, manifest: Manifest, name: str) -> Path:
    """Where input `name` of the stage folder lies now."""
    return Path(os.path.normpath(Path(folder).resolve() / manifest.inputs[name].path))


class Stage:
    """An output folder while its stage runs: `.work` survives a kill, `finish` makes the folder whole."""

    def __init__(self, out: Path, manifest: Manifest, done: bool):
        self.out, self.manifest, self.done = out, manifest, done
        self.work = out / ".work"
        self.began = time.monotonic()
        self.timing: dict[str, float] = {}

    def finish(
        self, *, counts: dict[str, int], facts: dict[str, Any] | None = None, measured: dict[str, Any] | None = None
    ) -> Manifest:
        """Hash every file of the folder, write timing and manifest, and drop the work folder."""
        self.manifest.counts, self.manifest.facts, self.manifest.measured = counts, facts or {}, measured or {}
        self.manifest.files = {
            str(path.relative_to(self.out)): sha256_file(path)
            for path in sorted(self.out.rglob("*"))
            if path.is_file() and UNHASHED.isdisjoint(path.relative_to(self.out).parts)
        }
        self.timing["seconds"] = self.timing.get("seconds", 0.0) + time.monotonic() - self.began
        write_json(self.out / "timing.json", {key: round(value, 2) for key, value in self.timing.items()})
        written = msgspec.to_builtins(self.manifest)
        if not written["measured"]:
            del written["measured"]
        write_json(self.out / "manifest.json", written)
        shutil.rmtree(self.work, ignore_errors=True)
        self.done = True
        return self.manifest


# What is no result: wall-clock figures, what trackers write, and `features/`, evaluate's cache, which outlives the result and
# checks itself.
UNHASHED = {
    ".work", "manifest.json", "timing.json", ".lock", "recipe.toml", "features", "tensorboard", "wandb",
}  # fmt: skip


@contextlib.contextmanager
def stage_folder(
    out: Path | str,
    stage: str,
    *,
    options: dict[str, Any],
    inputs: dict[str, InputId],
    model: ModelId | None = None,
    overwrite: bool = False,
    piecewise: Collection[str] = (),
    wait: float = 0.0,
) -> Iterator[Stage]:
    """Open `out` for one run of a stage.

    Yields a `Stage`; its `done` is true when the folder already holds this very result, and then there is nothing to do.
    Unfinished work of the same request is kept in `.work`; that of another request is dropped. `piecewise` names inputs which
    the stage compares with its unfinished work piece by piece: a change in them does not drop it. Raises ReactvlError when the
    folder holds another result (unless `overwrite`), is in use by another process (for longer than `wait` seconds), or is not
    a stage's folder.
    """
    out = Path(out)
    # Through JSON, so that a tuple or a Path compares equal to what a manifest on disk says.
    options = json.loads(msgspec.json.encode(options, enc_hook=str))
    manifest = Manifest(stage=stage, version=__version__, options=options, inputs=inputs, model=model)
    if out.exists() and not out.is_dir():
        raise ReactvlError(f"{out}: is a file; --out takes a folder")
    out.mkdir(parents=True, exist_ok=True)
    with own(out / ".lock", wait) as free:
        if not free:
            raise ReactvlError(f"{out}: another process is writing here; wait for it or choose another --out")
        try:
            yield _open(out, manifest, overwrite, piecewise)
        finally:
            (out / ".lock").unlink(missing_ok=True)


@contextlib.contextmanager
def own(path: Path, wait: float) -> Iterator[bool]:
    """Hold the lock file `path` during the `with`; yields False when another process has held it for `wait` seconds."""
    until = time.monotonic() + wait
    while True:
        with open(path, "w") as lock:
            free = locked(lock, path)
            if free or time.monotonic() >= until:
                yield free
                return
        time.sleep(0.05)


def locked(lock: TextIO, path: Path) -> bool:
    """Take the lock without waiting. A file that its last owner removed after we opened it locks nobody out, and is no lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(lock.fileno()).st_ino == path.stat().st_ino
    except OSError:
        return False


def _open(out: Path, manifest: Manifest, overwrite: bool, piecewise: Collection[str]) -> Stage:
    if (out / "manifest.json").exists():
        old = read_manifest(out)
        if old.request() == manifest.request() and not missing_files(out, old):
            return Stage(out, old, done=True)
        if not overwrite:
            raise ReactvlError(
                f"{out}: holds another result ({difference(old, manifest)}); pass --overwrite or choose another --out"
            )
        say(f"{manifest.stage}: {out} is made anew ({difference(old, manifest)})")
        _clear(out)
    for stray in out.rglob(".*.part"):  # of a run that was killed; those of a stage's own work are the stage's to judge
        if ".work" not in stray.relative_to(out).parts:
            stray.unlink(missing_ok=True)
    work = out / ".work"
    request, wanted = work / "request", manifest.request(leave_out=piecewise)
    if work.exists() and (not request.exists() or request.read_text() != wanted):
        _clear(out)
    if not work.exists():
        foreign = [path.name for path in out.iterdir() if path.name not in UNHASHED]
        if foreign:
            raise ReactvlError(f"{out}: is not empty and holds no stage's output ({foreign[0]}); choose another --out")
        work.mkdir()
        write_bytes(request, wanted.encode())
    return Stage(out, manifest, done=False)


HASH = re.compile(r"[0-9a-f]{64}")  # an option too long to record, such as a list of what to leave out: nothing to read


def difference(old: Manifest, new: Manifest) -> str:
    """In words, the first thing in which the request for two outputs differs."""
    if old.stage != new.stage:
        return f"of stage {old.stage}"
    if old.version != new.version:
        return f"made by version {old.version}"
    for key in sorted({*old.options, *new.options}):
        before, after = old.options.get(key), new.options.get(key)
        if before != after:
            if any(isinstance(value, str) and HASH.fullmatch(value) for value in (before, after)):
                return f"{key} has changed"
            return f"{key} was {json.dumps(before)}, is {json.dumps(after)}"
    for key in sorted({*old.inputs, *new.inputs}):
        before, after = old.inputs.get(key), new.inputs.get(key)
        if before is None or after is None or before.sha256 != after.sha256:
            return f"its input `{key}` has changed"
    return "some of its files are missing"


def missing_files(folder: Path, manifest: Manifest) -> list[str]:
    """Names of files that the manifest lists and the folder lacks."""
    return [name for name in manifest.files if not (folder / name).exists()]


def changed_files(folder: Path | str) -> list[str]:
    """Names of files whose bytes are not those the manifest lists, missing ones included (`reactvl verify`)."""
    folder, manifest = Path(folder), read_manifest(folder)
    return [
        name
        for name, digest in manifest.files.items()
        if not (folder / name).exists() or sha256_file(folder / name) != digest
    ]


def _clear(out: Path) -> None:
    """Remove a stage's earlier output: only what a manifest lists and the work folder, never a stranger's file."""
    if (out / "manifest.json").exists():
        manifest = read_manifest(out)
        (out / "manifest.json").unlink()
        for name in manifest.files:
            (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / ".work", ignore_errors=True)
    for path in sorted((p for p in out.rglob("*") if p.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # a folder that still holds something stays
            path.rmdir()


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to disk and renamed onto `path`, else removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file whole or not at all, keys in the order given."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The bytes of a JSON file."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a value's JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
