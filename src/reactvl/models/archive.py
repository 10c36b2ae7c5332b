"""OpenAI's CLIP files: TorchScript archives, read as zips of tensors without running anything that they carry.

Such a file is a zip: `NAME/data.pkl` describes a tree of modules, `NAME/data/0`, `1`, ... are the bytes of its storages, and
`NAME/code/` is program text. `torch.jit.load` would compile that text. Here only the tree is unpickled, by a reader that knows
three kinds of things: modules, which become bags of attributes; tensors, which become records of (storage, offset, shape,
strides); lists and numbers. Tensors are made afterwards, from records that were checked.
"""

import dataclasses
import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from reactvl.manifest import ReactvlError

DTYPES = {
    "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16, "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
OPCODES = frozenset({  # all that TorchScript's pickler writes
    "PROTO", "STOP", "MARK", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING",
    "BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT",
    "SETITEM", "SETITEMS",
})  # fmt: skip
TREE_BYTES = 64 << 20  # of data.pkl; ViT-L/14's is under 1 MB
DEPTH, NODES = 64, 1_000_000  # of the tree of modules
STATE_ONLY = ("attn_mask",)  # a tensor attribute of OpenAI's text blocks, no weight


class Refused(Exception):
    """What the archive holds that no archive of weights holds."""


def is_archive(names: list[str]) -> bool:
    """Whether a zip's members are those of a TorchScript archive."""
    return any(re.fullmatch(r"[^/]+/constants\.pkl", name) for name in names)


def read(path: Path | str) -> dict[str, Tensor]:
    """Every tensor of the archive by its dotted name, in its own dtype; tied tensors share memory.

    Raises ReactvlError that names the file for anything but modules, tensors, numbers, strings and lists, for a member that is
    missing, compressed, cut short or of another size than its tensors say, and for names that leave the archive.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return Archive(file, Path(path).stat().st_size).state()
    except Refused as fault:
        raise ReactvlError(f"{path}: not an archive of weights: {fault}") from None
    except (zipfile.BadZipFile, EOFError, zlib.error, struct.error) as fault:
        raise ReactvlError(f"{path}: the archive is damaged or cut short ({fault}); fetch it again") from None
    except (OSError, NotImplementedError, RuntimeError, ValueError) as fault:
        raise ReactvlError(f"{path}: cannot be read ({fault})") from None


@dataclasses.dataclass(frozen=True)
class Storage:
    """A persistent id of the pickle: which bytes, and what they are."""

    dtype: torch.dtype
    key: str
    count: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor as the pickle describes it: a strided view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Archive:
    """One open archive; storages are read once."""

    def __init__(self, file: zipfile.ZipFile, size: int):
        self.file, self.size = file, size
        self.members = members(file)
        roots = [name for name in self.members if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(roots) != 1:
            raise Refused(f"it has {len(roots)} data.pkl; one was expected")
        self.tree, self.root = roots[0], roots[0].removesuffix("data.pkl")
        self.storages: dict[str, tuple[Storage, Tensor]] = {}

    def state(self) -> dict[str, Tensor]:
        if self.members[self.tree].file_size > TREE_BYTES:
            raise Refused(f"{self.tree} is of {self.members[self.tree].file_size:,} bytes")
        order = self.root + "byteorder"
        if order in self.members and self.bytes(order, 16) != b"little":
            raise Refused("its tensors are not in little-endian order")
        views = tensors(unpickled(self.bytes(self.tree, TREE_BYTES)))
        if not views:
            raise Refused("it holds no tensor")
        return {name: self.tensor(name, view) for name, view in views.items() if name.split(".")[-1] not in STATE_ONLY}

    def bytes(self, name: str, limit: int) -> bytes:
        """A member's bytes, its CRC checked."""
        with self.file.open(name) as member:
            data = member.read(limit + 1)
        if len(data) > limit:
            raise Refused(f"{name} is larger than it says")
        return data

    def tensor(self, name: str, view: View) -> Tensor:
        """The tensor of a checked record."""
        ints = (view.offset, *view.shape, *view.strides)
        if len(view.shape) != len(view.strides) or not all(type(one) is int and one >= 0 for one in ints):
            raise Refused(f"tensor {name} has no valid shape")
        elements = math.prod(view.shape)
        last = view.offset + sum((side - 1) * stride for side, stride in zip(view.shape, view.strides, strict=True))
        if elements > view.storage.count or (elements and last >= view.storage.count):
            raise Refused(f"tensor {name} reaches beyond its storage of {view.storage.count:,} elements")
        stored = self.storage(view.storage)
        return (
            torch.as_strided(stored, view.shape, view.strides, view.offset) if elements else stored[:0].view(view.shape)
        )

    def storage(self, storage: Storage) -> Tensor:
        """The elements of a storage (count,)."""
        if storage.key in self.storages:
            known, tensor = self.storages[storage.key]
            if known != storage:
                raise Refused(f"storage {storage.key} is described in two ways")
            return tensor
        names = [f"{self.root}{folder}/{storage.key}" for folder in ("data", "constants")]
        name = next((name for name in names if name in self.members), None)
        if name is None:
            raise Refused(f"{names[0]} is missing")
        wanted, member = storage.count * storage.dtype.itemsize, self.members[name]
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != wanted or wanted > self.size:
            raise Refused(f"{name} has {member.file_size:,} bytes; {wanted:,} plain ones were expected")
        tensor = torch.frombuffer(bytearray(self.bytes(name, wanted)), dtype=storage.dtype) if wanted else torch.empty(
            0, dtype=storage.dtype
        )  # fmt: skip
        self.storages[storage.key] = storage, tensor
        return tensor


def members(file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name; Refused for names that leave the archive or come twice."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in file.infolist():
        parts = PurePosixPath(info.filename).parts
        if info.filename.startswith("/") or "\\" in info.filename or ".." in parts or ":" in parts[:1]:
            raise Refused(f"a member is named {info.filename[:80]!r}")
        if info.filename in found:
            raise Refused(f"two members are named {info.filename[:80]!r}")
        found[info.filename] = info
    return found


def unpickled(data: bytes) -> Any:
    """The tree of a data.pkl, of bags, views, lists and numbers only.

    Opcodes are read first: one outside TorchScript's own, or a memo of more places than the pickle has bytes (which would be
    allocated at once), is Refused before anything is built.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in OPCODES:
                raise Refused(f"its pickle uses {opcode.name}")
            if opcode.name.endswith("PUT") and argument > len(data):
                raise Refused("its pickle asks for a memo that it cannot fill")
        return Reader(io.BytesIO(data)).load()
    except Refused:
        raise
    except Exception as fault:  # a pickle that was tampered with fails in many ways, all inside the reader
        raise Refused(f"its data.pkl cannot be read ({type(fault).__name__}: {str(fault)[:80]})") from None


class Reader(pickle.Unpickler):
    """Knows the names that TorchScript writes; every other global is Refused. Nothing is imported.

    What it hands out is made anew for every archive, so that a pickle that sets attributes on it changes nothing else.
    """

    def __init__(self, file: io.BytesIO):
        super().__init__(file)

        class Bag:
            """A module of the archive: its attributes, whatever its class was."""

            def __setstate__(self, attributes: dict[str, Any]) -> None:
                if not isinstance(attributes, dict) or not all(isinstance(name, str) for name in attributes):
                    raise Refused("a module's state is not a table of named attributes")
                self.__dict__["attributes"] = attributes

        self.bag = Bag
        self.known = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: view(
                storage, offset, shape, strides
            ),
            ("collections", "OrderedDict"): lambda: {},
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
            **{
                ("torch.jit._pickle", f"build_{kind}list"): lambda values: list(values)
                for kind in ("int", "double", "bool", "tensor")
            },
        }

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return self.bag
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) not in self.known:
            raise Refused(f"its pickle asks for {module}.{name}"[:120])
        return self.known[module, name]

    def persistent_load(self, given: Any) -> Storage:
        kind, dtype, key, _, count = given
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise Refused("its pickle names something that is no storage")
        if not isinstance(key, str) or not re.fullmatch(r"[0-9]{1,9}", key):
            raise Refused(f"its pickle names a storage {str(key)[:40]!r}")
        return Storage(dtype, key, count)


def view(storage: Any, offset: Any, shape: Any, strides: Any) -> View:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise Refused("its pickle describes a tensor in another way than TorchScript does")
    return View(storage, offset, shape, strides)


def tensors(tree: Any) -> dict[str, View]:
    """The views of a tree of bags by dotted name, in the archive's order."""
    found: dict[str, View] = {}
    stack, seen = [("", tree, 0)], 0
    while stack:
        name, node, depth = stack.pop()
        seen += 1
        if depth > DEPTH or seen > NODES:
            raise Refused("its tree of modules has no end")
        if isinstance(node, View):
            found[name] = node
        elif "attributes" in getattr(node, "__dict__", ()):
            children = node.__dict__["attributes"].items()
            stack += [(f"{name}.{child}".lstrip("."), value, depth + 1) for child, value in reversed(children)]
        elif depth == 0:
            raise Refused("its pickle holds no module")
    return found
