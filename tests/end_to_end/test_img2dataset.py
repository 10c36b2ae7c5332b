"""img2dataset itself, from its own environment, between our retrieval and our training, on a web as rotten as the real one.

    .venv/bin/python benchmarks/environments/make.py img2dataset
    .venv/bin/python -m pytest -m slow -s tests/end_to_end/test_img2dataset.py     # prints the figures of docs/choosing-a-pool.md

The pictures are the demo's, on a server of this machine (`picture_server.py`). The pool of URLs is made as publishers make
theirs: vectors, captions and URLs, no shards.
"""

import http.client
import importlib.util
import io
import json
import lzma
import os
import re
import shlex
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import typed
from picture_server import FATES, PAGE, PictureServer, dealt, serving
from PIL import Image
from tests_support import drawing

from reactvl.catalog import catalog
from reactvl.embed import embed
from reactvl.handles.embeddings import Embeddings
from reactvl.handles.pairs import Pairs

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "choosing-a-pool.md"
BASE = ROOT / "demo" / "base"
SHARDS = ("00000", "00006")
# REFERENCE: as used for the released pairs, but for the number of processes (64 there)
RELEASED = (
    "--input_format parquet --url_col URL --caption_col TEXT --output_format webdataset --processes_count 1 "
    "--thread_count 12 --image_size 384 --resize_only_if_bigger=True --resize_mode=keep_ratio --skip_reencode=True"
)
SHARES = {  # of the pool's rows, by fate; the rest is served
    "missing": 0.08,
    "redirected": 0.04,
    **dict.fromkeys(("removed", "forbidden", "busy", "refused", "unresolvable", "slow", "dropped"), 0.02),
    **dict.fromkeys(("truncated", "page", "text", "empty", "opted out", "endless"), 0.02),
}
OUTCOMES = {  # status and beginning of the message that img2dataset 1.47 gives a fate
    "served": ("success", ""),
    "redirected": ("success", ""),
    "missing": ("failed_to_download", "HTTP Error 404"),
    "removed": ("failed_to_download", "HTTP Error 410"),
    "forbidden": ("failed_to_download", "HTTP Error 403"),
    "busy": ("failed_to_download", "HTTP Error 503"),
    "refused": ("failed_to_download", "<urlopen error [Errno 111] Connection refused>"),
    "unresolvable": ("failed_to_download", "<urlopen error [Errno -"),
    "slow": ("failed_to_download", "timed out"),
    "dropped": ("failed_to_download", "IncompleteRead"),
    "opted out": ("failed_to_download", "Use of image disallowed by X-Robots-Tag directive"),
    "endless": ("failed_to_download", "HTTP Error 302"),
    "page": ("failed_to_resize", "Image decoding error"),
    "text": ("failed_to_resize", "Image decoding error"),
    "truncated": ("failed_to_resize", "Image decoding error"),
    "empty": ("failed_to_resize", "OpenCV"),
}
CLASSES = 40
PER_CLASS = 12
TUNE = (
    "--tune",
    "locked-text",
    "--freeze",
    r"visual\.conv1\.stem\..*",
    "--steps",
    4,
    "--batch-size",
    32,
    "--workers",
    1,
)


class Web(NamedTuple):
    """`shown`: the pool as its publisher embedded it. `names`: of its rows' pictures, in order."""

    home: Path
    server: PictureServer
    shown: Embeddings
    names: list[str]


@pytest.fixture(scope="module")
def tool() -> Path:
    """img2dataset's command; without its environment the tests that need it are skipped."""
    place = ROOT / "benchmarks" / "environments" / "make.py"
    spec = importlib.util.spec_from_file_location("environments_make", place)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    python = make.interpreter("img2dataset")
    if python is None:
        pytest.skip("needs img2dataset: .venv/bin/python benchmarks/environments/make.py img2dataset")
    return python.with_name("img2dataset")


