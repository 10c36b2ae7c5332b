"""img2dataset itself, from its own environment, between our retrieval and our training, on a web as rotten as the real one.

    .venv/bin/python benchmarks/environments/make.py img2dataset
    .venv/bin/python -m pytest -m slow -s tests/end_to_end/test_img2dataset.py     # prints the figures of docs/choosing-a-pool.md

The pictures are the demo's, on a server of this machine (`rotten_web.py`, `picture_server.py`).
"""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rotten_web
from commands import typed
from PIL import Image
from rotten_web import BASE, OUTCOMES, RELEASED, ROOT, SHARES, Web, fetch, name_of, published, stats_of

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.pairs import Pairs
from reactvl.pool.reader import read_image
from reactvl.pool.tars import scan

GUIDE = ROOT / "docs" / "choosing-a-pool.md"
CLASSES = 40
PER_CLASS = 12
TUNE = ("--tune", "locked-text", "--freeze", r"visual\.conv1\.stem\..*", "--steps", "4", "--batch-size", "32")


@pytest.fixture(scope="module")
def tool() -> Path:
    """img2dataset's command; without its environment the tests that need it are skipped."""
    return rotten_web.tool() or pytest.skip("needs .venv/bin/python benchmarks/environments/make.py img2dataset")


@pytest.fixture(scope="module")
def web(tool, tmp_path_factory) -> Iterator[Web]:
    with rotten_web.rotten_web(tmp_path_factory.mktemp("web")) as web:
        names = (ROOT / "demo" / "classes.txt").read_text().splitlines()[:CLASSES]
        (web.home / "classes.txt").write_text("\n".join(names) + "\n")
        yield web


@pytest.fixture(scope="module")
def asked(web) -> Pairs:
    """The pairs that are retrieved from the pool of URLs."""
    folder = published(web, web.home / "laion")
    out = web.home / "asked"
    said = reactvl(
        *("retrieve", folder, "--model", BASE, "--classes", web.home / "classes.txt", "--templates"),
        *(ROOT / "demo" / "templates.txt", "--per-class", PER_CLASS, "--out", out),
    )
    printed = said[said.index("img2dataset ") :].splitlines()[0]
    assert flags(printed) == flags(f"{RELEASED} --url_list {out / 'pairs.parquet'} --output_folder pool")
    return Pairs(out)


@pytest.fixture(scope="module")
def fetched(web, tool, asked) -> Path:
    """What img2dataset makes of exactly that file by exactly the released command."""
    pool = web.home / "pool"
    said = fetch(tool, asked.folder / "pairs.parquet", RELEASED, pool)
    print("\n" + next(line for line in said.splitlines() if line.startswith("total")))
    return pool


@pytest.fixture(scope="module")
def embedded(web, fetched) -> Embeddings:
    said = reactvl("embed", fetched, "--model", BASE, "--out", web.home / "embeddings")
    print("\n".join(line for line in said.splitlines() if line.startswith("embed:")))
    return Embeddings(web.home / "embeddings")


def reactvl(*args: object) -> str:
    done = typed(*args)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def flags(command: str) -> set[tuple[str, str]]:
    """A command's options, `--name value` and `--name=value` alike."""
    words = command.replace("=", " ").split()
    first = next(place for place, word in enumerate(words) if word.startswith("--"))
    return set(zip(words[first::2], words[first + 1 :: 2], strict=True))


@pytest.mark.slow
def test_what_becomes_of_every_link(web, asked, fetched):
    """Every row of pairs.parquet is asked for once and ends as its fate wants; equal URLs were joined by retrieve."""
    urls = asked.table(["URL"])["URL"].to_pylist()
    assert len(set(urls)) == len(urls) > 300
    side = pq.read_table(fetched / "00000.parquet").to_pylist()
    assert sorted(row["url"] for row in side) == sorted(urls)
    ends = Counter()
    for row in side:
        fate = web.server.fates.get(name_of(row["url"]), "served")
        ends[fate, row["status"]] += 1
        status, message = OUTCOMES[fate]
        assert row["status"] == status and (row["error_message"] or "").startswith(message), (fate, row)
    assert {fate for fate, _ in ends} == {"served", *SHARES}
    stats = stats_of(fetched)
    assert stats["count"] == len(urls) and stats["successes"] == sum(row["status"] == "success" for row in side)
    for (fate, status), count in sorted(ends.items()):
        print(f"{count:5} {fate:13} {status}")


