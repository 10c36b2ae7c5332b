"""The commands of docs/coming-from-react.md, run as they stand there on a few of the demo's pictures.

Only the model (the demo's base) and the number of pairs a prompt are put in place of the guide's.
"""

import base64
import json
import re
import shlex
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from reactvl.cli import main
from reactvl.demo import unpack
from reactvl.pool.reader import read_image
from reactvl.pool.tars import catalogue
from reactvl.pool.writer import ShardWriter
from reactvl.tasks.benchmarks import benchmark

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "coming-from-react.md"
PER_SHARD, SHARDS, PER_PROMPT = 24, 3, 5
UNCAPTIONED = ("00001", "000010019")  # one of these pictures of the demo has no caption


def commands() -> dict[str, list[list[str]]]:
    """The guide's commands by verb, in its order."""
    found = defaultdict(list)
    for block in re.findall(r"```sh run\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        for line in block.splitlines():
            name, verb, *arguments = shlex.split(line)
            assert name == "reactvl"
            found[verb].append(arguments)
    return dict(found)


def typed(verb: str, number: int = 0) -> int:
    base = str(ROOT / "demo" / "base")
    arguments = [base if one == "ViT-B-32:openai" else one for one in commands()[verb][number]]
    if "--per-prompt" in arguments:
        arguments[arguments.index("--per-prompt") + 1] = str(PER_PROMPT)
    return main([verb, *arguments])


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """A pool of three shards, cut from as many of the demo's."""
    unpack(ROOT / "demo")
    home = tmp_path_factory.mktemp("react")
    shards = [
        ROOT / "demo" / "pool" / one["name"] for one in tomllib.loads((ROOT / "demo/pool.toml").read_text())["shard"]
    ]
    with ShardWriter(home / "pool", max_count=PER_SHARD) as writer:
        for shard in shards[:SHARDS]:
            for sample in catalogue(shard).samples[:PER_SHARD]:
                writer.write(read_image(shard, sample.offset, sample.size), sample.ext, sample.caption, {})
    return home / "pool"


@pytest.fixture(scope="module")
def home(pool) -> Path:
    """The folder in which the guide's commands are typed."""
    patch = pytest.MonkeyPatch()
    patch.chdir(pool.parent)
    yield pool.parent
    patch.undo()


@pytest.fixture(scope="module")
def embedded(home) -> Path:
    assert typed("embed", 0) == 0 and not (home / "run/embeddings/manifest.json").exists()  # the first chunk of two
    assert typed("embed", 1) == 0
    return home / "run/embeddings"


@pytest.fixture(scope="module")
def indexed(embedded) -> Path:
    assert typed("index", 0) == typed("index", 1) == 0
    return embedded.parent


@pytest.fixture(scope="module")
def retrieved(indexed) -> Path:
    assert typed("retrieve") == 0
    return indexed / "retrieved"


def keys_in(pool: Path) -> list[tuple[str, str]]:
    return [(path.stem, sample.key) for path in sorted(pool.glob("*.tar")) for sample in catalogue(path).samples]


def usable(pool: Path) -> list[tuple[str, str]]:
    return [key for key in keys_in(pool) if key != UNCAPTIONED]


def rows(folder: Path) -> list[dict]:
    return [
        row for path in sorted(folder.glob("metadata/metadata_*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def stem(shard: str) -> str:
    return shard.removesuffix(".tar")


def test_every_verb_of_the_guide_is_there():
    assert {verb: len(given) for verb, given in commands().items()} == {
        "embed": 2,
        "index": 2,
        "catalog": 1,
        "retrieve": 1,
        "export": 2,
        "import": 1,
    }


def test_features_of_every_pair_once_in_two_chunks(pool, embedded):
    expected = usable(pool)
    assert [(stem(row["shard"]), row["key"]) for row in rows(embedded)] == expected
    [skipped] = pq.read_table(embedded / "skipped.parquet").to_pylist()
    assert (stem(skipped["shard"]), skipped["key"]) == UNCAPTIONED and skipped["reason"] == "no caption"
    for half in ("img_emb", "text_emb"):
        vectors = np.concatenate([np.load(path) for path in sorted((embedded / half).glob("*.npy"))])
        assert vectors.dtype == np.float16 and len(vectors) == len(expected)
        np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=2e-3)


def test_the_catalogue_needs_no_model(pool, home):
    assert typed("catalog") == 0
    found = rows(home / "run/catalog")
    assert [(stem(row["shard"]), row["key"]) for row in found] == keys_in(pool)
    row = found[PER_SHARD + 1]
    body = (pool / f"{stem(row['shard'])}.tar").read_bytes()[row["offset"] : row["offset"] + row["size"]]
    sample = catalogue(pool / "00001.tar").samples[1]
    assert body == read_image(pool / "00001.tar", sample.offset, sample.size) and row["caption"] == sample.caption


def test_an_index_a_side(pool, indexed):
    import faiss

    for keys in ("image", "text"):
        folder = indexed / f"index-{keys}"
        index = faiss.read_index(str(folder / "index.faiss"))
        assert (index.ntotal, index.metric_type) == (len(usable(pool)), faiss.METRIC_INNER_PRODUCT)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["stage"] == "index" and manifest["options"]["keys"] == keys


def test_every_prompt_finds_its_number_and_every_find_is_kept(pool, retrieved):
    task = benchmark("caltech-101")
    queries = pq.read_table(retrieved / "queries.parquet").to_pylist()
    assert [query["prompt"] for query in queries] == [
        template.replace("{}", entry.name) for entry in task.classes for template in task.templates
    ]
    hits = pq.read_table(retrieved / "hits.parquet").to_pylist()
    assert Counter(hit["query"] for hit in hits) == dict.fromkeys(range(len(queries)), PER_PROMPT)
    of_class = defaultdict(set)
    for hit in hits:
        of_class[queries[hit["query"]]["class_id"]].add((hit["part"], hit["row"]))
    pairs = pq.read_table(retrieved / "pairs.parquet").to_pylist()
    chosen = defaultdict(set)
    for pair in pairs:
        chosen[pair["class_id"]].add((pair["part"], pair["row"]))
        assert pair["class"] == task.class_names[pair["class_id"]] and pair["mode"] == "t2i"
    assert chosen == of_class and len(chosen) == 102
    assert {(stem(pair["shard"]), pair["key"]) for pair in pairs} <= set(usable(pool))


def test_the_released_tree_of_files(pool, home, retrieved):
    assert typed("export", 0) == 0
    tree = home / "run/tree"
    pairs = pq.read_table(retrieved / "pairs.parquet").to_pylist()
    folder_of = {
        name: re.sub(r"[^0-9A-Za-z_]", "_", re.sub(r"[^0-9A-Za-z_]+", "_", name))
        for name in {p["class"] for p in pairs}
    }
    of_class = defaultdict(list)
    for pair in pairs:
        of_class[folder_of[pair["class"]]].append(pair)
    assert {path.name for path in (tree / "images/caltech-101").iterdir()} == set(of_class)
    assert {path.name for path in (tree / "metas/caltech-101").iterdir()} == {f"{name}.json" for name in of_class}
    for name, expected in of_class.items():
        files = sorted((tree / "images/caltech-101" / name).iterdir())
        pictures = [path for path in files if path.suffix != ".txt"]
        assert sorted(path.read_bytes() for path in pictures) == sorted(picture_of(pool, pair) for pair in expected)
        assert sorted(path.read_text() for path in files if path.suffix == ".txt") == sorted(
            p["TEXT"] for p in expected
        )
        meta = json.loads((tree / "metas/caltech-101" / f"{name}.json").read_text())
        assert set(meta) == {path.name for path in pictures}
        for told in meta.values():
            assert all(set(one) == {"query", "dist"} and -1 <= one["dist"] <= 1 for one in told["search_meta"])
            assert told["search_meta"]


def test_the_chosen_pairs_as_files(pool, home, retrieved):
    assert typed("export", 1) == 0
    pairs = pq.read_table(retrieved / "pairs.parquet").to_pylist()
    files = [path for path in (home / "run/files").rglob("*") if path.suffix in (".jpg", ".png", ".webp", ".txt")]
    assert len([path for path in files if path.suffix == ".txt"]) == len(pairs)
    assert Counter(path.read_bytes() for path in files if path.suffix != ".txt") == Counter(
        picture_of(pool, pair) for pair in pairs
    )


def picture_of(pool: Path, pair: dict) -> bytes:
    return read_image(pool / f"{stem(pair['shard'])}.tar", pair["offset"], pair["size"])


def test_feature_files_of_the_released_code_are_taken(home, embedded):
    """Its TSVs: key, sha256, base64 of the float16 image vector and of the text vector, not normalised."""
    image, text = (np.load(next((embedded / half).glob("*.npy"))) for half in ("img_emb", "text_emb"))
    expected = rows(embedded)
    (home / "features").mkdir()
    counts = {}
    for shard in sorted({row["shard"] for row in expected}):
        lines = []
        for number, row in enumerate(expected):
            if row["shard"] == shard:
                vectors = ((7 * half[number]).astype(np.float16).tobytes() for half in (image, text))
                fields = [row["key"], row["sha256"].hex(), *(base64.b64encode(one).decode() for one in vectors)]
                lines.append("\t".join(fields) + "\n")
        starts = np.cumsum([0, *map(len, lines[:-1])])
        (home / "features" / f"{stem(shard)}.tsv").write_text("".join(lines))
        (home / "features" / f"{stem(shard)}.lineidx").write_text("".join(f"{start}\n" for start in starts))
        counts[stem(shard)] = len(lines)
    (home / "features" / "metafile.json").write_text(json.dumps(counts))
    assert typed("import") == 0
    found = home / "run/imported"
    for column in ("shard", "key", "offset", "size", "sha256"):
        assert [row[column] for row in rows(found)] == [row[column] for row in expected]
    for half, vectors in (("img_emb", image), ("text_emb", text)):
        taken = np.concatenate([np.load(path) for path in sorted((found / half).glob("*.npy"))])
        np.testing.assert_allclose(taken.astype(np.float32), vectors.astype(np.float32), atol=1e-3)