@pytest.fixture(scope="module")
def web(tool, tmp_path_factory) -> Web:
    """Two of the demo's shards as their publisher knows them, and a server of their pictures with fates dealt out."""
    home = tmp_path_factory.mktemp("web")
    (home / "published").mkdir()
    for shard in SHARDS:
        packed = (ROOT / "demo" / "pool" / f"{shard}.tar.xz").read_bytes()
        (home / "published" / f"{shard}.tar").write_bytes(lzma.decompress(packed))
    names = (ROOT / "demo" / "classes.txt").read_text().splitlines()[:CLASSES]
    (home / "classes.txt").write_text("\n".join(names) + "\n")
    reactvl("embed", home / "published", "--model", BASE, "--out", home / "shown")
    shown = Embeddings(home / "shown")
    rows = shown.parts[0].metadata(["shard", "key", "ext", "offset", "size"]).to_pylist()
    pictures = {}
    for number, row in enumerate(rows):
        data = shown.read_bytes(row["shard"], row["offset"], row["size"])
        name = f"{row['shard'][:5]}/{row['key']}.{row['ext']}"
        pictures[name] = larger(data) if number % 25 == 0 else data
    listed = list(pictures)
    fates = dealt(listed, {fate: round(share * len(listed)) for fate, share in SHARES.items()})
    for name in listed[::8]:
        pictures[f"copy/{name}"] = pictures[name]
    with serving(pictures, fates) as server:
        yield Web(home, server, shown, listed)


def reactvl(*args: object) -> str:
    done = typed(*args)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def larger(data: bytes) -> bytes:
    """A picture of the size that the web has them in: larger than what is asked for, with the form that it has."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.resize((600, 450), Image.Resampling.BICUBIC).save(file, picture.format)
    return file.getvalue()


def fetch(tool: Path, urls: Path, options: str, out: Path) -> str:
    """Run img2dataset as a user types it; returns what it says."""
    words = [str(tool), "--url_list", str(urls), *shlex.split(options), "--output_folder", str(out)]
    quiet = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}  # which would ask the internet for a newer one
    quiet.pop("PYTHONPATH", None)  # ours is not its
    done = subprocess.run(words, capture_output=True, text=True, env=quiet, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def name_of(url: str) -> str:
    return url.split("/", 3)[3]


def stats_of(pool: Path) -> dict:
    """img2dataset's own counts of one shard."""
    return json.loads((pool / "00000_stats.json").read_text())


def published(web: Web, folder: Path) -> Path:
    """Embeddings as LAION publishes them: two halves and metadata in its words, no hash and no shard. Every eighth picture
    stands there again under another URL, every eleventh under the same URL with another caption."""
    part = web.shown.parts[0]
    captions = part.metadata(["caption"])["caption"].to_pylist()
    row = np.arange(part.rows)
    urls = [web.server.url(name) for name in web.names]
    urls += [web.server.url(f"copy/{name}") for name in web.names[::8]]
    urls += [web.server.url(name) for name in web.names[::11]]
    captions += captions[::8] + [f"{caption} (free download)" for caption in captions[::11]]
    rows = np.concatenate([row, row[::8], row[::11]])
    columns = {
        "image_path": [f"{number:09}" for number in range(len(rows))],
        "caption": captions,
        "url": urls,
        "NSFW": ["UNLIKELY"] * len(rows),
        "similarity": np.linspace(0.28, 0.4, len(rows)),
        "LICENSE": ["?"] * len(rows),
    }
    for half, vectors in (("img_emb", part.images()), ("text_emb", part.texts())):
        (folder / half).mkdir(parents=True)
        np.save(folder / half / f"{half}_0000.npy", np.asarray(vectors)[rows])
    (folder / "metadata").mkdir()
    pq.write_table(pa.table(columns), folder / "metadata" / "metadata_0000.parquet")
    return folder


@pytest.fixture(scope="module")
def asked(web) -> Pairs:
    """The pairs that are retrieved from the pool of URLs."""
    folder = published(web, web.home / "laion")
    out = web.home / "asked"
    said = reactvl(
        *("retrieve", folder, "--model", BASE, "--classes", web.home / "classes.txt", "--templates"),
        *(ROOT / "demo" / "templates.txt", "--per-class", PER_CLASS, "--out", out),
    )
    assert f"img2dataset --url_list {out / 'pairs.parquet'} --input_format parquet --url_col URL" in said
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
    missing = [name_of(url) for url, fate in fates.items() if fate == "missing"]
    assert all(web.server.asked[name] - before[name] == 3 for name in missing)
    reactvl("embed", pool, "--model", BASE, "--out", out)
    found = Embeddings(out).parts[0].metadata(["url", "class", "rank", "similarity", "prompt"]).to_pylist()
    wanted = {row["URL"]: row for row in asked.table(["URL", "class", "rank", "similarity", "prompt"]).to_pylist()}
    for row in found:
        want = wanted[row["url"]]
        assert (row["class"], row["rank"], row["prompt"]) == (want["class"], want["rank"], want["prompt"])
        assert row["similarity"] == pytest.approx(want["similarity"])


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


CAPTIONS = ['a "quoted" word', '" a sign of quotation begins this', "O'Neill & sons — 東京 <b>", "1970", '"all of it"']


