"""The released code's TSVs: every whole line becomes its pair, every other is listed with its reason, and joined with the
pool a row leads to its own picture."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from importing_support import DIM, column, taken, vector
from tests_support import drawing, write_pool

from reactvl.importing import features, import_embeddings
from reactvl.importing.source import Dropped
from reactvl.manifest import ReactvlError

SHARDS, EACH = 3, 8


def line(key, number, scale=7.0, image=None):
    """A line as extract_feature_pairs.py writes it: vectors not normalised."""
    halves = [(vector(number, half).astype(np.float32) * scale).astype(np.float16).tobytes() for half in (0, 1)]
    coded = [base64.b64encode(half).decode() for half in halves]
    return f"{key}\t{number:064x}\t{coded[0] if image is None else image}\t{coded[1]}\n".encode()


def write(folder, shards=SHARDS, each=EACH, replaced=None, stated=None):
    """Feature TSVs of `write_pool`'s shards; `replaced` has other lines for some numbers."""
    folder.mkdir(exist_ok=True)
    counts = {}
    for shard in range(shards):
        lines, starts = [], [0]
        for number in range(shard * each, (shard + 1) * each):
            key = f"{shard:05}{number % each:04}"
            lines.append((replaced or {}).get(number, line(key, number)))
            starts.append(starts[-1] + len(lines[-1]))
        (folder / f"{shard:05}.tsv").write_bytes(b"".join(lines))
        (folder / f"{shard:05}.lineidx").write_text("".join(f"{start}\n" for start in starts[:-1]))
        counts[f"{shard:05}"] = each
    (folder / "metafile.json").write_text(json.dumps(stated or counts))
    return folder


def numbers(embeddings):
    return [int(key[:5]) * EACH + int(key[5:]) for key in column(embeddings, "key")]


def test_every_line_becomes_its_pair_normalised(tmp_path, model):
    found = import_embeddings(write(tmp_path / "tsv"), model, out=tmp_path / "out", part_rows=EACH)
    assert numbers(found) == list(range(SHARDS * EACH)) and [part.rows for part in found.parts] == [EACH] * SHARDS
    for half, name in enumerate(("image", "text")):
        wanted = np.stack([vector(number, half) for number in range(SHARDS * EACH)])
        np.testing.assert_allclose(taken(found, name), wanted, atol=5e-4)
        norms = np.linalg.norm(taken(found, name).astype(np.float64), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-3)
    assert column(found, "sha256") == [number.to_bytes(32, "big") for number in range(SHARDS * EACH)]
    assert column(found, "shard") == [f"{number // EACH:05}" for number in range(SHARDS * EACH)]
    low, high = found.manifest.facts["norms"]
    assert 6.9 < low <= high < 7.1
    assert not found.has_pictures and found.skipped.num_rows == 0


def test_joined_with_the_pool_a_row_leads_to_its_picture(tmp_path, model):
    pool = write_pool(tmp_path / "pool", SHARDS, EACH)
    found = import_embeddings(write(tmp_path / "tsv"), model, out=tmp_path / "out", pool=str(pool))
    assert found.has_pictures
    found.check_pool()
    captions = column(found, "caption")
    for row, number in enumerate(numbers(found)):
        ext = ("jpg", "png", "webp")[number % 3]
        assert found.read_image(0, row) == drawing(number, ext)
        assert captions[row].endswith(f"thing {number % 9}")
    assert column(found, "ext")[:3] == ["jpg", "png", "webp"]
    rows = found.shards.to_pylist()
    assert [(row["shard"], row["part"], row["first_row"], row["rows"]) for row in rows] == [
        (f"{shard:05}.tar", 0, shard * EACH, EACH) for shard in range(SHARDS)
    ]


def test_a_row_that_the_pool_lacks_shifts_no_other(tmp_path, model):
    """Joins are by (shard, key): features of a pool that has lost and gained samples keep their own pictures."""
    replaced = {3: line("000009999", 3), 9: line("000010005", 9), 13: line("000010001", 13)}
    pool = write_pool(tmp_path / "pool", SHARDS, EACH)
    found = import_embeddings(write(tmp_path / "tsv", replaced=replaced), model, out=tmp_path / "out", pool=str(pool))
    skipped = {(row["shard"], row["key"], row["reason"]) for row in found.skipped.to_pylist()}
    assert skipped == {("00000", "000009999", "not in the pool")}
    images = taken(found, "image")
    for row, key in enumerate(column(found, "key")):
        place = int(key[:5]) * EACH + int(key[5:])
        meant = {9: 13, 13: 9}.get(place, place)  # these two lines had each other's key
        assert found.read_image(0, row) == drawing(place, ("jpg", "png", "webp")[place % 3])
        np.testing.assert_allclose(images[row], vector(meant, 0), atol=5e-4)


