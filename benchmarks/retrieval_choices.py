"""What each choice of `reactvl retrieve` does, on the demo's pool: figures and pictures of docs/retrieval-choices.md.

    make demo                                               # once: the run that is looked at
    .venv/bin/python benchmarks/retrieval_choices.py        # prints the tables; writes docs/images/choices-*.webp

Every retrieval is one choice away from the usual one: 20 pairs a class by t2i and t2t. The truth is demo/relevance.json: which picture of
the pool shows which class. It is read here alone; retrieval sees class names. A few minutes on two cores.
"""

import argparse
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

import reactvl as rv
from reactvl.report.thumbnails import on_white

HERE = Path(__file__).parents[1]
DEMO = HERE / "demo"
PER_CLASS = 20
USUAL = {"modes": ["t2i", "t2t"], "per_class": PER_CLASS}
CHOICES: dict[str, dict[str, dict]] = {
    "What is compared": {
        "`--modes t2i`": {"modes": ["t2i"]},
        "`--modes t2t`": {"modes": ["t2t"]},
        "`--modes match`": {"modes": ["match"], "fusion": "union"},
        "`--modes t2i t2t` (default)": {},
        "`--modes t2i t2t match`": {"modes": ["t2i", "t2t", "match"]},
    },
    "How modes become one ranking": {
        "`--fusion zscore` (default)": {},
        "`--fusion union`": {"fusion": "union"},
        "`--fusion rrf`": {"fusion": "rrf"},
        "`--modes t2i match --fusion match-rerank`": {"modes": ["t2i", "match"], "fusion": "match-rerank"},
    },
    "From which score on": {
        "no threshold (default)": {},
        "`--min-score 4`": {"min_score": 4.0},
        "`--min-score 5`": {"min_score": 5.0},
        "`--min-score 6`": {"min_score": 6.0},
        "`--min-score 7`": {"min_score": 7.0},
    },
    "Which class a pair goes to": {
        "`--classes-per-pair one` (default)": {},
        "`--classes-per-pair margin`": {"classes_per_pair": "margin"},
        "`--classes-per-pair many`": {"classes_per_pair": "many"},
        "`--rivals finders`": {"rivals": "finders"},
    },
    "How many": {
        "`--per-class 5`": {"per_class": 5},
        "`--per-class 20`": {},
        "`--per-class 80`": {"per_class": 80},
        "`--per-class 80 --per-prompt 20`": {"per_class": 80, "per_prompt": 20},
        "`--per-class 20 --balance 1`": {"balance": 1.0},
    },
    "What counts as a copy": {
        "`--dedup none`": {"dedup": ["none"]},
        "`--dedup sha256` (default)": {},
        "`--dedup phash=4`": {"dedup": ["phash=4"]},
        "`--dedup embedding=0.97`": {"dedup": ["embedding=0.97"]},
    },
}
SHOWN = ("bus", "strawberry", "bat")  # classes of the pictures
FALLING = "bus"  # the class whose ranking is shown to its end
COLUMNS, SIDE, GAP, LABEL = 10, 64, 4, 86
GOOD, WRONG = (46, 125, 50), (198, 40, 40)