@pytest.mark.slow
def test_embed_counts_what_img2dataset_counts(fetched, embedded):
    """The rate of success in our manifest is that of img2dataset's stats; a pair or a reason for each of its successes."""
    stats, manifest = stats_of(fetched), embedded.manifest
    ended = manifest.facts["downloads"]
    assert ended["success"] == stats["successes"] and sum(ended.values()) == stats["count"]
    assert manifest.counts["pairs"] + manifest.counts["skipped"] == stats["successes"]
    for message, count in stats["status_dict"].items():
        if message.startswith(("HTTP Error", "<urlopen", "timed out")):
            assert ended[message.splitlines()[0]] == count
    assert "IncompleteRead" in ended
    reasons = {reason.removeprefix("skipped: ") for reason in manifest.counts if reason.startswith("skipped: ")}
    assert reasons <= {"damaged image", "empty caption", "no caption"}


@pytest.mark.slow
def test_the_pairs_are_those_that_were_asked_for(web, asked, embedded):
    """URL and caption as in pairs.parquet; a JPEG of at most 384 pixels is the web's, byte for byte; larger ones shrink."""
    captions = dict(zip(*(asked.table([name])[name].to_pylist() for name in ("URL", "TEXT")), strict=True))
    rows = (
        embedded.parts[0].metadata(["shard", "ext", "offset", "size", "caption", "url", "width", "height"]).to_pylist()
    )
    shrunk = 0
    for row in rows:
        assert row["caption"] == captions[row["url"]] and row["ext"] == "jpg"
        name = name_of(row["url"])
        data, given = embedded.read_bytes(row["shard"], row["offset"], row["size"]), web.server.pictures[name]
        with Image.open(io.BytesIO(given)) as picture:
            size, jpeg = picture.size, picture.format == "JPEG"
        if min(size) > 384:
            assert (row["width"], row["height"]) == (512, 384)
            shrunk += 1
        else:
            assert (row["width"], row["height"]) == size
            assert data == given or not jpeg
    assert shrunk
    assert {"original_width", "original_height"} <= set(embedded.columns())
    for row in (hit for hit in embedded.search("a picture of a dog", k=3)):
        assert row.url in captions


@pytest.mark.slow
def test_duplicates_go_when_their_bytes_are_there(web, asked, embedded):
    """Two URLs of one picture both come; the hashes that embed makes join them, so the next retrieval keeps one."""
    copies = [name_of(url) for url in asked.table(["URL"])["URL"].to_pylist()]
    both = {name for name in copies if f"copy/{name}" in copies}
    assert both
    hashes = Counter(embedded.parts[0].metadata(["sha256"])["sha256"].to_pylist())
    assert max(hashes.values()) > 1
    out = web.home / "retrieved"
    reactvl(
        *("retrieve", embedded.folder, "--classes", web.home / "classes.txt", "--templates"),
        *(ROOT / "demo" / "templates.txt", "--per-class", PER_CLASS, "--out", out),
    )
    taken = Pairs(out).table(["sha256", "class_id"]).to_pylist()
    assert max(Counter(row["sha256"] for row in taken).values()) == 1
    print(f"{len(copies)} asked for, {len(embedded)} embedded, {len(hashes)} distinct, {len(taken)} in their classes")
    reactvl("customize", out, "--model", BASE, *TUNE, "--out", web.home / "customized")
    assert (web.home / "customized" / "manifest.json").exists()


@pytest.mark.slow
def test_customize_takes_the_shards_as_they_are(web, fetched):
    reactvl("customize", fetched, "--model", BASE, *TUNE, "--out", web.home / "of-shards")
    manifest = json.loads((web.home / "of-shards" / "manifest.json").read_text())
    assert manifest["counts"]["pairs"] <= stats_of(fetched)["successes"]


