"""Finds drawings that two packages share: the same art must not be in the pool and among the held-out pictures.

Drawings are compared by their signatures (32 x 32 RGB on white, cut to content) in two ways: the difference of the
renderings, relative to the ink in them (white drawings differ little from anything in absolute terms), also mirrored;
and the perceptual hash (imagehash's phash, 64 bits). The thresholds were chosen by looking at pairs on both sides of
them: up to them lie re-coloured and re-shaded copies and bare shapes (a red circle); past them, drawings of one thing
by two artists.

    .venv/bin/python demo/build.py --out demo        # the only caller
"""

from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageDraw

SAME_DRAWING = 0.25  # relative difference under which two drawings are one, whatever their hash,
SAME_EMOJI_DRAWING = 0.34  # or under this where both draw one emoji (a brown disc is 0.33 from a cookie, and no copy)
SAME_HASH = 8  # bits up to which they are one if the renderings agree as well, to:
SAME_HASH_DRAWING = 0.60
# noto is the successor of noto-v1 and redrew much of it: between the two drawings of one emoji the limits are wider
SAME_HOUSE = {("noto-v1", "noto")}
SAME_HOUSE_DRAWING = 0.50
SAME_HOUSE_HASH = 14


@dataclass(frozen=True)
class Signed:
    """A drawing as the comparison sees it; `signature` is (32, 32, 3) uint8."""

    source: str
    slug: str
    hexcode: str
    signature: np.ndarray


@dataclass(frozen=True)
class Nearest:
    """What the pool has nearest to a held-out drawing."""

    drawing: Signed
    pool: Signed
    difference: float  # relative to the ink, 0 = the same
    bits: int  # of 64 that differ between the perceptual hashes
    copied: bool


def nearest_in_pool(held_out: list[Signed], pool: list[Signed]) -> list[Nearest]:
    """Per held-out drawing the pool's nearest by rendering, or the first that counts as a copy."""
    bits = hash_distances(held_out, pool)  # (H, P)
    difference = differences(held_out, pool)  # (H, P)
    same_emoji = np.equal.outer(np.array([h.hexcode for h in held_out]), np.array([p.hexcode for p in pool]))  # (H, P)
    same_house = np.zeros_like(same_emoji)
    for ours, theirs in SAME_HOUSE:
        same_house |= np.outer([h.source == ours for h in held_out], [p.source == theirs for p in pool])
    same_house &= same_emoji
    copied = (
        (difference < SAME_DRAWING)
        | ((bits <= SAME_HASH) & (difference < SAME_HASH_DRAWING))
        | (same_emoji & (difference < SAME_EMOJI_DRAWING))
        | (same_house & ((difference < SAME_HOUSE_DRAWING) | (bits <= SAME_HOUSE_HASH)))
    )
    rows = []
    for h, drawing in enumerate(held_out):
        p = int(np.where(copied[h], difference[h] - 10, difference[h]).argmin())
        rows.append(Nearest(drawing, pool[p], float(difference[h, p]), int(bits[h, p]), bool(copied[h, p])))
    return rows


def differences(a: list[Signed], b: list[Signed]) -> np.ndarray:
    """(A, B) root mean square difference of the renderings, also mirrored, over the geometric mean of their ink."""
    ink_a, ink_b = ink(a), ink(b)  # (A, 3072), (B, 3072)
    mirrored = ink_a.reshape(-1, 32, 32, 3)[:, :, ::-1].reshape(len(a), -1)
    norm_a, norm_b = (ink_a**2).sum(1)[:, None], (ink_b**2).sum(1)[None]
    product = np.maximum(ink_a @ ink_b.T, mirrored @ ink_b.T)
    return np.sqrt(np.maximum(norm_a + norm_b - 2 * product, 0) / np.maximum(np.sqrt(norm_a * norm_b), 1e-3))


def ink(drawings: list[Signed]) -> np.ndarray:
    """(N, 3072) float32 in 0..1: how far each value is from white."""
    return (255 - np.stack([d.signature for d in drawings]).astype(np.float32)).reshape(len(drawings), -1) / 255


def hash_distances(a: list[Signed], b: list[Signed]) -> np.ndarray:
    """(A, B) bits that differ between the perceptual hashes."""
    x, y = perceptual_hashes(a), perceptual_hashes(b)  # (A, 64), (B, 64)
    return (x @ (1 - y).T + (1 - x) @ y.T).round().astype(np.int32)


def perceptual_hashes(drawings: list[Signed]) -> np.ndarray:
    hashes = (imagehash.phash(Image.fromarray(d.signature)).hash.ravel() for d in drawings)
    return np.stack(list(hashes)).astype(np.float32)


def draw_pairs(rows: list[Nearest], path: Path) -> None:
    """A picture of the pairs about the thresholds, held-out beside pool, to judge the thresholds by eye."""
    copies = sorted((r for r in rows if r.copied), key=lambda r: -r.difference)[:64]
    rest = sorted((r for r in rows if not r.copied), key=lambda r: min(r.difference, (r.bits + 12) / 40))[:128]
    shown, columns = [*copies, *rest], 16
    sheet = Image.new("RGB", (columns * 104, -(-len(shown) // columns) * 80), "white")
    pen = ImageDraw.Draw(sheet)
    for i, row in enumerate(shown):
        x, y = i % columns * 104, i // columns * 80
        for j, drawing in enumerate((row.drawing, row.pool)):
            sheet.paste(Image.fromarray(drawing.signature).resize((48, 48)), (x + 50 * j, y))
        pen.text((x, y + 49), f"{row.difference:.2f} {row.bits} bits", fill="red" if row.copied else "black")
        pen.text((x, y + 61), f"{row.drawing.source[0]} {row.drawing.slug[:14]}", fill="black")
    sheet.save(path)
