"""`--where`: what a condition keeps, against DuckDB over the whole table; and what is no condition."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import ModelId, ReactvlError
from reactvl.retrieve.filters import checked_condition, decided

MODEL = ModelId("tiny", "ab" * 32, 8)
PARTS = (700, 0, 450)


def metadata(part: int, rows: int) -> dict[str, list]:
    """LAION's spelling of the columns; the second part lacks one of them, and values are missing here and there."""
    columns = {
        "SAMPLE_ID": [1000 * part + n for n in range(rows)],
        "TEXT": [None if n % 5 == 4 else f"A Panda, number {n % 7}" for n in range(rows)],
        "WIDTH": [None if n % 11 == 3 else float(n) for n in range(rows)],
        "aesthetic score": [n / 10 for n in range(rows)],
    }
    if part == 0:
        columns["NSFW"] = ["UNLIKELY" if n % 2 else "NSFW" for n in range(rows)]
    return columns


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Embeddings:
    folder = tmp_path_factory.mktemp("laion")
    generator = np.random.default_rng(0)
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir()
    for part, rows in enumerate(PARTS):
        for half in ("img_emb", "text_emb"):
            vectors = generator.standard_normal((rows, 8))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            np.save(folder / half / f"{half}_{part:04d}.npy", vectors.astype(np.float16))
        table = pa.table(metadata(part, rows)) if rows else pa.table(metadata(part, 1)).slice(0, 0)
        pq.write_table(table, folder / "metadata" / f"metadata_{part:04d}.parquet", row_group_size=128)
    return Embeddings(folder, MODEL)


def reference(embeddings: Embeddings, condition: str) -> list[int]:
    """Row numbers over all parts, by DuckDB over one table of everything."""
    pieces = [pa.table({**metadata(part, rows), "part": [part] * rows}) for part, rows in enumerate(PARTS) if rows]
    everything = pa.concat_tables(pieces, promote_options="default")
    sides = [(np.asarray(part.images(), np.float32), np.asarray(part.texts(), np.float32)) for part in embeddings.parts]
    similarity = np.concatenate([np.einsum("nd,nd->n", images, texts) for images, texts in sides])
    everything = everything.rename_columns([name.lower() for name in everything.column_names])
    everything = everything.append_column("similarity", pa.array(similarity))
    for ours, theirs in (("caption", "text"), ("key", "sample_id")):
        everything = everything.append_column(ours, everything[theirs].cast(pa.string()))
    everything = everything.append_column("row", pa.array(np.arange(everything.num_rows)))
    with duckdb.connect() as connection:
        connection.register("pool", everything)
        found = connection.sql(f"SELECT row FROM pool WHERE ({condition}\n) ORDER BY row").fetchall()
    return [row for (row,) in found]


def kept(embeddings: Embeddings, condition: str) -> list[int]:
    mask = np.concatenate(list(decided(embeddings, checked_condition(embeddings, condition))))
    assert mask.dtype == bool and len(mask) == sum(PARTS)
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    "condition",
    [
        "width > 200 AND similarity > 0.3",
        "WIDTH BETWEEN 100 AND 300 OR text LIKE '%number 3'",
        "caption ILIKE 'a panda%' AND NOT nsfw = 'NSFW'",
        "nsfw IS NULL",
        "width IS NOT NULL AND similarity < -0.5",
        '"aesthetic score" >= 12.5',
        "pool.width % 2 = 0",
        "width IN (1, 2, 500) -- a few",
        "CASE WHEN nsfw = 'NSFW' THEN width > 100 ELSE width > 600 END",
        "TRY_CAST(key AS INTEGER) < 300 AND length(lower(caption)) > 3",
        "regexp_matches(caption, '[35]$') AND coalesce(width, 0) > 20",
        "width > 3 OR width IS NULL /* all but four */",
        "similarity > 2",
        "caption = '; DROP TABLE pool; --'",
    ],
)
def test_a_condition_keeps_what_duckdb_keeps(published, condition):
    assert kept(published, condition) == reference(published, condition)


@settings(max_examples=15, deadline=None)
@given(
    least=st.integers(-5, 800),
    word=st.sampled_from(["number 3", "%anda%", "A_Panda%", "nothing"]),
    cut=st.floats(-1, 1, width=32),
    joins=st.tuples(*[st.sampled_from(["AND", "OR"])] * 2),
    negated=st.booleans(),
)
def test_random_conditions(published, least, word, cut, joins, negated):
    condition = (
        f"width > {least} {joins[0]} {'NOT' if negated else ''} (caption LIKE '{word}' {joins[1]} similarity < {cut})"
    )
    assert kept(published, condition) == reference(published, condition)


def test_a_column_of_that_name_goes_before_the_computed_similarity(published, tmp_path):
    for part in published.parts:
        for half, vectors in (("img_emb", part.images()), ("text_emb", part.texts())):
            (tmp_path / half).mkdir(exist_ok=True)
            np.save(tmp_path / half / f"{half}_{part.number}.npy", vectors)
        (tmp_path / "metadata").mkdir(exist_ok=True)
        table = pq.read_table(part.metadata_path)
        table = table.append_column("Similarity", pa.array(np.arange(table.num_rows) / 1000))
        pq.write_table(table, tmp_path / "metadata" / f"metadata_{part.number}.parquet")
    assert len(kept(Embeddings(tmp_path, MODEL), "similarity < 0.1")) == 200