@pytest.mark.slow
def test_further_columns_and_a_second_try(web, tool, asked, fetched):
    """The options that the guide advises: columns of pairs.parquet become columns of the metadata, a retry brings what was
    only busy, and a shorter wait costs nothing but what is slow."""
    pool, out = web.home / "again", web.home / "again-embedded"
    before = web.server.asked.copy()
    columns = '\'["class","rank","similarity","prompt"]\''
    fetch(
        tool,
        asked.folder / "pairs.parquet",
        f"{RELEASED} --save_additional_columns {columns} --retries 2 --timeout 2 --min_image_size 32",
        pool,
    )
    side = pq.read_table(pool / "00000.parquet").to_pylist()
    fates = {row["url"]: web.server.fates.get(name_of(row["url"]), "served") for row in side}
    busy = [row for row in side if fates[row["url"]] == "busy"]
    assert busy and all(row["status"] == "success" for row in busy)
    trickling = [row for row in side if fates[row["url"]] == "trickling"]
    assert trickling and all(row["status"] == "success" for row in trickling)  # the timeout is of one wait
    missing = [name_of(url) for url, fate in fates.items() if fate == "missing"]
    assert all(web.server.asked[name] - before[name] == 3 for name in missing)
    reactvl("embed", pool, "--model", BASE, "--out", out)
    found = Embeddings(out).parts[0].metadata(["url", "class", "rank", "similarity", "prompt"]).to_pylist()
    wanted = {row["URL"]: row for row in asked.table(["URL", "class", "rank", "similarity", "prompt"]).to_pylist()}
    for row in found:
        want = wanted[row["url"]]
        assert (row["class"], row["rank"], row["prompt"]) == (want["class"], want["rank"], want["prompt"])
        assert row["similarity"] == pytest.approx(want["similarity"])
    reactvl(
        *("retrieve", out, "--classes", web.home / "classes.txt", "--templates", "simple", "--per-class", 5),
        *("--where", 'original_width > 500 AND "rank" < 9', "--out", web.home / "large"),
    )
    large = {row["url"] for row in side if (row["original_width"] or 0) > 500 and wanted[row["url"]]["rank"] < 9}
    assert set(Pairs(web.home / "large").table(["URL"])["URL"].to_pylist()) <= large != set()


@pytest.mark.slow
def test_what_img2dataset_does_not_look_at_embed_does(web, tool):
    """With --disable_all_reencoding every answer is a success and lies there as .jpg: pages, texts, cut files, WebPs."""
    wanted = Counter({"served": 20, "page": 4, "text": 4, "empty": 4, "truncated": 4})
    taken = []
    for name in web.names:
        fate = web.server.fates.get(name, "served")
        if wanted[fate] > 0 and name in web.server.pictures:
            wanted[fate] -= 1
            taken.append(name)
    urls = pa.table({"url": [web.server.url(name) for name in taken], "caption": [f"number {name}" for name in taken]})
    pq.write_table(urls, web.home / "raw.parquet")
    options = RELEASED.replace("URL", "url").replace("TEXT", "caption")
    fetch(tool, web.home / "raw.parquet", f"{options} --disable_all_reencoding True", web.home / "raw")
    assert stats_of(web.home / "raw")["successes"] == len(taken)
    reactvl("embed", web.home / "raw", "--model", BASE, "--out", web.home / "raw-embedded")
    found = Embeddings(web.home / "raw-embedded")
    good = {web.server.url(name) for name in taken if name not in web.server.fates}
    assert set(found.parts[0].metadata(["url"])["url"].to_pylist()) == good
    assert found.manifest.counts["skipped"] == len(taken) - len(good) == 16


