"""Where the demo's drawings and words come from: the packages, pinned, and what each holds, matched to emoji.

Every archive is fetched by its registry's ordinary client, once, into a cache, and must have the sha256 written here:
what is built from it is then a function of this folder alone. Icon sets name their drawings each in its own way
(today's Unicode names, those of ten years ago, names run together), so a drawing is matched to an emoji by the set's
own code points where it has them, else by its name, against all names that any set or Unicode gives to the emoji.

    .venv/bin/python demo/build.py --out demo        # the only caller
"""

import hashlib
import io
import json
import re
import subprocess
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

EMOJIBASE = "emojibase-data@17.0.0"
OPENCLIPART = "openclipart-png"
OPENCLIPART_VERSION = "1:0.18+dfsg-19"
LANGUAGES = ("de", "fr", "es", "ja")

# style -> npm package
POOL_STYLES = {
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent-emoji-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "fluent-emoji-3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "emojione": "@iconify-json/emojione@1.2.3",
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",
    "noto": "@iconify-json/noto@1.2.9",
}
HELD_OUT_STYLES = {
    "openmoji": "@iconify-json/openmoji@1.2.29",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
}

SHA256 = {
    EMOJIBASE: "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "@iconify-json/emojione@1.2.3": "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    "@iconify-json/emojione-v1@1.2.3": "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
    "@iconify-json/fluent-emoji-flat@1.2.6": "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "@iconify-json/fxemoji@1.2.2": "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    "@iconify-json/noto@1.2.9": "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "@iconify-json/noto-v1@1.2.5": "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    "@iconify-json/openmoji@1.2.29": "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
    "@iconify-json/twemoji@1.2.5": "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "@lobehub/fluent-emoji-3d@1.1.0": "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    OPENCLIPART: "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
}

# fxemoji's own words where they are neither Unicode's nor today's; a name in "side" is the whole animal, and the bare
# name its face.
FXEMOJI_NAMES = {
    "americasglobe": "1F30E",
    "asiaaustraliaglobe": "1F30F",
    "banknotedollar": "1F4B5",
    "banknoteeuro": "1F4B6",
    "banknotepound": "1F4B7",
    "banknoteyen": "1F4B4",
    "beachumbrella": "1F3D6",
    "boot": "1F462",
    "bullhorn": "1F4E2",
    "bunny": "1F430",
    "bunnyside": "1F407",
    "cat": "1F431",
    "catside": "1F408",
    "cellphone": "1F4F1",
    "chilipepper": "1F336",
    "closedmailboxlowered": "1F4EA",
    "closedmailboxraised": "1F4EB",
    "confetti": "1F38A",
    "constructionsign": "1F6A7",
    "cow": "1F404",
    "cowface": "1F42E",
    "dog": "1F436",
    "dogside": "1F415",
    "dragonhead": "1F432",
    "dragonside": "1F409",
    "europeafricaglobe": "1F30D",
    "evergreen": "1F332",
    "fallingleaf": "1F342",
    "forkknife": "1F374",
    "frontfacingchick": "1F425",
    "gem": "1F48E",
    "hampster": "1F439",
    "handheldvideocamera": "1F4F9",
    "heels": "1F460",
    "highspeedtrainbulletnose": "1F685",
    "horse": "1F40E",
    "horseface": "1F434",
    "hourglassflowingsand": "23F3",
    "leftmagnifyingglass": "1F50D",
    "leopardside": "1F406",
    "lockandkey": "1F510",
    "manltepiececlock": "1F570",
    "mansshoe": "1F45E",
    "mouse": "1F42D",
    "mouseside": "1F401",
    "onebuttonmouse": "1F5B1",
    "openmailboxlowered": "1F4ED",
    "openmailboxraised": "1F4EC",
    "opticaldiscicon": "1F4BF",
    "pig": "1F437",
    "pigside": "1F416",
    "present": "1F381",
    "printericon": "1F5A8",
    "racecar": "1F3CE",
    "rightmagnifyingglass": "1F50E",
    "ringingbell": "1F514",
    "screen": "1F5A5",
    "snowmountains": "1F3D4",
    "softshellfloppy": "1F4BE",
    "spurtingwhale": "1F433",
    "studiomic": "1F399",
    "tennisball": "1F3BE",
    "tie": "1F454",
    "tiger": "1F42F",
    "tigerside": "1F405",
    "toykotower": "1F5FC",
    "videocasette": "1F4FC",
}


@dataclass(frozen=True)
class Emoji:
    """One emoji with the words that people use for it (from emojibase; labels and tags by language)."""

    hexcode: str  # "1F43C", without variation selectors
    label: str
    tags: tuple[str, ...]
    group: str  # "animals & nature"
    subgroup: str  # "animal mammal"
    foreign: tuple[tuple[str, str, tuple[str, ...]], ...]  # (language, label, tags)


