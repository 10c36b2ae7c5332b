"""Published embeddings of any vectors, and searches restated in a few lines of NumPy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def random_rows(rows: int, dim: int = 32, seed: int = 0, dtype: str = "float16") -> np.ndarray:
    """Unit vectors (rows, dim) with a direction in common, as CLIP's have."""
    generator = np.random.default_rng(seed)
    return unit(generator.standard_normal((rows, dim)) + generator.standard_normal(dim)).astype(dtype)


def write_published(
    folder: Path,
    parts: Sequence[tuple[int, np.ndarray | None, np.ndarray | None, dict[str, list]]],
) -> Path:
    """Parts (number, images, texts, metadata columns) in clip-retrieval's layout."""
    for number, images, texts, columns in parts:
        for kind, rows in (("img_emb", images), ("text_emb", texts)):
            if rows is not None:
                (folder / kind).mkdir(parents=True, exist_ok=True)
                np.save(folder / kind / f"{kind}_{number:04d}.npy", rows)
        (folder / "metadata").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / "metadata" / f"metadata_{number:04d}.parquet")
    return folder


def urls(rows: int, first: int = 0) -> dict[str, list]:
    """Metadata of a pool of URLs, all of them different."""
    return {
        "url": [f"https://example.org/{number}.jpg" for number in range(first, first + rows)],
        "caption": [f"caption {number}" for number in range(first, first + rows)],
    }


def nearest(rows: np.ndarray, query: np.ndarray, k: int) -> tuple[list[int], np.ndarray]:
    """The k rows of largest inner product in float64, ties by the lower row, NaNs never; and their scores."""
    scores = rows.astype(np.float64) @ query.astype(np.float64)
    fit = np.flatnonzero(np.isfinite(scores))
    order = fit[np.lexsort((fit, -scores[fit]))][:k]
    return order.tolist(), scores[order]
