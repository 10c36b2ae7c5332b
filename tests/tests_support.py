"""Small real inputs: a CLIP with random weights, a pool, a labelled task."""

import io
from pathlib import Path

SMALL = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"size": 32},
    "reactvl": {},
}
COLOURS = ("red", "green", "blue")
FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}


def write_model(folder: Path, seed: int) -> str:
    """A model folder of a small CLIP with random weights; returns its path."""
    import torch

    from reactvl.models.folder import write
    from reactvl.models.model import construct

    torch.manual_seed(seed)
    write(folder, construct(SMALL), SMALL)
    return str(folder)


def drawing(number: int, ext: str = "jpg") -> bytes:
    """A picture of blocks; its colour says its class, `number % 3`."""
    import numpy as np
    from PIL import Image

    blocks = np.random.default_rng(number).integers(0, 60, (4, 4, 3), dtype=np.uint8)
    blocks[..., number % 3] += 150
    file = io.BytesIO()
    Image.fromarray(blocks).resize((40, 44)).save(file, FORMATS[ext])
    return file.getvalue()


def write_pool(folder: Path, shards: int, pairs: int, cut: tuple[int, ...] = ()) -> Path:
    """Shards of `pairs` pairs each, three colours, jpg, png and webp mixed; the pictures in `cut` are cut short."""
    from reactvl.pool.writer import ShardWriter

    with ShardWriter(folder, max_count=pairs) as writer:
        for number in range(shards * pairs):
            ext = ("jpg", "png", "webp")[number % 3]
            data = drawing(number, ext)
            caption = f"{COLOURS[number % 3]} thing {number % 9}"
            writer.write(data[:60] if number in cut else data, ext, caption, {"status": "success"})
    return folder


def write_task(folder: Path, classes: list[str], each: int) -> None:
    """A task as an image folder: `test/CLASS/N.png`."""
    for label, name in enumerate(classes):
        home = folder / "test" / name
        home.mkdir(parents=True)
        for number in range(each):
            (home / f"{number}.png").write_bytes(drawing(1000 + 3 * number + label, "png"))
