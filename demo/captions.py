"""Captions as the web writes them: names, tags, file names, other languages, filler, mistakes and nothing at all.

A caption is a function of (seed, source, slug, copy): the words come from emojibase or, for openclipart, from the
file's name; what is done with them is drawn from the shares below. Over a third of an emoji's captions do not say its
name.

    .venv/bin/python demo/build.py --out demo        # the only caller
"""

import random
import re
from collections import Counter
from dataclasses import dataclass

from sources import Emoji, Picture, squash

# How a caption comes about, and how often (an emoji's; openclipart's have names, mistakes and gaps alone).
SHARES = {
    "named": 0.57,
    "tags": 0.18,
    "foreign": 0.07,
    "vague": 0.08,
    "partial": 0.05,
    "wrong": 0.03,
    "empty": 0.013,  # an empty .txt
    "missing": 0.007,  # no .txt at all
}

SITES = ("ClipCorner", "IconBarn", "vectorpond", "StickerNest", "FreeDrawings", "pixelattic", "Emoji Index", "ArtBin")
NAMED = (
    "{n}",
    "{n}",
    "{n}",
    "{n}",
    "{N}",
    "{N}",
    "{U}",
    "{n} emoji",
    "{n} emoji",
    "{N} Emoji {char}",
    "{char} {n}",
    "{n} icon",
    "{n} icon",
    "{N} Icon | {site}",
    "{n} vector icon",
    "{N} Vector Icon - {site}",
    "{n} clip art",
    "free {n} clipart",
    "{N} Clipart Free Download",
    "{n} sticker",
    "{N} Sticker by {site}",
    "cute {n} cartoon illustration",
    "cartoon {n} isolated on white background",
    "flat design {n} symbol",
    "a drawing of {a}",
    "{a}",
    "picture of {a}",
    "this is {a}",
    "vector illustration of {a}",
    "{t1} {n}",
    "{n} {t1}",
    "{n}, {t1}, {t2}",
    "{t1}, {t2}, {n}",
    "{t2} {n} {t1} vector",
    "{n} ({t1})",
    "#{h} #{ht1} #emoji",
    "#{h} #cute #{site_h}",
    "{file}.png",
    "{file_}_{num}.svg",
    "{file}-icon-{px}.png",
    "{n} {num}",
    "{n} image, {g}",
    "{G}: {n}",
    "{n} icon in color style, {t1} symbol",
    "{N} PNG transparent {px}x{px}",
    "emoji meaning: {n}",
    "{n} from the {g} set",
)
TAGS = (
    "{t1}",
    "{t1} {t2}",
    "{t1}, {t2}, {t3}",
    "{t2} {t1} {t3}",
    "{t1} emoji",
    "{t1} {t2} icon",
    "#{ht1} #{ht2} #{ht3}",
    "{t1} vector illustration",
    "free {t1} clip art, {t2}",
    "{T1} | {site}",
    "{t1}_{t2}_{num}.png",
    "{g} - {t1}",
)
VAGUE = (
    "cute {g} icon",
    "{s} vector illustration",
    "{s} icon set",
    "IMG_{num}.JPG",
    "icon-{num}-{px}.png",
    "emoji sticker pack {num}",
    "colorful {g} symbol",
    "free vector art | {site}",
    "{site} {num}",
    "download {s} icon",
    "my new drawing",
    "Untitled-{num}",
    "{G} clipart collection",
    "image result for {s}",
)
FOREIGN = {
    "de": ("{n}", "{n} Symbol", "{n} Bild kostenlos", "{n}, {t1}", "Malvorlage {n}"),
    "fr": ("{n}", "icône {n}", "dessin de {n}", "{n}, {t1}", "{n} gratuit"),
    "es": ("{n}", "icono de {n}", "dibujo de {n}", "{n} {t1}", "{n} gratis"),
    "ja": ("{n}", "{n}の絵文字", "{n} イラスト", "{n} {t1}", "{n} アイコン 無料"),
}
CLIPART = (
    "{n}",
    "{n}",
    "{n}",
    "{n}",
    "{N}",
    "{U}",
    "{n} clip art",
    "free clipart {n}",
    "{N} - {site}",
    "{n} {folder}",
    "{folder}: {n}",
    "{n} vector",
    "{n} drawing",
    "{N} clip art, public domain",
    "{file}.png",
    "picture of {n}",
    "{n} image",
    "{n}, {folder}, {top}",
)


@dataclass(frozen=True)
class Caption:
    """A caption and how it came about; `text` is "" for an empty .txt and None for none at all."""

    text: str | None
    kind: str


