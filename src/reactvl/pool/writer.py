"""Writing shards in img2dataset's webdataset layout: `KEY.jpg`, `KEY.json`, `KEY.txt`, deterministic and atomic."""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

from reactvl.manifest import ReactvlError, replacing
from reactvl.pool.tars import IMAGE_EXTENSIONS

KEY = re.compile(r"(?:.*/|)[^./]+")  # what webdataset reads back as the key of `KEY.EXT`


class ShardWriter:
    """Writes pairs into `00000.tar`, `00001.tar`, ... under `folder`; a context manager.

    A shard is closed before it would hold more than `max_count` pairs, and once it has `max_bytes`. It appears under
    its name when it is whole. Equal pairs in equal order give equal bytes: no clock, user or path enters the tar. An
    error inside the `with` drops the shard in hand and keeps the finished ones.
    """

    def __init__(
        self,
        folder: Path | str,
        max_count: int = 10_000,
        max_bytes: int = 3 * 10**9,
        first: int = 0,
        digits: int = 5,
    ):
        if max_count < 1 or max_bytes < 1:
            raise ReactvlError(f"shards of {max_count} pairs and {max_bytes} bytes cannot be written")
        self.folder, self.max_count, self.max_bytes = Path(folder), max_count, max_bytes
        self.number, self.digits = first, digits
        self.shards: list[Path] = []  # the finished ones
        self.count = 0  # pairs in the shard in hand
        self._keys: set[str] = set()
        self._tar = self._replacing = None

    def __enter__(self):
        return self

    def __exit__(self, kind, fault, trace):
        if kind is None:
            self.close()
        elif self._tar is not None:
            self._tar.close()
            self._replacing.__exit__(kind, fault, trace)

    def write(
        self,
        image: bytes,
        ext: str,
        caption: str | None = None,
        record: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        members: dict[str, bytes] | None = None,
    ) -> str:
        """Add a pair and return its key.

        `key`: img2dataset's digits (shard, then place in it) when none is given. `caption`: the body of `.txt`, which
        is left out for None. `record`: the `.json`, with key and caption filled in where absent. `members`: further
        bodies by extension. Raises ReactvlError for an extension that is no image's and a key that webdataset would
        not read back.
        """
        if ext not in IMAGE_EXTENSIONS:
            raise ReactvlError(
                f"a pair's image cannot have the extension {ext!r}; one of {', '.join(IMAGE_EXTENSIONS)}"
            )
        if self._tar is not None and (self.count >= self.max_count or self._tar.offset >= self.max_bytes):
            self.close()
        key = f"{self.number:0{self.digits}d}{self.count:04d}" if key is None else key
        if not KEY.fullmatch(key) or key.startswith("__"):
            raise ReactvlError(f"key {key!r}: its last part must have no dot and must not be empty")
        if key in self._keys:
            raise ReactvlError(f"key {key!r} is twice in shard {self.number:0{self.digits}d}.tar")
        bodies = {ext: image, **(members or {})}
        if record is not None:
            filled = {"caption": caption, "key": key} | record
            bodies["json"] = json.dumps(filled, ensure_ascii=False, indent=4).encode()
        if caption is not None:
            bodies["txt"] = caption.encode()
        if self._tar is None:
            self._open()
        for name in sorted(bodies):
            entry = tarfile.TarInfo(f"{key}.{name}")
            entry.size, entry.mode = len(bodies[name]), 0o444
            self._tar.addfile(entry, io.BytesIO(bodies[name]))
        self._keys.add(key)
        self.count += 1
        return key

    def close(self) -> list[Path]:
        """Finish the shard in hand; returns all shards written."""
        if self._tar is not None:
            self._tar.close()
            self._replacing.__exit__(None, None, None)
            self.shards.append(self.folder / self._name())
            self.number, self.count, self._keys = self.number + 1, 0, set()
            self._tar = self._replacing = None
        return self.shards

    def _open(self) -> None:
        self._replacing = replacing(self.folder / self._name())
        # plain ustar headers, with PAX records only for names and sizes that ustar cannot hold
        self._tar = tarfile.open(self._replacing.__enter__(), "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by close()

    def _name(self) -> str:
        return f"{self.number:0{self.digits}d}.tar"
