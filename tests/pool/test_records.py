"""Fields and captions: the sample's own json before the side file, scalars only, nothing that a table cannot hold."""

import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.pool import columns, images
from reactvl.pool.listing import downloads, rate
from reactvl.pool.records import checked_captions, fields_of, parsed, read_side_file, scalar
from reactvl.pool.tars import IMAGE_EXTENSIONS, catalogue
from reactvl.pool.writer import ShardWriter


def test_image_extensions_are_those_of_the_formats_that_are_decoded():
    """Pillow's own list of names for the formats of images.FORMATS."""
    Image.init()
    wanted = {ext[1:] for ext, form in Image.registered_extensions().items() if form in images.FORMATS}
    assert set(IMAGE_EXTENSIONS) == wanted == set(sum(images.NAMES.values(), ()))


@pytest.mark.parametrize("text", ["auto", "txt", "json:caption", "json:a:b", "parquet:TEXT"])
def test_spellings_of_captions(text):
    assert checked_captions(text) == (text.partition(":")[0], text.partition(":")[2])


@pytest.mark.parametrize("text", ["", "json", "json:", "parquet:", "auto:x", "txt:caption", "jsonl:caption", "TXT"])
def test_other_spellings_of_captions_are_refused(tmp_path, text):
    with pytest.raises(ReactvlError, match="use auto, txt, json:FIELD or parquet:FIELD"):
        catalogue(tmp_path / "none.tar", text)