@pytest.mark.slow
@pytest.mark.parametrize("form", ["files", "parquet"])
def test_its_other_formats_go_through_pack(web, tool, form):
    """Every row is there or counted as img2dataset counts it; JPEGs keep their bytes."""
    names = [name for name in web.names[:120] if web.server.fates.get(name) != "slow"]
    urls = pa.table({"url": [web.server.url(name) for name in names], "caption": [f"number {name}" for name in names]})
    pq.write_table(urls, web.home / f"{form}.parquet")
    options = RELEASED.replace("URL", "url").replace("TEXT", "caption").replace("webdataset", form)
    fetch(tool, web.home / f"{form}.parquet", options, web.home / form)
    reactvl("pack", web.home / form, "--out", web.home / f"{form}-pool")
    counts = json.loads((web.home / f"{form}-pool" / "manifest.json").read_text())["counts"]
    stats = stats_of(web.home / form)
    assert counts["pairs"] == stats["successes"]
    assert counts["skipped: download failed"] == stats["count"] - stats["successes"] > 0
    found = scan(web.home / f"{form}-pool" / "00000.tar")
    assert {sample.caption for sample in found} == {f"number {name_of(sample.url)}" for sample in found}
    jpegs = [(sample, web.server.pictures[name_of(sample.url)]) for sample in found if sample.url.endswith("jpg")]
    same = [
        read_image(web.home / f"{form}-pool" / "00000.tar", sample.offset, sample.size) == given
        for sample, given in jpegs
    ]
    assert sum(same) > 0.9 * len(same)  # all but those that were made larger


CAPTIONS = ['a "quoted" word', '" a sign of quotation begins this', "O'Neill & sons — 東京 <b>", "1970", '"all of it"']


@pytest.mark.slow
def test_cc3m_from_its_tsv(web, tool):
    """The blocks of docs/choosing-a-pool.md make of a list without a header one of which every line comes; its `sed` makes one
    that img2dataset takes too, but for quotation marks at the beginning of a caption."""
    names = web.names[1:100]
    captions = [caption or "" for caption in web.shown.parts[0].metadata(["caption"])["caption"].to_pylist()[1:100]]
    captions[: len(CAPTIONS)] = CAPTIONS
    urls = [web.server.url(name) for name in names]
    lines = [f"{caption}\t{url}\n" for caption, url in zip(captions, urls, strict=True)]
    (web.home / "Train_GCC-training.tsv").write_text("".join(lines))
    subprocess.run([sys.executable, "-c", block("python run", "quote_char=False")], check=True, cwd=web.home)
    released = RELEASED.replace("URL", "url").replace("TEXT", "caption")
    fetch(tool, web.home / "cc3m.parquet", released, web.home / "cc3m")
    assert pairs_in(web.home / "cc3m") == sorted(zip(captions, urls, strict=True))

    plain = [place for place, caption in enumerate(captions) if not caption.startswith('"') or caption == CAPTIONS[-1]]
    (web.home / "Train_GCC-training.tsv").write_text("".join(lines[place] for place in plain))
    subprocess.run(["sh", "-ec", block("sh run", "sed ")], check=True, cwd=web.home)
    fetch(tool, web.home / "cc3m.tsv", released.replace("parquet", "tsv") + " --timeout 2", web.home / "of-tsv")
    bare = {CAPTIONS[-1]: "all of it"}  # a quoted field, as CSVs have them
    came = sorted((bare.get(captions[place], captions[place]), urls[place]) for place in plain)
    assert pairs_in(web.home / "of-tsv") == came

    said = reactvl("embed", web.home / "cc3m", "--model", BASE, "--out", web.home / "cc3m-embedded")
    print("\n" + "\n".join(line for line in said.splitlines() if line.startswith("embed:")))
    reactvl(
        *("retrieve", web.home / "cc3m-embedded", "--classes", web.home / "classes.txt", "--per-class", 5),
        *("--templates", "simple", "--out", web.home / "cc3m-retrieved"),
    )
    reactvl("customize", web.home / "cc3m-retrieved", "--model", BASE, *TUNE, "--out", web.home / "cc3m-customized")


def pairs_in(pool: Path) -> list[tuple[str, str]]:
    side = pq.read_table(pool / "00000.parquet", columns=["caption", "url"]).to_pylist()
    return sorted((row["caption"], row["url"]) for row in side)


def block(mark: str, holds: str) -> str:
    """The one block of the guide with this mark and these words in it."""
    found = re.findall(rf"^```{mark}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    [text] = [text for text in found if holds in text]
    return text
