"""A small copy of ELEVATER's root: every benchmark's folder, indexes and zips by its published layout, few images."""

import json
import zipfile
from pathlib import Path

from tests_support import drawing

from reactvl.tasks.benchmarks import benchmark, elevater, names


def write_root(root: Path, benchmarks=None, images: int = 4) -> dict[str, dict]:
    """Write each benchmark's folder; returns per name its split's expected names, labels and bodies."""
    return {name: write_benchmark(root, name, images) for name in benchmarks or elevater()}


def write_benchmark(root: Path, name: str, images: int) -> dict[str, list]:
    found = benchmark(name)
    layout = found.elevater
    folder = root / layout.folder
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("".join(f"{entry}\n" for entry in found.class_names))
    written = {}
    for split, index in (("train", layout.train), ("val", layout.val), ("test", layout.test)):
        if not index:
            continue
        archive = layout.archive if split == "test" else f"{split}_{layout.archive}"
        rows = []
        with zipfile.ZipFile(folder / archive, "w", zipfile.ZIP_DEFLATED) as file:
            for number in range(images):
                inner = f"inner/{split} {number}.png"
                labels = [(7 * number + 3) % len(found.classes)]
                if layout.multilabel and number % 2:
                    labels.append((labels[0] + 5) % len(found.classes))
                body = drawing(number, "png")
                file.writestr(inner, body)
                rows.append((f"{archive}@{inner}", labels, body))
        write = write_coco if index.endswith(".json") else write_lines
        write(folder / index, rows, found.class_names)
        written[split] = rows
    return written


def write_lines(path: Path, rows, classes) -> None:
    path.write_text("".join(f"{place} {','.join(map(str, labels))}\n" for place, labels, _ in rows))


def write_coco(path: Path, rows, classes, first: int = 1) -> None:
    images = [
        {"id": first + row, "width": 1, "height": 1, "file_name": place} for row, (place, _, _) in enumerate(rows)
    ]
    annotations = [
        {"id": first + row, "image_id": first + row, "category_id": first + label}
        for row, (_, labels, _) in enumerate(rows)
        for label in labels
    ]
    categories = [{"id": first + label, "name": name} for label, name in enumerate(classes)]
    path.write_text(
        json.dumps({"images": images[::-1], "annotations": annotations[::-1], "categories": categories[::-1]})
    )


__all__ = ["names", "write_benchmark", "write_coco", "write_lines", "write_root"]