HOSTILE = {
    "1) UNION SELECT (1": "not one condition",
    "width > 3) AS keep, (1": "not one condition",
    "width > 3) FROM pool WHERE (1 = 1": "no condition",
    "width > 3) AS keep FROM pool --": "no condition",
    "true) AS keep FROM pool UNION ALL SELECT (width > 3": "not one condition",
    "width > 3;": "no condition",
    "width > 3; DROP TABLE pool": "no condition",
    "COPY pool TO '/tmp/x.csv'": "no condition",
    "width > 3 LIMIT 3": "no condition",
    "(width > 3": "no condition",
    "width > 3 /*": "no condition",
    "?": "not one condition",
    "$a = width": "not one condition",
    "": "not one condition",
    " \n": "not one condition",
    "width\0 > 3": "not one condition",
    "caption = '\ud800'": "not Unicode",
    "EXISTS (SELECT 1)": "subquery",
    "width > (SELECT 3)": "subquery",
    "width IN (SELECT 3)": "subquery",
    "1 = ANY(SELECT width FROM pool)": "subquery",
    "EXISTS (FROM read_csv('/etc/passwd'))": "subquery",
    "row_number() OVER () > 3": "window",
    "COLUMNS(*) > 1": "holds \\*",
    "#1 = 3": "positional reference",
    "read_csv('/etc/passwd') IS NOT NULL": "no function 'read_csv'",
    "read_text('/etc/passwd') = caption": "no function 'read_text'",
    "system.main.lower(caption) = 'x'": "no function 'lower'",
    "getenv('HOME') = caption": "no function 'getenv'",
    "current_setting('threads') = width": "no function 'current_setting'",
    "getvariable('x') = width": "no function 'getvariable'",
    "count(*) > 1": "no function 'count_star'",
    "max(width) > 1": "no function 'max'",
    "random() < 0.5": "no function 'random'",
    "now() > '2020-01-01'": "no function 'now'",
    "current_date > '2020-01-01'": "no column 'current_date'",
    "sleep_ms(100000) = 1": "no function 'sleep_ms'",
    "repeat('x', 100000000000) = caption": "no function 'repeat'",
    "list_filter([width], lambda x: x > 1)[1] > 1": "no function 'list_filter'",
    "unnest([width]) > 1": "no function 'unnest'",
    "published.width > 1": "no column 'published'",
    "'/etc/passwd' = caption AND etc.passwd > 1": "no column 'etc'",
    "widht > 200": "no column 'widht'; did you mean WIDTH|no column 'widht'; did you mean width",
    "loewr(caption) = 'x'": "no function 'loewr' in a condition; did you mean lower",
    "1 = 1": "names no column",
    "width": "not true or false",
    "width + 1": "not true or false",
    "caption > [1]": "where",
}


@pytest.mark.parametrize("condition", HOSTILE)
def test_what_is_no_condition_is_refused_before_any_work(published, condition):
    with pytest.raises(ReactvlError, match=HOSTILE[condition]):
        checked_condition(published, condition)


def test_a_row_that_cannot_be_decided_is_told(published):
    with pytest.raises(ReactvlError, match=r"where \"CAST\(caption AS INTEGER\) = 3\": Conversion Error"):
        kept(published, "CAST(caption AS INTEGER) = 3")


def test_the_connection_reaches_nothing(tmp_path):
    """What the syntax check would let through by mistake, DuckDB itself refuses."""
    from reactvl.retrieve.filters import CONFIG

    (tmp_path / "a.csv").write_text("a\n1\n")
    with duckdb.connect(":memory:", config=CONFIG) as connection:
        secret = pa.table({"a": [1]})  # noqa: F841 - what a replacement scan would find
        for statement in (
            f"SELECT * FROM read_csv('{tmp_path}/a.csv')",
            f"SELECT * FROM '{tmp_path}/a.csv'",
            f"COPY (SELECT 1) TO '{tmp_path}/b.csv'",
            f"ATTACH '{tmp_path}/c.db'",
            "INSTALL httpfs",
            "SET enable_external_access = true",
            "SET lock_configuration = false",
            "SET memory_limit = '100GB'",
            "SELECT * FROM secret",
        ):
            with pytest.raises(duckdb.Error):
                connection.sql(statement).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_metadata_is_read_one_row_group_at_a_time(published, monkeypatch):
    """Memory: never more rows in hand than a row group has, and of the columns only those that are named."""
    from reactvl.retrieve import filters

    seen = []

    def watched(path: Path, columns: list[str], group: int) -> pa.Table:
        table = read(path, columns, group)
        seen.append((table.num_rows, table.column_names))
        return table

    read = filters.read_columns
    monkeypatch.setattr(filters, "read_columns", watched)
    kept(published, "width > 3")
    assert max(rows for rows, _ in seen) == 128 and {tuple(names) for _, names in seen} == {("width",)}
    assert sum(rows for rows, _ in seen) <= sum(PARTS) + 4 * 128