@dataclass(frozen=True)
class Picture:
    """One drawing of one source, not drawn yet: `data` is an SVG document or an encoded bitmap."""

    source: str
    slug: str
    data: bytes
    vector: bool
    hexcode: str = ""  # the emoji that it draws; empty for openclipart


def load(cache: Path) -> tuple[dict[str, Emoji], dict[str, list[Picture]]]:
    """Fetch what is missing in `cache`; return the emoji by hexcode and every source's pictures, sorted by slug.

    Of each emoji a style has at most one picture. Raises RuntimeError when a package is not the pinned one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    emoji = read_emojibase(fetch_npm(EMOJIBASE, cache))
    styles = {**POOL_STYLES, **HELD_OUT_STYLES}
    archives = {style: fetch_npm(package, cache) for style, package in styles.items()}
    sets = {s: read_iconify(a) for s, a in archives.items() if s != "fluent-emoji-3d"}
    names = emoji_names(emoji, sets)
    pictures = {style: match_iconify(style, icons, emoji, names) for style, icons in sets.items()}
    pictures["fluent-emoji-3d"] = read_fluent_3d(archives["fluent-emoji-3d"], emoji)
    pictures["openclipart"] = read_openclipart(fetch_deb(OPENCLIPART, cache))
    return emoji, pictures


def fetch_npm(package: str, cache: Path) -> Path:
    """The package's archive, by `npm pack` unless the cache has it."""
    name, version = package.rsplit("@", 1)
    archive = cache / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        subprocess.run(["npm", "pack", "--silent", package], cwd=cache, check=True, stdout=subprocess.DEVNULL)
    check_sha256(archive, package)
    with tarfile.open(archive) as tar:
        found = json.load(tar.extractfile("package/package.json"))["version"]
    if found != version:
        raise RuntimeError(f"{archive}: holds version {found}, not {version}")
    return archive


def fetch_deb(package: str, cache: Path) -> Path:
    """Debian's package, by `apt-get download` unless the cache has it."""
    archive = cache / f"{package}_{OPENCLIPART_VERSION.replace(':', '%3a')}_all.deb"
    if not archive.exists():
        command = ["apt-get", "download", f"{package}={OPENCLIPART_VERSION}"]
        if subprocess.run(command, cwd=cache, stdout=subprocess.DEVNULL, check=False).returncode:
            # a fresh machine has no package lists yet
            subprocess.run(["apt-get", "update"], check=True, stdout=subprocess.DEVNULL)
            subprocess.run(command, cwd=cache, check=True, stdout=subprocess.DEVNULL)
    check_sha256(archive, package)
    return archive


def check_sha256(archive: Path, package: str) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256[package]:
        raise RuntimeError(
            f"{archive}: sha256 is {found}, expected {SHA256[package]} for {package}; delete it and retry"
        )


def read_emojibase(archive: Path) -> dict[str, Emoji]:
    """Base emoji that make sense as pictures with words: no skin tones, genders, letters, keycaps or clock faces."""
    with tarfile.open(archive) as tar:

        def read(name):
            return json.load(tar.extractfile(f"package/{name}.json"))

        meta, english = read("meta/groups"), read("en/data")
        foreign = {lang: {e["hexcode"]: e for e in read(f"{lang}/data")} for lang in LANGUAGES}
    emoji = {}
    for e in english:
        if "group" not in e or not wanted(e, meta["subgroups"][str(e["subgroup"])]):
            continue
        others = ((lang, foreign[lang].get(e["hexcode"])) for lang in LANGUAGES)
        code = strip_selectors(e["hexcode"])
        emoji[code] = Emoji(
            hexcode=code,
            label=e["label"],
            tags=tuple(e.get("tags", ())),
            group=meta["groups"][str(e["group"])].replace("-", " "),
            subgroup=meta["subgroups"][str(e["subgroup"])].replace("-", " "),
            foreign=tuple((lang, o["label"], tuple(o.get("tags", ()))) for lang, o in others if o),
        )
    return emoji


def wanted(entry: dict, subgroup: str) -> bool:
    """Whether an emojibase entry becomes pool pictures. Of the flags one in four stays: they would be many."""
    label = entry["label"]
    if "gender" in entry or subgroup in ("keycap", "alphanum", "skin-tone", "hair-style", "subdivision-flag"):
        return False
    if re.search(r"o.clock|-thirty|^(man|woman|men|women)\b.*\b(man|woman|men|women)\b|^family", label):
        return False
    if subgroup == "country-flag":
        return int(hashlib.sha256(entry["hexcode"].encode()).hexdigest(), 16) % 4 == 0
    return True


