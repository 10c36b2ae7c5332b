"""A part written in pieces is the part written at once, and appears whole or not at all."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reactvl.pool import embeddings_format as layout


def piece(first, rows, dim=4):
    vectors = np.arange(first * dim, (first + rows) * dim).reshape(rows, dim).astype(np.float16)
    columns = {name: [None] * rows for name in layout.METADATA_SCHEMA.names} | {
        "key": [f"k{row}" for row in range(first, first + rows)],
        "sha256": [bytes([row % 256]) * 32 for row in range(first, first + rows)],
    }
    return vectors, -vectors, pa.table(columns, schema=layout.METADATA_SCHEMA)


def test_pieces_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "ROW_GROUP", 20)
    with layout.PartWriter(tmp_path, 12, 50, 4) as part:
        for first, rows in ((0, 7), (7, 0), (7, 30), (37, 13)):
            part.add(*piece(first, rows))
    images, texts, table = piece(0, 50)
    assert np.array_equal(np.load(tmp_path / "img_emb/img_emb_12.npy"), images)
    assert np.array_equal(np.load(tmp_path / "text_emb/text_emb_12.npy"), texts)
    assert pq.read_table(tmp_path / "metadata/metadata_12.parquet").equals(table)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("rows", [4, 6])
def test_a_part_that_is_not_whole_does_not_appear(tmp_path, rows):
    with pytest.raises(ValueError, match="rows were written"), layout.PartWriter(tmp_path, 0, rows, 4) as part:
        part.add(*piece(0, 5))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_pieces_that_do_not_fit_are_refused(tmp_path):
    images, texts, table = piece(0, 5)
    with pytest.raises(ValueError, match="not one piece"), layout.PartWriter(tmp_path, 0, 5, 4) as part:
        part.add(images[:4], texts, table)


def test_a_part_may_lack_a_half_and_have_more_columns(tmp_path):
    images, _, table = piece(0, 5)
    wider = table.append_column("views", pa.array(range(5), pa.int64()))
    with layout.PartWriter(tmp_path, 3, 5, 4, wider.schema, halves=("image",)) as part:
        with pytest.raises(ValueError, match="text vectors"):
            part.add(images, images, wider)
        part.add(images, None, wider)
    assert sorted(path.name for path in tmp_path.rglob("*_3.*")) == ["img_emb_3.npy", "metadata_3.parquet"]
    assert pq.read_table(tmp_path / "metadata/metadata_3.parquet").equals(wider)
    with layout.PartWriter(tmp_path, 4, 5, 4, halves=()) as part:
        part.add(None, None, table)
    assert [path.name for path in tmp_path.rglob("*_4.*")] == ["metadata_4.parquet"]