@pytest.mark.slow
def test_cc3m_from_its_tsv(web, tool):
    """The blocks of docs/choosing-a-pool.md make of a list without a header one of which every line comes; its `sed` makes one
    that img2dataset takes too, as long as no caption begins with a quotation mark."""
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

    plain = [place for place, caption in enumerate(captions) if not caption.startswith('"')]
    (web.home / "Train_GCC-training.tsv").write_text("".join(lines[place] for place in plain))
    subprocess.run(["sh", "-ec", block("sh run", "sed ")], check=True, cwd=web.home)
    fetch(tool, web.home / "cc3m.tsv", released.replace("parquet", "tsv") + " --timeout 2", web.home / "of-tsv")
    assert pairs_in(web.home / "of-tsv") == sorted((captions[place], urls[place]) for place in plain)

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


def test_the_servers_fates_are_what_they_say():
    """What urllib, by which img2dataset fetches, meets at each of them."""
    names = {fate: f"{fate.replace(' ', '-')}.jpg" for fate in FATES}
    picture = drawing(1)
    with serving(dict.fromkeys(names.values(), picture), {name: fate for fate, name in names.items()}) as web:
        for fate, name in names.items():
            if fate in ("served", "redirected"):
                assert got(web.url(name)) == picture
            elif fate in OPENED:
                assert got(web.url(name)) == OPENED[fate](picture)
            else:
                with pytest.raises(FAULTS[fate]):
                    got(web.url(name), timeout=0.2)
        assert got(web.url(names["busy"])) == picture  # the second time
        with urllib.request.urlopen(web.url(names["opted out"])) as answer:
            assert answer.headers["X-Robots-Tag"] == "noai, noindex"
        assert web.asked[names["served"]] == 1 and web.asked[names["redirected"]] == 2


OPENED = {
    "truncated": lambda picture: picture[: len(picture) // 2],
    "page": lambda _: PAGE,
    "text": lambda _: b"Moved to our new site!\n",
    "empty": lambda _: b"",
    "opted out": lambda picture: picture,
}
FAULTS = {
    **dict.fromkeys(("missing", "removed", "forbidden", "busy", "endless"), urllib.error.HTTPError),
    **dict.fromkeys(("refused", "unresolvable"), urllib.error.URLError),
    "slow": TimeoutError,
    "dropped": http.client.IncompleteRead,
}


def got(url: str, timeout: float = 10) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read()


def test_embed_and_catalog_say_what_became_of_the_links(tmp_path, small_model, capsys):
    """Of shards as img2dataset lays them: the counts of its side files in the manifest, and the rate in a line."""
    lost = ["HTTP Error 404: Not Found"] * 3 + ["timed out", "IncompleteRead(9 bytes read, 1 more expected)"]
    for shard in range(2):
        write_downloads(tmp_path / "pool", shard, fetched=6 * (1 - shard), lost=lost)
    line = "of 16 pictures asked for, 6 were fetched (37.5%); lost: 6 HTTP Error 404: Not Found, 2 IncompleteRead, 2 timed out"
    ended = {"success": 6, "HTTP Error 404: Not Found": 6, "IncompleteRead": 2, "timed out": 2}
    found = embed(str(tmp_path / "pool"), small_model, out=tmp_path / "embeddings", device="cpu")
    assert len(found) == 6 and found.manifest.facts["downloads"] == ended
    assert f"embed: {line}\n" in capsys.readouterr().out
    known = catalog(str(tmp_path / "pool"), out=tmp_path / "catalog")
    assert known.manifest.facts["downloads"] == ended
    assert f"catalog: {line}\n" in capsys.readouterr().out


def write_downloads(pool: Path, shard: int, fetched: int, lost: list[str]) -> None:
    """A shard and its side file: rows of failed downloads stand in the latter alone, among the others."""
    pool.mkdir(exist_ok=True)
    rows = []
    with tarfile.open(pool / f"{shard:05}.tar", "w") as tar:
        for place in range(fetched + len(lost)):
            why = lost[place] if place < len(lost) else None
            key = f"{shard:05}{place:04}"
            status = "failed_to_download" if why else "success"
            rows.append({"key": key, "url": f"https://x.example/{key}", "status": status, "error_message": why})
            bodies = {} if why else {"jpg": drawing(place), "txt": b"a thing", "json": json.dumps(rows[-1]).encode()}
            for ext, body in bodies.items():
                member = tarfile.TarInfo(f"{key}.{ext}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    pq.write_table(pa.Table.from_pylist(rows), pool / f"{shard:05}.parquet")