BAD = {
    "bad base64": line("k", 2, image="!!!!"),
    "wrong width": line("k", 2, image=base64.b64encode(b"\0" * 62).decode()),
    "wrong columns": b"k\tonly two\n",
    "missing key": line("", 2),
    "oversized line": b"k" * (features.MAX_LINE + 9) + b"\n",
    "NaN or infinity": line("k", 2, image=base64.b64encode(np.full(DIM, np.nan, np.float16).tobytes()).decode()),
    "zero vector": line("k", 2, image=base64.b64encode(np.zeros(DIM, np.float16).tobytes()).decode()),
    "duplicate key": line("000000001", 2),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_line_is_listed_and_the_others_are_taken(tmp_path, model, reason, capsys):
    found = import_embeddings(write(tmp_path / "tsv", replaced={2: BAD[reason]}), model, out=tmp_path / "out")
    assert numbers(found) == [number for number in range(SHARDS * EACH) if number != 2]
    (row,) = found.skipped.to_pylist()
    assert (row["shard"], row["reason"]) == ("00000", reason) and row["detail"]
    assert found.manifest.counts[f"skipped: {reason}"] == 1
    assert f"1 skipped (1 {reason})" in capsys.readouterr().out


def test_a_cut_or_stale_tsv_is_listed(tmp_path, model):
    write(tmp_path / "tsv", stated={"00000.tar": EACH, "00001.tar": EACH + 4, "00002.tar": EACH})
    data = (tmp_path / "tsv" / "00002.tsv").read_bytes()
    (tmp_path / "tsv" / "00002.tsv").write_bytes(data[: len(data) - len(line("000020007", 23)) - 40])
    found = import_embeddings(tmp_path / "tsv", model, out=tmp_path / "out")
    listed = [(row["shard"], row["key"], row["reason"]) for row in found.skipped.to_pylist()]
    assert listed[0] == ("00001", "", "other row count")
    assert listed[1] == ("00002", "000020006", "wrong width") or listed[1][2] == "bad base64"
    assert listed[2:] == [("00002", "", "other row count")] * 2
    assert len(found) == SHARDS * EACH - 2


FAULTS = {
    "a metafile that is none": (
        lambda f: (f / "metafile.json").write_text("[1]"),
        r"metafile\.json: is no json object",
    ),
    "a missing TSV": (lambda f: (f / "00001.tsv").unlink(), r"00001\.tsv is not there"),
    "no features": (
        lambda f: [path.write_text("path\tcaption\nx.jpg\ta cat\n") for path in f.glob("*.tsv")],
        "no line is `key, SHA-256",
    ),
    "empty": (lambda f: [path.write_text("") for path in f.glob("*.tsv")], "no line is `key, SHA-256"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named_before_any_work(tmp_path, model, case):
    break_it, says = FAULTS[case]
    break_it(write(tmp_path / "tsv"))
    with pytest.raises(ReactvlError, match=says):
        import_embeddings(tmp_path / "tsv", model, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_features_of_another_model_are_refused(tmp_path, model):
    (tmp_path / "tsv").mkdir()
    coded = base64.b64encode(np.ones(48, np.float16).tobytes()).decode()
    (tmp_path / "tsv" / "00000.tsv").write_text(f"k\t{'0' * 64}\t{coded}\t{coded}\n" * 3)
    with pytest.raises(ReactvlError, match=r"vectors have 48 dimensions, those of .* 32"):
        import_embeddings(tmp_path / "tsv", model, out=tmp_path / "out")


def test_a_pool_without_the_features_shards_is_refused(tmp_path, model):
    pool = write_pool(tmp_path / "pool", SHARDS - 1, EACH)
    write(tmp_path / "tsv")
    with pytest.raises(ReactvlError, match=r"no shard 00002\.tar"):
        import_embeddings(tmp_path / "tsv", model, out=tmp_path / "out", pool=str(pool))
    twice = [str(pool), str(write_pool(tmp_path / "more", SHARDS, EACH))]
    with pytest.raises(ReactvlError, match=r"several shards 00000\.tar"):
        import_embeddings(tmp_path / "tsv", model, out=tmp_path / "out", pool=twice)
    with pytest.raises(ReactvlError, match="--keys is for FAISS files"):
        import_embeddings(tmp_path / "tsv", model, out=tmp_path / "out", keys="image")


def test_a_source_without_one_usable_row_is_an_error(tmp_path, model):
    replaced = {number: line("", number) for number in range(SHARDS * EACH)}
    with pytest.raises(ReactvlError, match=r"not one of its rows can be used.*24 missing key"):
        import_embeddings(write(tmp_path / "tsv", replaced=replaced), model, out=tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(st.binary(max_size=40), max_size=6).map(b"\t".join)))
def test_any_line_is_a_row_or_says_why_not(data):
    row = features.parsed(data, 1, 4, set())
    if isinstance(row, Dropped):
        assert row.reason and row.detail
    else:
        key, sha256, image, text = row
        assert key and (sha256 is None or len(sha256) == 32) and image.shape == text.shape == (4,)


@settings(max_examples=50, deadline=None)
@given(
    key=st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=20),
    image=st.lists(st.floats(width=16), min_size=4, max_size=4),
    digest=st.binary(min_size=32, max_size=32),
)
def test_a_written_line_is_read_back(key, image, digest):
    half = np.array(image, np.float16)
    coded = base64.b64encode(half.tobytes()).decode()
    row = features.parsed(f"{key}\t{digest.hex()}\t{coded}\t{coded}\n".encode(), 1, 4, set())
    assert (row[0], row[1]) == (key, digest)
    np.testing.assert_array_equal(row[2], half)


def test_long_lines_are_passed_over_in_bounded_memory(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"a\n" + b"b" * (3 * features.MAX_LINE) + b"\nc\n" + b"d" * features.MAX_LINE + b"\ne")
    read = list(features.lines(path))
    assert [row[:1] for row in read] == [b"a", b"b", b"c", b"d", b"e"]
    assert max(map(len, read)) == features.MAX_LINE + 1
