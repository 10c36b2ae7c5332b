"""The engine of the service, without HTTP: searches, counts and pictures of a run or of an embeddings folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactvl.manifest import ReactvlError
from reactvl.serve.asking import Answer, Ask, Counted, Found

if TYPE_CHECKING:
    from torch import Tensor


class Explorer:
    """A RUN (a folder with `embeddings/`, and `retrieved/`, `customized/*/`, `index/` where they are) or an embeddings
    folder, opened for searching.

    `answer` and `count` are called from one thread at a time; everything else from any number of threads at once. A pair
    is (part, row): the number of its part's files, as in `pairs.parquet`, and the row in them.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        index: Sequence[str | Path] = (),
        model: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        cache: Path | None = None,
    ): ...

    def info(self) -> dict[str, Any]: ...

    def pixels(self, data: bytes, max_pixels: int = 50_000_000) -> "Tensor": ...

    def answer(self, asks: Sequence[Ask]) -> list[Answer | ReactvlError]: ...

    def count(self, ask: Ask, thresholds: Sequence[float] = ()) -> Counted: ...

    def pair(self, part: int, row: int) -> dict[str, Any]: ...

    def picture(self, part: int, row: int) -> bytes: ...

    def thumbnail(self, part: int, row: int, side: int = 256) -> tuple[bytes, str]: ...

    def class_pairs(self, class_id: int, offset: int = 0, limit: int = 40) -> list[Found]: ...
