"""How well does the demo's base model know Fashion-MNIST? 10,000 real labelled pictures, zero-shot and by linear probes.

    .venv/bin/python benchmarks/fashion_mnist.py

The pictures are those of Debian's package `dataset-fashion-mnist`, read from its own IDX files: where it is installed from
there, else it is fetched by `apt-get download` and unpacked into the cache; `--from DIR` takes a folder of such files. The
probes are ELEVATER's: 5, 20 and 50 training pictures a class and all 60,000, three draws, learning rate and L2 chosen on a
fifth of them, the head begun from the class names. Writes docs/fashion-mnist.md.
"""

import contextlib
import gzip
import io
import shutil
import statistics
import struct
from pathlib import Path

import measuring
import numpy as np
import photographs

import reactvl as rv

PACKAGE = "dataset-fashion-mnist"
PLACE = Path("usr/share/datasets/fashion-mnist")
TASK = PLACE.name
BASE = measuring.HOME.parent / "demo" / "base"
PAGE = measuring.HOME.parent / "docs" / "fashion-mnist.md"
PEOPLE = 83.5  # the package's README: people without training in fashion, 1,000 test pictures, majority of three


def main() -> None:
    options = measuring.parser(__doc__, rounds=1)
    options.add_argument("--from", dest="own", type=Path, help="a folder with the IDX files of Fashion-MNIST")
    options.add_argument("--shots", nargs="+", default=["5", "20", "50", "all"])
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--docs", type=Path, default=PAGE, help="the page to write (with --quick: in the cache)")
    given = measuring.parsed(options, {"shots": ["5", "all"], "seeds": [0, 1]})
    if given.quick and given.docs == PAGE:
        given.docs = given.cache / PAGE.name
    data = given.own or (stand_ins(given.cache / TASK) if given.quick else pictures(given.cache))
    report = measuring.Report(
        "fashion_mnist", "the demo's base model on Fashion-MNIST's 10,000 test pictures", given, minutes=5
    )
    out = given.cache / "evaluations" / TASK
    with contextlib.redirect_stdout(io.StringIO()):
        scores = rv.evaluate(
            [str(BASE)], data=data.resolve().parent, tasks=[data.resolve().name], probe=["linear"], shots=given.shots,
            seeds=given.seeds, out=out, overwrite=True,
        )  # fmt: skip
    found = figures(scores.results)
    for label, values, more in found:
        spread = f" (± {statistics.stdev(values):.1f} over {len(values)} draws)" if len(values) > 1 else ""
        report.row(f"{label}, accuracy{spread}", statistics.fmean(values), unit="%")
        report.facts[label] = more | {"accuracy of each draw": [round(value, 2) for value in values]}
    task = scores.results["tasks"][0]
    precision = scores.manifest.facts["precision"]
    report.note(f"{task['images']:,} pictures, {task['skipped']} skipped; {precision}; chance is 10.0%.")
    if not given.quick:
        report.note(f"People without training in fashion: {PEOPLE}% of 1,000 of them (the package's README).")
    report.finish()
    given.docs.write_text(page(report, task, found, precision))
    print(f"  {given.docs}")


def pictures(cache: Path) -> Path:
    """The folder of the package's IDX files, fetched when it is neither installed nor in the cache."""
    installed = Path("/") / PLACE
    if installed.is_dir():
        return installed
    folder = cache / "packages" / PACKAGE
    if not folder.exists():
        photographs.fetch(PACKAGE, folder)
    return folder / PLACE


def figures(results: dict) -> list[tuple[str, list[float], dict]]:
    """(what, accuracy in percent of each draw, further figures), a column each, in the order of the results."""
    task = results["tasks"][0]
    found = []
    for column in results["columns"]:
        score = task["scores"][column["label"]]
        values = [100 * value for value in score.get("seeds") or [score["value"]]]
        more = {name: score[name] for name in ("top5", "mean_per_class", "ece") if score.get(name) is not None}
        found.append((name_of(column), values, more))
    return found


def name_of(column: dict) -> str:
    """`linear probe, 5 pictures a class`"""
    if column["shots"] is None:
        return {"zero-shot": "zero-shot", "synonyms": "zero-shot over all synonyms"}.get(
            column["method"], column["label"]
        )
    count = "all training pictures" if column["shots"] == "all" else f"{column['shots']} pictures a class"
    return f"linear probe, {count}"


def page(report: measuring.Report, task: dict, found: list[tuple[str, list[float], dict]], precision: str) -> str:
    """docs/fashion-mnist.md."""
    about = report.content(0.0)
    machine, versions = about["machine"], about["versions"]
    chance, zero_shot = 100 / len(task["classes"]), statistics.fmean(found[0][1])
    lines = [
        "# Fashion-MNIST with the demo's base model",
        "",
        f"    {about['command']}",
        "",
        f"printed these figures: accuracy in percent on the {task['images']:,} test pictures of Fashion-MNIST",
        f"({task['skipped']} could not be read), which are read from the IDX files of Debian's package `dataset-fashion-mnist` as",
        "they are. The model is `demo/base`, a small one for the demo: 112 px, an EfficientNet-Lite0 that knows ImageNet's",
        "photographs under four layers that were trained on captioned drawings. Garments in grey, 28 px wide and white on black,",
        f"are strange to it: zero-shot it is {zero_shot - chance:+.1f} points from chance, and the probes show what its features",
        "hold all the same. They are ELEVATER's few-shot protocol ([evaluate.md](evaluate.md)).",
        "",
        "| | accuracy | by draw | top 5 | calibration error |",
        "|---|---:|---|---:|---:|",
    ]
    for label, values, more in found:
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        draws = ", ".join(f"{value:.1f}" for value in values) if len(values) > 1 else ""
        cells = [f"{100 * more['top5']:.1f}" if "top5" in more else "", f"{more['ece']:.3f}" if "ece" in more else ""]
        lines.append(f"| {label} | {statistics.fmean(values):.1f}{spread} | {draws} | {' | '.join(cells)} |")
    templates = ", ".join(f"`{template}`" for template in task["templates"])
    lines += [
        f"| chance | {chance:.1f} | | | |",
        f"| people without training in fashion, on 1,000 of the pictures (the package's README) | {PEOPLE} | | | |",
        "",
        f"Classes: {', '.join(task['classes'])}. Template: {templates}.",
        f"Arithmetic {precision}; {machine['cpu']}, {machine['cores']} cores; torch {versions['torch']}, reactvl {versions['reactvl']}.",
        "",
    ]
    return "\n".join(lines)


def stand_ins(folder: Path) -> Path:
    """IDX files of stripes for --quick, which must not fetch anything; no figure is taken on them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for prefix, count in (("train", 300), ("t10k", 60)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        rows = np.arange(28)[:, None] * (1 + labels[:, None, None]) // 3 % 2 * 200  # (count, 28, 1)
        noise = np.random.default_rng(count).integers(0, 56, (count, 28, 28))
        images = (rows + noise).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return folder


if __name__ == "__main__":
    main()
