"""Photographs to measure with: distinct crops of 384 px from packaged ones, each listed with its hash.

    .venv/bin/python benchmarks/photographs.py --count 240

Debian's `scratch` (photographs of 480 x 360) and `mate-backgrounds` (large ones) are fetched by `apt-get download` and
unpacked into the cache, nothing is installed; `--from DIR` takes a folder of JPEGs instead, where there is no Debian.
Small photographs give one crop, large ones many that do not overlap; crops without detail (sky) are left out. All are
encoded again at qualities 85 to 95. Captions are written by rule from the photograph's name and place, every one
different and of the usual length, since nothing here depends on what they say.
"""

import argparse
import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import measuring
import numpy as np
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.pool.writer import ShardWriter

PACKAGES = {"scratch": "usr/share/scratch/Media/Backgrounds", "mate-backgrounds": "usr/share/backgrounds/mate"}
SIDE = 384
COUNT = 240
LEAST_DETAIL = 12.0  # standard deviation of grey values
DRAWN = ("Elephants", "GreenTraditional")  # of mate-backgrounds: drawings
SIZE = (480, 360)  # of scratch's photographs; its drawings are of other sizes


class Photograph(NamedTuple):
    """One crop: JPEG bytes, its caption, the file it is from and where in it it lies."""

    data: bytes
    caption: str
    source: str
    box: tuple[int, int, int, int]
    quality: int


def photographs(count: int, cache: Path, own: Path | None = None) -> list[Photograph]:
    """`count` distinct crops; ReactvlError when the sources give fewer. Made once a cache: the files lie in it."""
    home = cache / "photographs"
    files = sources(cache, own)
    key = hashlib.sha256(json.dumps([listed(files), count]).encode()).hexdigest()[:8]
    index = home / f"{count}-{key}.json"
    if not index.exists():
        home.mkdir(parents=True, exist_ok=True)
        made = list(crops(files, count))
        if len(made) < count:
            raise ReactvlError(
                f"{len(files)} photographs give {len(made)} crops, {count} wanted; add more by --from DIR"
            )
        for photograph in made:
            (home / name_of(photograph.data)).write_bytes(photograph.data)
        entries = [photograph._replace(data=name_of(photograph.data)) for photograph in made]
        index.write_text(json.dumps(entries, indent=1))
    read = (Photograph(*entry) for entry in json.loads(index.read_text()))
    return [each._replace(data=(home / each.data).read_bytes(), box=tuple(each.box)) for each in read]


def name_of(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()[:32]}.jpg"


