"""The members of a tar shard by name, offset and size, from its headers alone: nothing is extracted.

Reads what tar, tarfile and webdataset's TarWriter write: V7, ustar with prefix, GNU long names and base-256 sizes,
PAX records. A damaged or cut shard yields the whole members before the damage and a `Fault` that says what was lost.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 512
WINDOW = 16 * 1024  # bytes read at once: the small text members of a pair and the next header fit in
MAX_HEADER = 1 << 20  # a long name or a PAX header above this is damage
GNU_NAME, GNU_LINK, PAX, PAX_GLOBAL, GNU_SPARSE = b"L", b"K", b"x", b"g", b"S"


class Member(NamedTuple):
    """A regular file in a shard: its bytes are `size` from `offset` on."""

    name: str
    offset: int
    size: int


class Fault(NamedTuple):
    """What could not be read: a member's name (or "" for the shard itself), a reason for counting, and the details."""

    name: str
    reason: str
    detail: str


class Tar:
    """An open shard: iterate over it for its members; afterwards `faults` holds what could not be read.

    `read(offset, size)` gives bytes of it, cheaply for what lies near the place of iteration. OSError when the file
    cannot be opened or read.
    """

    def __init__(self, path: Path | str):
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
        self.length = os.fstat(self.file.fileno()).st_size
        self.faults: list[Fault] = []
        self._window, self._at = b"", 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __iter__(self) -> Iterator[Member]:
        at, long_name, pax, common = 0, None, NONE, NONE
        while True:
            header = self.read(at, BLOCK)
            if header.count(0) == BLOCK:
                return
            if len(header) < BLOCK:
                self.cut("", f"the end mark is missing (expected {BLOCK:,} bytes, {len(header):,} left)")
                return
            if not checksum_holds(header):
                self.faults.append(Fault("", "damaged shard", f"no tar header at byte {at:,}; what follows is skipped"))
                return
            try:
                size = number(header[124:136])
                if size < 0:
                    raise ValueError("negative size")
            except ValueError:
                self.faults.append(Fault("", "damaged shard", f"bad size at byte {at:,}; what follows is skipped"))
                return
            kind, body = header[156:157], at + BLOCK
            if kind in (GNU_NAME, GNU_LINK, PAX, PAX_GLOBAL):
                if size > MAX_HEADER or body + size > self.length:
                    self.cut(
                        "", f"a long name at byte {at:,} (expected {size:,} bytes, {max(self.length - body, 0):,} left)"
                    )
                    return
                data = self.read(body, size)
                if kind == GNU_NAME:
                    long_name = text(data.split(b"\0", 1)[0])
                elif kind == PAX:
                    pax = records(data)
                elif kind == PAX_GLOBAL:
                    common = common | records(data)
                at = body + padded(size)
                continue
            given = common | pax if common or pax else NONE
            name = given.get("path") or long_name or header_name(header)
            if kind in REGULAR_KINDS or kind == GNU_SPARSE:
                size = int(given["size"]) if given.get("size", "").isdigit() else size
            else:
                size = size if kind not in NO_BODY else 0
            sparse = kind == GNU_SPARSE or (given and any(key.startswith("GNU.sparse.") for key in given))
            long_name, pax = None, NONE
            if kind == GNU_SPARSE and header[482:483] != b"\0":
                self.faults.append(Fault(name, "sparse member", f"at byte {at:,}; what follows is skipped"))
                return
            if body + size > self.length:
                self.cut(name, f"expected {size:,} bytes, {max(self.length - body, 0):,} left")
                return
            if sparse:
                self.faults.append(Fault(name, "sparse member", "its bytes do not lie in one piece"))
            elif kind in REGULAR_KINDS and not name.endswith("/"):
                yield Member(name, body, size)
            at = body + padded(size)

    def cut(self, name: str, detail: str) -> None:
        self.faults.append(Fault(name, "truncated", detail))

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer at the end of the file."""
        begin = offset - self._at
        if begin >= 0 and len(found := self._window[begin : begin + size]) == size:
            return found
        pieces, wanted, place = [], max(size, WINDOW), offset
        while wanted > 0:
            piece = os.pread(self.file.fileno(), wanted, place)
            if not piece:
                break
            pieces.append(piece)
            wanted, place = wanted - len(piece), place + len(piece)
        self._window, self._at = b"".join(pieces), offset
        return self._window[:size]


NONE: dict[str, str] = {}  # no PAX records; never written to
REGULAR_KINDS = (b"0", b"\0", b"7")
NO_BODY = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def checksum_holds(header: bytes) -> bool:
    """The header's own checksum, over unsigned bytes or, as old tars have it, signed ones."""
    try:
        given = number(header[148:156])
    except ValueError:
        return False
    # the lower half of Adler-32 is one more than the sum of the bytes, modulo 65521, at a tenth of the time of `sum`
    if (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 256 - given in (0, -65_521, -131_042):
        return True
    rest = header[:148] + b" " * 8 + header[156:]
    return given + 256 * sum(byte > 127 for byte in rest) == sum(rest)


def number(field: bytes) -> int:
    """A header's number: octal digits, or base 256 where the first bit is set; ValueError for neither."""
    if field[0] in (0o200, 0o377):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0o377 else 0)
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def header_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return text(prefix + b"/" + name if prefix else name)


def records(data: bytes) -> dict[str, str]:
    """The records of a PAX header, `length key=value\\n` each; what is no record ends them."""
    found = {}
    while data:
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or not 0 < int(length) <= len(data):
            break
        key, equals, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if not equals:
            break
        found[text(key)] = text(value)
        data = data[int(length) :]
    return found


def text(data: bytes) -> str:
    """A name as text; bytes that are no UTF-8 are spelled `\\xff`, so that a name can stand in any table."""
    return data.decode("utf-8", errors="backslashreplace")