def test_the_json_wins_over_the_side_file(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.write(b"1", "jpg", None, {"width": 1, "url": "of json", "nothing": None})
        writer.write(b"2", "jpg", "of txt")
    rows = [
        {
            "key": "000000000",
            "width": 9,
            "url": "side",
            "caption": "c0",
            "license": "CC0",
            "nothing": "side",
            "status": "success",
        },
        {"key": "000000001", "width": 8, "url": "side", "caption": "c1", "license": None, "status": "failed_to_resize"},
        {"key": "000000001", "width": 7, "url": "later row", "caption": "c1", "license": "later", "status": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    one, other = catalogue(tmp_path / "00000.tar").samples
    assert (one.caption, one.url, one.status) == ("c0", "of json", "success")
    assert one.fields == {"width": 1, "license": "CC0", "nothing": "side"}
    assert (other.caption, other.url, other.status) == ("of txt", "side", "failed_to_resize")
    assert other.fields == {"width": 8}
    assert catalogue(tmp_path / "00000.tar", "parquet:license").samples[0].caption == "CC0"


def test_side_files_of_every_kind_of_column(tmp_path):
    table = pa.table(
        {
            "key": pa.array(["a", "b"]).dictionary_encode(),
            "text": pa.array(["x", None], pa.large_string()),
            "small": pa.array([1, 2], pa.int8()),
            "half": pa.array([0.5, float("nan")], pa.float32()),
            "yes": [True, None],
            "bytes": pa.array([b"1", b"2"]),
            "list": [[1], [2]],
            "when": pa.array([1, 2], pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=1)
    found = read_side_file(tmp_path / "0.tar", {"a", "b"})
    assert found.fault is None
    assert fields_of(None, found.rows["a"]) == {"text": "x", "small": 1, "half": 0.5, "yes": True}
    assert fields_of(None, found.rows["b"]) == {"small": 2}
    assert read_side_file(tmp_path / "0.tar", {"a"}).rows.keys() == {"a"}
    assert read_side_file(tmp_path / "none.tar", {"a"}) == ({}, None, {})
    pq.write_table(table.drop(["key"]), tmp_path / "0.parquet")
    assert "no text column `key`" in read_side_file(tmp_path / "0.tar", {"a"}).fault
    body = (tmp_path / "0.parquet").read_bytes()
    for cut in (0, 3, len(body) // 2, len(body) - 1):
        (tmp_path / "0.parquet").write_bytes(body[:cut])
        assert "cannot be read" in read_side_file(tmp_path / "0.tar", {"a"}).fault


def test_downloads_are_counted_by_how_they_ended(tmp_path):
    """Every row of the side file, those without a picture too: what img2dataset's own counts say, fewer messages apart."""
    robots = "Use of image disallowed by X-Robots-Tag directive"
    loop = (
        "HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.\nThe last 30x"
    )
    messages = [
        ("success", None, 3),
        ("failed_to_download", "IncompleteRead(17 bytes read, 3 more expected)", 1),
        ("failed_to_download", "IncompleteRead(5 bytes read, 1 more expected)", 1),
        ("failed_to_download", loop, 1),
        ("failed_to_download", robots, 2),
        ("failed_to_resize", None, 1),
        ("failed_to_resize", " \n ", 1),
        ("failed_to_resize", "x" * 500, 1),
        (None, "of nothing", 1),
    ]
    rows = [(status, message) for status, message, count in messages for _ in range(count)]
    with ShardWriter(tmp_path) as writer:
        for _ in range(3):
            writer.write(b"1", "jpg", "caption")
    columns = {"key": [f"{number:09}" for number in range(len(rows))]}
    columns |= dict(zip(("status", "error_message"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    wanted = {
        "success": 3,
        "IncompleteRead": 2,
        loop.splitlines()[0]: 1,
        robots: 2,
        "failed_to_resize": 2,
        "x" * 120: 1,
    }
    assert catalogue(tmp_path / "00000.tar").fetched == wanted
    with tarfile.open(tmp_path / "00000.tar", "w"):
        pass  # not one was fetched
    assert catalogue(tmp_path / "00000.tar").fetched == wanted
    (tmp_path / "00000.parquet").unlink()
    assert catalogue(tmp_path / "00000.tar").fetched == {}


def test_counts_of_downloads_stay_short():
    """A message may name its host: many of one each are summed up, and no failure, no count."""
    shards = [{"success": 10, f"no certificate of host {number}": 1, "timed out": 1} for number in range(80)]
    ended = downloads(shards)
    assert sum(ended.values()) == 80 * 12 and len(ended) == 51 and ended["other"] == 32
    said = rate(ended)
    assert said.startswith("of 960 pictures asked for, 800 were fetched (83.3%); lost: 80 timed out, ")
    assert said.endswith(", ...") and len(said) < 300
    assert downloads([{"success": 3}, {}]) == downloads([]) == {}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.just("x" * 1001),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
records = st.dictionaries(
    st.text(max_size=4) | st.sampled_from(["caption", "url", "width", "n" * 201]), values, max_size=6
)


@given(records, records)
def test_fields_of_any_json_stand_in_a_table(record, side):
    found = fields_of(record, side)
    assert not found.keys() & {"caption", "url", "", "n" * 201}
    for name, value in found.items():
        wanted = scalar(record.get(name)) if scalar(record.get(name)) is not None else scalar(side.get(name))
        assert value == wanted
    if found:
        assert columns.table_of([found], columns.kinds_of([found])).to_pylist() == [found]


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.booleans() | st.integers() | st.floats() | st.text()), max_size=5
    )
)
def test_a_columns_type_holds_all_and_does_not_depend_on_the_order(rows):
    kinds = columns.kinds_of(rows)
    assert kinds == columns.kinds_of(rows[::-1])
    table = columns.table_of(rows, kinds)
    assert table.num_rows == (len(rows) if kinds else 0)
    for name, kind in kinds.items():
        for held, row in zip(table[name].to_pylist(), rows, strict=True):
            if name not in row:
                assert held is None
            elif kind == "string":
                assert held == (row[name] if isinstance(row[name], str) else json.dumps(row[name]))
            else:
                assert type(held) is columns.KINDS[kind] and (held == row[name] or held != held)


def test_odd_json_is_no_record():
    assert parsed(b"[1]") is None and parsed(b"{") is None and parsed(b"[" * 100_000) is None
    assert parsed(b'{"a": ' + b"9" * 5000 + b"}") is None
    assert fields_of(parsed(b'{"s": "\\ud800", "n": NaN, "i": Infinity}'), None) == {"s": "?", "i": float("inf")}