def sources(cache: Path, own: Path | None) -> list[Path]:
    """The photographs, sorted by name; packages are fetched when they are not in the cache."""
    if own:
        return sorted(path for path in own.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    found = []
    for package, place in PACKAGES.items():
        folder = cache / "packages" / package
        if not folder.exists():
            fetch(package, folder)
        for path in sorted((folder / place).rglob("*.jpg")):
            if package != "scratch" and not path.stem.startswith(DRAWN):
                found.append(path)
            elif package == "scratch":
                with Image.open(path) as image:
                    if image.size == SIZE:
                        found.append(path)
    return found


def fetch(package: str, folder: Path) -> None:
    """Download a Debian package and unpack its files under `folder`."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ReactvlError(
                f"{tool} is not here to fetch the photographs of {package}; give a folder of JPEGs by --from DIR"
            )
    work = folder.with_name(f".{package}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    done = subprocess.run(["apt-get", "download", package], cwd=work, capture_output=True, text=True)
    archives = list(work.glob("*.deb"))
    if done.returncode or not archives:
        raise ReactvlError(
            f"apt-get download {package}: {done.stderr.strip() or 'brought nothing'}; or give --from DIR"
        )
    subprocess.run(["dpkg-deb", "-x", archives[0].name, "files"], cwd=work, check=True)
    (work / "files").rename(folder)
    shutil.rmtree(work)


def crops(files: list[Path], count: int) -> Iterator[Photograph]:
    """Distinct crops in turns over the files, so that any count is spread over all of them."""
    seen: set[str] = set()
    turns = [tiles(path) for path in files]
    while turns and len(seen) < count:
        for tile in list(turns):
            found = next(tile, None)
            if found is None:
                turns.remove(tile)
                continue
            path, place, box, image = found
            if np.asarray(image.convert("L")).std() < LEAST_DETAIL:
                continue
            quality = 85 + len(seen) % 11
            data = encoded(image, quality)
            digest = hashlib.sha256(data).hexdigest()
            if digest not in seen and len(seen) < count:
                seen.add(digest)
                yield Photograph(data, caption(path, place, len(seen)), path.name, box, quality)


def tiles(path: Path) -> Iterator[tuple[Path, str, tuple[int, int, int, int], Image.Image]]:
    """Crops of SIDE px: of a photograph that is hardly larger one, of a large one the whole (made smaller) and then tiles
    that do not overlap, the middle ones first."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    whole = (left, top, left + short, top + short)
    yield path, "seen whole", whole, image.crop(whole).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    across, down = width // SIDE, height // SIDE
    if short < 2 * SIDE:
        return
    places = [(column, row) for column in range(across) for row in range(down)]
    places.sort(key=lambda at: ((at[0] + 0.5 - across / 2) ** 2 + (at[1] + 0.5 - down / 2) ** 2, at))
    for column, row in places:
        box = (column * SIDE, row * SIDE, (column + 1) * SIDE, (row + 1) * SIDE)
        yield path, f"row {row + 1}, column {column + 1}", box, image.crop(box)


def encoded(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def caption(path: Path, place: str, number: int) -> str:
    """Between eight and some twenty words, no two alike."""
    subject = " ".join(path.stem.replace("_", " ").replace("-", " ").split()).lower()
    endings = (
        "",
        " on a quiet morning",
        ", taken with a wide lens on a clear day in early autumn",
        " - stock photo, royalty free image",
        ", high resolution picture for desktop backgrounds and print",
    )
    return f"{subject}, {place}, photograph number {number}{endings[number % len(endings)]}"


def listed(files: list[Path]) -> list[dict[str, str]]:
    return [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in files]


def pool(folder: Path, photographs: list[Photograph], pairs: int, shard_pairs: int) -> Path:
    """A pool of `pairs` pairs in img2dataset's layout; with more pairs than photographs, they come again with other
    captions. Made once."""
    home = folder / f"pool-{pairs}-{shard_pairs}-{len(photographs)}"
    if not (home / "whole").exists():
        with ShardWriter(home, max_count=shard_pairs) as writer:
            for number in range(pairs):
                photograph = photographs[number % len(photographs)]
                turn = number // len(photographs)
                text = f"{photograph.caption} (copy {turn})" if turn else photograph.caption
                url = f"https://example.org/{number}.jpg"
                writer.write(
                    photograph.data, "jpg", text, {"url": url, "status": "success", "width": SIDE, "height": SIDE}
                )
        (home / "whole").touch()
    return home


def stand_ins(count: int) -> list[Photograph]:
    """Soft blotches of 384 px for --quick, which must not fetch anything; no figure is taken on them."""
    made = []
    for number in range(count):
        blotches = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        image = Image.fromarray(blotches).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        made.append(Photograph(encoded(image, 90), f"blotches, number {number}", "", (0, 0, SIDE, SIDE), 90))
    return made


def given_crops(given: argparse.Namespace) -> list[Photograph]:
    """What a benchmark runs on: all the crops, or stand-ins with --quick."""
    return stand_ins(16) if given.quick and not given.own else photographs(COUNT, given.cache, given.own)


def options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark on photographs takes."""
    parser.add_argument("--from", dest="own", type=Path, help="a folder of JPEGs in the place of Debian's photographs")


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--count", type=int, default=COUNT)
    options(parser)
    given = measuring.parsed(parser, {"count": 8})
    made = photographs(given.count, given.cache, given.own)
    sizes = [len(each.data) for each in made]
    files = len({each.source for each in made})
    print(f"{len(made)} crops of {SIDE} px from {files} photographs, {np.median(sizes):,.0f} bytes in the median")
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
        about = {"side": SIDE, "crops": len(made), "sources": listed(sources(given.cache, given.own))}
        (given.results / "photographs.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