class Chosen(NamedTuple):
    """A chosen pair: its class, place and score, and whether its picture shows that class."""

    name: str
    part: int
    row: int
    score: float
    right: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", type=Path, default=Path("out/demo"))
    parser.add_argument("--out", type=Path, default=HERE / "docs" / "images")
    given = parser.parse_args()
    emb = rv.Embeddings(given.run / "embeddings")
    truth = Truth(emb)
    all_right = truth.count()
    silent = truth.silent()
    print(
        f"{len(emb):,} pairs, of which {all_right:,} show one of the classes; {silent:,} of these do not say its name"
    )
    found: dict[str, list[Chosen]] = {}
    with tempfile.TemporaryDirectory() as work:
        for title, choices in CHOICES.items():
            print(f"\n| {title} | pairs | right of these | of all right pairs | classes without one |")
            print("|---|---:|---:|---:|---:|")
            for label, changed in choices.items():
                key = json.dumps(changed)
                if key not in found:
                    found[key] = retrieved(emb, truth, Path(work) / str(len(found)), changed)
                print(row(label, found[key], all_right), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    usual = found["{}"]
    modes = {
        mode: found[json.dumps(CHOICES["What is compared"][f"`--modes {mode}`"])] for mode in ("t2i", "t2t", "match")
    }
    rows = [
        (f"{mode}\n{name}", of(name, pairs)) for name in SHOWN for mode, pairs in [*modes.items(), ("t2i + t2t", usual)]
    ]
    save(sheet(emb, rows), given.out / "choices-modes.webp")
    deep = of(FALLING, found[json.dumps({"per_class": 80})])
    rows = [(f"{part[0].score:.1f} to\n{part[-1].score:.1f}", part) for part in tens(deep)]
    save(sheet(emb, rows), given.out / "choices-scores.webp")
    print(f"\n{FALLING}: {len(deep)} pairs by --per-class 80, ten a line of choices-scores.webp")
    save(copies(emb, found[json.dumps({"dedup": ["none"]})], usual), given.out / "choices-copies.webp")


class Truth:
    """What the demo's pictures show, by (part, row)."""

    def __init__(self, emb: rv.Embeddings):
        self.known = json.loads((DEMO / "relevance.json").read_text())
        self.parts = [
            pq.read_table(path, columns=["source", "slug", "caption"]).to_pylist() for path in emb.metadata_files()
        ]

    def shows(self, part: int, row: int) -> str | None:
        """The class that a pair's picture shows, if it shows one."""
        about = self.parts[part][row]
        return self.known.get(about["source"], {}).get(about["slug"])

    def count(self) -> int:
        """How many pairs of the pool show a class."""
        return sum(
            self.shows(part, row) is not None for part, rows in enumerate(self.parts) for row in range(len(rows))
        )

    def silent(self) -> int:
        """How many of these have a caption without the class's name as words."""
        found = 0
        for part, rows in enumerate(self.parts):
            for row, about in enumerate(rows):
                name = self.shows(part, row)
                if name and not re.search(rf"\b{re.escape(name.casefold())}\b", (about["caption"] or "").casefold()):
                    found += 1
        return found


def retrieved(emb: rv.Embeddings, truth: Truth, out: Path, changed: dict) -> list[Chosen]:
    """What one choice chooses, by class and rank."""
    options = {**USUAL, **changed}
    pairs = rv.retrieve(
        emb, classes=str(DEMO / "classes.txt"), templates=str(DEMO / "templates.txt"), out=out, **options
    )
    table = pairs.table(["class", "part", "row", "score"]).to_pylist()
    return [
        Chosen(
            one["class"], one["part"], one["row"], one["score"], truth.shows(one["part"], one["row"]) == one["class"]
        )
        for one in table
    ]


def row(label: str, pairs: Sequence[Chosen], all_right: int) -> str:
    """A line of a table. A picture in several classes counts once among the right ones: it shows one."""
    right = sum(one.right for one in pairs)
    lines = (DEMO / "classes.txt").read_text().splitlines()
    empty = sum(1 for line in lines if line.strip()) - len({one.name for one in pairs if one.right})
    return f"| {label} | {len(pairs):,} | {100 * right / max(1, len(pairs)):.0f}% | {100 * right / all_right:.0f}% | {empty} |"


def of(name: str, pairs: Iterable[Chosen]) -> list[Chosen]:
    return [one for one in pairs if one.name == name]


def tens(pairs: list[Chosen]) -> list[list[Chosen]]:
    return [pairs[start : start + COLUMNS] for start in range(0, len(pairs), COLUMNS)]


def sheet(emb: rv.Embeddings, rows: Sequence[tuple[str, Sequence[Chosen]]]) -> Image.Image:
    """Pictures in rows with a label each, framed green where they are right, red where wrong."""
    step = SIDE + 2 * GAP
    page = Image.new("RGB", (LABEL + COLUMNS * step, len(rows) * step), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for y, (label, pairs) in enumerate(rows):
        draw.multiline_text((4, y * step + SIDE // 2 - 10), label, fill="black", font=font)
        for x, one in enumerate(pairs[:COLUMNS]):
            place = LABEL + x * step + GAP, y * step + GAP
            page.paste(tile(emb, one), place)
            colour = GOOD if one.right else WRONG
            draw.rectangle(
                [place[0] - 2, place[1] - 2, place[0] + SIDE + 1, place[1] + SIDE + 1], outline=colour, width=2
            )
    return page


def tile(emb: rv.Embeddings, one: Chosen) -> Image.Image:
    image = on_white(Image.open(io.BytesIO(emb.read_image(one.part, one.row))))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (SIDE, SIDE), "white")
    page.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return page


def copies(emb: rv.Embeddings, all_of_them: list[Chosen], kept: list[Chosen]) -> Image.Image:
    """The classes with most copies among their first ten, before and after these were left out."""
    there = {(one.name, one.part, one.row) for one in kept}
    gone = Counter(
        one.name
        for name in sorted({one.name for one in all_of_them})
        for one in of(name, all_of_them)[:COLUMNS]
        if (one.name, one.part, one.row) not in there
    )
    worst = [name for name, _ in gone.most_common(3)]
    rows = [("none", all_of_them), ("sha256", kept)]
    return sheet(emb, [(f"{label}\n{name}", of(name, pairs)) for name in worst for label, pairs in rows])


def save(image: Image.Image, path: Path) -> None:
    image.save(path, "WEBP", quality=72, method=6)
    print(f"\n{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