class Writer:
    """Writes captions. `class_names`: what people call an emoji (hexcode -> name) where a task has a name for it."""

    def __init__(self, emoji: dict[str, Emoji], class_names: dict[str, str], cliparts: list[Picture], seed: int):
        self.emoji, self.class_names, self.seed = emoji, class_names, seed
        self.all_emoji = sorted(emoji)
        self.all_cliparts = [p.slug for p in cliparts]
        self.signatures = recurring_signatures(self.all_cliparts)

    def write(self, picture: Picture, copy: int = 0) -> Caption:
        """The caption of a picture; of its `copy`-th repetition where the pool holds it more than once."""
        rng = random.Random(f"{self.seed}/{picture.source}/{picture.slug}/caption/{copy}")
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        if kind in ("empty", "missing"):
            return Caption("" if kind == "empty" else None, kind)
        if not picture.hexcode:
            slug = rng.choice(self.all_cliparts) if kind == "wrong" else picture.slug
            return Caption(self.clipart(slug, rng), "wrong" if kind == "wrong" else "named")
        emoji = self.emoji[picture.hexcode]
        if kind == "wrong":
            other = rng.choice([code for code in rng.sample(self.all_emoji, 8) if code != emoji.hexcode])
            return Caption(self.named(self.emoji[other], rng), kind)
        return Caption(getattr(self, kind)(emoji, rng), kind)

    def named(self, emoji: Emoji, rng: random.Random) -> str:
        name = rng.choice((emoji.label, self.class_names.get(emoji.hexcode, emoji.label)))
        tags = [t for t in emoji.tags if squash(t) != squash(name)]
        return fill(rng.choice(NAMED), name, tags or [emoji.subgroup], emoji, rng)

    def tags(self, emoji: Emoji, rng: random.Random) -> str:
        """Other words than the name: what no name search finds."""
        names = [squash(emoji.label), squash(self.class_names.get(emoji.hexcode, emoji.label))]
        tags = [t for t in emoji.tags if not any(n in squash(t) or squash(t) in n for n in names)]
        return fill(rng.choice(TAGS), "", tags, emoji, rng) if len(tags) > 1 else self.vague(emoji, rng)

    def foreign(self, emoji: Emoji, rng: random.Random) -> str:
        if not emoji.foreign:
            return self.tags(emoji, rng)
        lang, label, tags = rng.choice(emoji.foreign)
        return fill(rng.choice(FOREIGN[lang]), label, list(tags) or [label], emoji, rng)

    def vague(self, emoji: Emoji, rng: random.Random) -> str:
        return fill(rng.choice(VAGUE), "", list(emoji.tags) or [""], emoji, rng)

    def partial(self, emoji: Emoji, rng: random.Random) -> str:
        """One word of a longer name; a one-word name gives way to its tags."""
        words = [w for w in re.findall(r"[\w’'-]+", emoji.label) if len(w) > 3]
        if len(words) < 2:
            return self.tags(emoji, rng)
        return fill(
            rng.choice(("{n}", "{n} icon", "{N}", "{n} {num}", "{n} emoji")), rng.choice(words), [""], emoji, rng
        )

    def clipart(self, slug: str, rng: random.Random) -> str:
        folder, _, stem = slug.rpartition("/")
        words = clipart_words(stem, self.signatures if rng.random() < 0.8 else set())
        if words.replace(" ", "").isdigit() or len(words) < 3:
            words = f"{folder.rsplit('/', 1)[-1]} {words}".replace("_", " ").replace("-", " ").strip()
        values = {
            "n": words,
            "N": title(words),
            "U": words.upper(),
            "file": stem,
            "folder": folder.rsplit("/", 1)[-1].replace("_", " ").replace("-", " "),
            "top": folder.split("/", 1)[0].replace("_", " "),
            "site": rng.choice(SITES),
        }
        return rng.choice(CLIPART).format(**values)


def contains_name(name: str, caption: str | None) -> bool:
    """Whether a caption says a class name, in any case and spacing: "#HotDog" says "hot dog".

    Part of a word counts too, so that the share of captions that do not say it is never overstated.
    """
    return squash(name) in squash(caption or "")


def fill(pattern: str, name: str, tags: list[str], emoji: Emoji, rng: random.Random) -> str:
    tags = rng.sample(tags, len(tags))
    while len(tags) < 3:
        tags.append(tags[0] if tags else emoji.subgroup)
    file = re.sub(r"[\W_]+", "-", name.lower()).strip("-")
    site = rng.choice(SITES)
    values = {
        "n": name,
        "N": title(name),
        "U": name.upper(),
        "a": with_article(name),
        "h": squash(name),
        "file": file,
        "file_": file.replace("-", "_"),
        **{f"t{i + 1}": t for i, t in enumerate(tags[:3])},
        **{f"ht{i + 1}": squash(t) for i, t in enumerate(tags[:3])},
        "T1": title(tags[0]),
        "g": emoji.group,
        "G": title(emoji.group),
        "s": emoji.subgroup,
        "site": site,
        "site_h": squash(site),
        "num": rng.randint(2, 9999),
        "px": rng.choice((64, 128, 256, 512)),
        "char": "".join(chr(int(part, 16)) for part in emoji.hexcode.split("-")),
    }
    return pattern.format(**values)


def title(text: str) -> str:
    return " ".join(w[:1].upper() + w[1:] for w in text.split(" "))


def with_article(name: str) -> str:
    if name.endswith("s") and not name.endswith("ss"):
        return name
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def clipart_words(stem: str, signatures: set[tuple[str, ...]]) -> str:
    """The words of a file name, without counters at its end and without artists' signatures."""
    words = [w for w in re.split(r"[\W_]+", stem) if w]
    while len(words) > 1 and (words[-1].isdigit() or (len(words[-1]) == 1 and len(words) > 3)):
        words.pop()
    for length in (3, 2):
        if len(words) > length and tuple(words[-length:]) in signatures:
            words = words[:-length]
    return " ".join(words).strip()


def recurring_signatures(slugs: list[str]) -> set[tuple[str, ...]]:
    """Two or three words that end file names in several folders: openclipart puts the artist's name there."""
    ends: dict[tuple[str, ...], set[str]] = {}
    counts: Counter = Counter()
    for slug in slugs:
        folder, _, stem = slug.rpartition("/")
        words = clipart_words(stem, set()).split(" ")
        for length in (2, 3):
            if len(words) > length:
                end = tuple(words[-length:])
                ends.setdefault(end, set()).add(folder)
                counts[end] += 1
    return {end for end, folders in ends.items() if counts[end] >= 4 and len(folders) >= 3}