def read_iconify(archive: Path) -> dict:
    """An Iconify set: its icons (name -> SVG), plain aliases (other name -> name) and code points (hexcode -> name)."""
    with tarfile.open(archive) as tar:
        data = json.load(tar.extractfile("package/icons.json"))
        chars = json.load(tar.extractfile("package/chars.json"))
    size = {"width": data.get("width", 16), "height": data.get("height", 16), "left": 0, "top": 0}
    icons = {}
    for name, icon in data["icons"].items():
        if 'class="' in icon["body"]:
            continue  # its colours were in a style sheet that the package lacks
        box = {**size, **{k: icon[k] for k in size if k in icon}}
        icons[name] = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{box["width"]}" height="{box["height"]}" '
            f'viewBox="{box["left"]} {box["top"]} {box["width"]} {box["height"]}">{icon["body"]}</svg>'
        )
    # an alias that turns or mirrors its parent is another picture
    aliases = {a: v["parent"] for a, v in data.get("aliases", {}).items() if set(v) <= {"parent", "hidden"}}
    # OpenMoji's own icons have private code points; where one shares its name with an emoji, it is the one drawn
    private = {name for code, name in chars.items() if "e000" <= code <= "f8ff" and len(code) == 4}
    codes = {strip_selectors(c.upper()): aliases.get(name, name) for c, name in chars.items() if name not in private}
    return {"icons": icons, "aliases": aliases, "codes": codes}


def emoji_names(emoji: dict[str, Emoji], sets: dict[str, dict]) -> dict[str, str]:
    """Every known name, run together -> hexcode. Today's label wins over the sets' names, those over Unicode's own."""
    names: dict[str, str] = {}
    for e in emoji.values():
        names.setdefault(squash(e.label), e.hexcode)
    for style in ("noto", "twemoji", "fluent-emoji-flat", "openmoji"):
        codes = sets[style]["codes"]
        for code, name in sorted(codes.items()):
            if code in emoji:
                names.setdefault(squash(name), code)
        named = {name: code for code, name in sorted(codes.items())}
        for alias, name in sorted(sets[style]["aliases"].items()):
            if named.get(name) in emoji:
                names.setdefault(squash(alias), named[name])
    for code in emoji:
        if "-" not in code:
            names.setdefault(squash(unicodedata.name(chr(int(code, 16)), "")), code)
    names.pop("", None)
    return names


def match_iconify(style: str, icons: dict, emoji: dict[str, Emoji], names: dict[str, str]) -> list[Picture]:
    """A style's pictures of known emoji, at most one an emoji, sorted by slug."""
    by_code = {code: name for code, name in icons["codes"].items() if code in emoji and name in icons["icons"]}
    taken = set(by_code.values())
    extra = FXEMOJI_NAMES if style == "fxemoji" else {}
    also = {}
    for alias, name in sorted(icons["aliases"].items()):
        also.setdefault(name, []).append(alias)
    for name in sorted(icons["icons"]):
        if name in taken:
            continue
        found = (extra.get(name) or names.get(squash(n)) for n in (name, *also.get(name, ())))
        code = next((c for c in found if c), None)
        if code in emoji:
            by_code.setdefault(code, name)
    # a drawing is one picture, however many codes it has
    by_name = {name: code for code, name in sorted(by_code.items(), reverse=True)}
    return [Picture(style, n, icons["icons"][n].encode(), True, code) for n, code in sorted(by_name.items())]


def read_fluent_3d(archive: Path, emoji: dict[str, Emoji]) -> list[Picture]:
    """The 3D set: files named by code points ("1f43c.webp")."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name)
            code = strip_selectors(name.stem.upper())
            if name.suffix == ".webp" and code in emoji:
                found.setdefault(
                    code, Picture("fluent-emoji-3d", name.stem, tar.extractfile(member).read(), False, code)
                )
    return sorted(found.values(), key=lambda p: p.slug)


def read_openclipart(archive: Path) -> list[Picture]:
    """Debian's openclipart: the slug is the path below its png folder, without the ending."""
    unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], check=True, stdout=subprocess.PIPE).stdout
    root, pictures = "/share/openclipart/png/", []
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        for member in tar:
            if member.isfile() and root in member.name and member.name.endswith(".png"):
                slug = member.name.split(root, 1)[1].removesuffix(".png")
                pictures.append(Picture("openclipart", slug, tar.extractfile(member).read(), False))
    return sorted(pictures, key=lambda p: p.slug)


def squash(text: str) -> str:
    """Letters and digits only, lower-case: "Alien Monster", "alien-monster" and "alienmonster" become one."""
    return re.sub(r"[\W_]+", "", text.casefold())


def strip_selectors(code: str) -> str:
    """2708-FE0F and 2708 are one emoji."""
    return "-".join(part for part in code.split("-") if part not in ("FE0F", "FE0E"))
