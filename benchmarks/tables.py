"""Write docs/benchmarks.md from benchmarks/results/*.json: a table a question, with its command.

.venv/bin/python benchmarks/tables.py
"""

import argparse
import json
from pathlib import Path

from measuring import HOME, shown

ORDER = (
    "decoding",
    "pool_access",
    "embeddings_io",
    "embed",
    "exact_search",
    "approximate_search",
    "index_build",
    "interactive",
    "serve",
    "retrieve_stage",
    "augmentation",
    "customize",
    "evaluate",
    "fashion_mnist",
    "vectors",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=HOME / "results")
    parser.add_argument("--out", type=Path, default=HOME.parent / "docs" / "benchmarks.md")
    given = parser.parse_args()
    found = [given.results / f"{name}.json" for name in ORDER]
    text = page(
        [json.loads(path.read_text()) for path in found if path.exists()], crops(given.results / "photographs.json")
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text)
    print(f"{given.out}: {sum(path.exists() for path in found)} of {len(found)} questions")


def page(results: list[dict], photographs: list[str]) -> str:
    """The whole page, Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Every figure is a ratio to a named baseline, measured in the same run in turns (medians of rounds); `ratio` is the",
        "baseline's figure over ours, and ours over the baseline's where more is better (`1/s`). A row that misses its requirement",
        "says MISSED. Written by `.venv/bin/python benchmarks/tables.py` from `benchmarks/results/`; the",
        "baselines' environments are made by `benchmarks/environments/make.py`.",
        "",
    ]
    if not results:
        return "\n".join([*lines, "No results yet.", ""])
    lines += summary(results)
    for result in results:
        lines += section(result)
    return "\n".join([*lines, *photographs])


def summary(results: list[dict]) -> list[str]:
    """How many of the required rows are met, and which are not."""
    judged = [(result, row) for result in results for row in result["rows"] if row["met"] is not None]
    missed = [f"`{result['name']}`: {row['label']}" for result, row in judged if not row["met"]]
    said = f"{len(judged) - len(missed)} of {len(judged)} requirements are met" + (":" if not missed else "; missed:")
    return [
        said.rstrip(":") + "." if not missed else said,
        *([""] + [f"- {text}" for text in missed] if missed else []),
        "",
    ]


def section(result: dict) -> list[str]:
    """One question: heading, command, machine, table, notes."""
    machine, settings = result["machine"], result["settings"]
    lines = [
        f"## {result['name'].replace('_', ' ')}",
        "",
        f"{result['question'][0].upper()}{result['question'][1:]}.",
        "",
        f"    {result['command']}",
        "",
        "| | ours | baseline | ratio | required | |",
        "|---|---:|---:|---:|---|---|",
    ]
    for row in result["rows"]:
        unit = f" {row['unit']}" if row["unit"] else ""
        baseline = f"{shown(row['baseline'])}{unit}, {row['against']}" if row["baseline"] is not None else ""
        verdict = {True: "met", False: "**MISSED**", None: ""}[row["met"]]
        cells = [row["label"], f"{shown(row['ours'])}{unit}", baseline, shown(row["ratio"]), row["required"], verdict]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    lines.append("")
    lines += [f"- {note}" for note in result["notes"]]
    if result["differences"]:
        lines += [
            "- What differs from the code that the baseline restates:",
            *(f"    - {each}" for each in result["differences"]),
        ]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        f"- {machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), {machine['memory_gib']} GiB; "
        f"{machine['system']}; {versions}.",
        f"- {settings['rounds']} rounds; {result['minutes']} minutes in all.",
        "",
    ]
    return lines


def crops(path: Path) -> list[str]:
    """The photographs that the JPEGs are from."""
    if not path.exists():
        return []
    about = json.loads(path.read_text())
    lines = [
        "## Photographs",
        "",
        f"{about['crops']} distinct crops of {about['side']} px, encoded at qualities 85 to 95, from these files of Debian's packages",
        "(`.venv/bin/python benchmarks/photographs.py`):",
        "",
        "| file | SHA-256 |",
        "|---|---|",
    ]
    return [*lines, *(f"| {each['file']} | `{each['sha256']}` |" for each in about["sources"]), ""]


if __name__ == "__main__":
    main()
