"""The members of a zip, each read by offset and never extracted: stored or deflated, zip64 or not, checked by CRC.

    members, faults = catalogue("test.zip")
    body = read_member("test.zip", members["inner/path.jpg"])

The central directory is read by `zipfile`. A member's own header is read when the member is, because only that says where
its bytes begin. Names are looked up, never used as paths.
"""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from reactvl.manifest import ReactvlError
from reactvl.pool.images import BadImage
from reactvl.pool.reader import read_image

HEADER = struct.Struct(
    "<4s5H3I2H"
)  # a member's own: signature, version, flags, method, time, date, crc, sizes, lengths
SIGNATURE = b"PK\x03\x04"
ENCRYPTED = 1  # bit of a member's flags
LARGEST = 1 << 28  # bytes of a member once unpacked; more is no image
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Member(NamedTuple):
    """Where a member lies: the offset of its own header, bytes as packed and unpacked, CRC-32, and how it is packed."""

    header: int
    packed: int
    size: int
    crc: int
    method: int


def catalogue(path: Path | str) -> tuple[dict[str, Member], list[tuple[str, str]]]:
    """The members that can be read, by name, in the order of the central directory; and (name, reason) of the others.

    Folders are passed over. Of two members of one name the last counts, as for `unzip`; the other is among the faults.
    Raises ReactvlError for a file that cannot be read or is no zip (one that is cut short has no central directory).
    """
    members, faults = {}, []
    try:
        with zipfile.ZipFile(path) as opened:
            entries = opened.infolist()
    except OSError as fault:
        raise ReactvlError(f"archive {path}: cannot be read ({fault.strerror or fault})") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as fault:
        raise ReactvlError(f"archive {path}: is no zip file, or a damaged one ({fault}); fetch it again") from None
    for entry in entries:
        if entry.is_dir():
            continue
        reason = why_not(entry)
        if reason:
            faults.append((entry.filename, reason))
            continue
        if entry.filename in members:
            faults.append((entry.filename, "an earlier member of the same name: the last one counts"))
        members[entry.filename] = Member(
            entry.header_offset, entry.compress_size, entry.file_size, entry.CRC, entry.compress_type
        )
    return members, faults


def why_not(entry: zipfile.ZipInfo) -> str:
    """Why a member cannot be read; "" where it can."""
    if entry.flag_bits & ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in METHODS:
        name = zipfile.compressor_names.get(entry.compress_type, "unknown")
        return f"is packed by method {entry.compress_type} ({name}); stored and deflated members are read"
    if entry.file_size > LARGEST:
        return f"has {entry.file_size:,} bytes, at most {LARGEST:,} are read"
    if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
        return f"is stored as {entry.compress_size:,} bytes and has {entry.file_size:,}"
    return ""


def read_member(path: Path | str, member: Member) -> bytes:
    """A member's bytes, by two reads; BadImage for a damaged one, ReactvlError when the archive has moved or shrunk."""
    signature, *_, name, extra = HEADER.unpack(read_image(path, member.header, HEADER.size))
    if signature != SIGNATURE:
        raise BadImage("damaged member", f"archive {path}: no member begins at byte {member.header:,}")
    packed = read_image(path, member.header + HEADER.size + name + extra, member.packed)
    body = packed if member.method == zipfile.ZIP_STORED else inflated(path, packed, member)
    if zlib.crc32(body) != member.crc:
        raise BadImage("damaged member", f"archive {path}: the member at byte {member.header:,} fails its CRC")
    return body


def inflated(path: Path | str, packed: bytes, member: Member) -> bytes:
    """A deflated member, of no more than the bytes that the directory gives it."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = unpacker.decompress(packed, member.size + 1)
    except zlib.error as fault:
        raise BadImage("damaged member", f"archive {path}: the member at byte {member.header:,}: {fault}") from None
    if len(body) != member.size or not unpacker.eof:
        raise BadImage(
            "damaged member",
            f"archive {path}: the member at byte {member.header:,} does not unpack to the {member.size:,} bytes it has",
        )
    return body
