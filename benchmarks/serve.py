"""A text query to JSON over a million vectors: latency and queries a second. Against clip-retrieval's 50 ms, and faiss alone.

    .venv/bin/python benchmarks/serve.py

`reactvl serve` with ViT-B/32's text tower (random weights, its projection fitted so that prompts lie where captions of the
mixture do) and the index of index_build.py, asked by 1, 8 and 64 clients on the same machine, which shares its cores with
them. No text is asked twice, so no vector comes from the server's memory of texts; a row says what that memory gives.
The limits, in a process without a server: faiss alone (the same index and width, vectors at hand, no re-scoring, no
captions), and the text tower with faiss. clip-retrieval states 50 ms and 20 queries a second, without saying on what.
"""

import contextlib
import itertools
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import indexes
import measuring
import numpy as np
import retrieve_stage
import vectors

import reactvl as rv
from reactvl.handles.index import FILE
from reactvl.models.encoder import Encoder
from reactvl.tasks.templates import prompt, read_templates

STATED_MS, STATED_QPS = 50.0, 20.0  # clip-retrieval's README, on its service
CLIENTS = (1, 8, 64)
K = 10


def main() -> None:
    options = measuring.parser(__doc__)
    indexes.options(options)
    options.add_argument("--queries", type=int, default=1500, help="texts a round, at 8 and 64 clients; a fifth at 1")
    given = measuring.parsed(options, {"rows": 20_000, "queries": 40, "memory": "400MB", "quarter": "100MB"})
    question = f"a text query to JSON, k = {K}, {given.rows:,} vectors, text tower of ViT-B/32"
    report = measuring.Report("serve", question, given, minutes=6)
    mixture = vectors.Mixture(given.rows)
    data = vectors.Data("mixture", vectors.written(mixture, given.cache), mixture)
    work = given.cache / "serve"
    folder, index, home = prepared(given, data, work)
    texts = distinct_texts()
    compare(report, given, data, folder, index, home, texts)
    report.finish()
    shutil.rmtree(work)


def prepared(given, data: vectors.Data, work: Path) -> tuple[Path, Path, Path]:
    """The mixture as embeddings of a text tower that lies in it, an index of them tuned at K, and the tower's folder."""
    shutil.rmtree(work, ignore_errors=True)
    classes, templates = retrieve_stage.names(40), read_templates("openai")
    home = retrieve_stage.fitted(given, data.mixture, classes, templates)
    embeddings = vectors.adopted(data.embeddings, rv.load(home).id, work / "embeddings")
    made, _ = indexes.ours(given, data)
    index = rv.index(embeddings, out=work / "index", file=made.folder / FILE, k=K, recall=min(given.recall + 0.01, 1.0))
    return embeddings.folder, index.folder, home


def distinct_texts() -> Iterator[str]:
    """Prompts of 40 classes, numbered: as many as are asked for, all different."""
    every = [prompt(template, name) for template in read_templates("openai") for name in retrieve_stage.names(40)]
    for number in itertools.count():
        for place in np.random.default_rng(number).permutation(len(every)):
            yield f"{every[place]} {number}"


def compare(report, given, data: vectors.Data, folder: Path, index: Path, home: Path, texts: Iterator[str]) -> None:
    """The server at every number of clients and the limits, in turns."""
    ours: dict[str, list[dict]] = {}
    limits: list[dict] = []
    for _ in range(given.rounds):
        with server(folder, index) as port:
            answered(port, [next(texts) for _ in range(32)], 4)  # warm
            for clients in CLIENTS:
                some = list(itertools.islice(texts, given.queries if clients > 1 else -(-given.queries // 5)))
                done = answered(port, some, clients, keep=100)
                ours.setdefault(f"{clients}", []).append(done)
            again = [f"{some[0]} once more"] * len(some)
            ours.setdefault("the same text", []).append(answered(port, again, 64))
        asked = {"model": str(home), "index": str(index), "texts": list(itertools.islice(texts, given.queries)), "k": K}
        limits.append(measuring.child([sys.executable, measuring.HOME / "baselines" / "faiss_alone.py"], asked).answer)
    rows_of(report, given, ours, limits)
    report.row(f"recall@{K} of the answers", recall(data, home, ours["64"][-1]), unit="share")
    report.facts["index"] = json.loads((index / "manifest.json").read_text())["facts"]


def rows_of(report, given, ours: dict[str, list[dict]], limits: list[dict]) -> None:
    stated = "clip-retrieval's stated"
    for clients in CLIENTS:
        runs = ours[f"{clients}"]
        spans = 1000 * np.concatenate([run["spans"] for run in runs])
        name = f"{clients} client{'s' * (clients > 1)}"
        alone = {way: statistics.median(each[way][f"{clients}"] for each in limits) for way in limits[0]}
        report.row(
            f"p50, {name}",
            float(np.median(spans)),
            STATED_MS,
            "ms",
            against=stated,
            need=measuring.most(STATED_MS) if clients == 1 else None,
        )
        report.row(f"p99, {name}", float(np.percentile(spans, 99)), STATED_MS, "ms", against=stated)
        rate = statistics.median(len(run["spans"]) / run["seconds"] for run in runs)
        label = f"queries a second, {name}"
        report.row(label, rate, STATED_QPS, "1/s", against=stated, need=measuring.least(STATED_QPS), more=True)
        report.row(label, rate, alone["faiss"], "1/s", against=f"faiss alone, batches of {clients}", more=True)
        report.row(
            label,
            rate,
            alone["tower and faiss"],
            "1/s",
            against=f"text tower and faiss, batches of {clients}",
            more=True,
        )
    rate = statistics.median(len(run["spans"]) / run["seconds"] for run in ours["the same text"])
    report.row("queries a second, 64 clients, one text", rate, STATED_QPS, "1/s", against=stated, more=True)
    report.note(
        f"Every text but the last row's is asked once; percentiles over all rounds ({given.rounds}), rates are medians of "
        "rounds. Server, clients and what they share have the machine's cores together; the limits have them alone."
    )


@contextlib.contextmanager
def server(folder: Path, index: Path) -> Iterator[int]:
    """`reactvl serve` in a process of its own; its port."""
    command = [sys.executable, "-m", "reactvl", "serve", str(folder), "--index", str(index), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise RuntimeError(f"{' '.join(command)} ended:\n{''.join(said)}")
        try:
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def answered(port: int, texts: list[str], clients: int, keep: int = 0) -> dict:
    """What `load.py` measured, with the texts."""
    bodies = [json.dumps({"query": [{"text": text}], "k": K, "dedup": False}) for text in texts]
    request = {"port": port, "path": "/api/search", "bodies": bodies, "clients": clients, "keep": keep}
    return {**measuring.child([sys.executable, measuring.HOME / "load.py"], request).answer, "texts": texts}


def recall(data: vectors.Data, home: Path, done: dict) -> float:
    """Recall@K of the answers kept, against exact search with the tower's vectors in the service's arithmetic."""
    texts = done["texts"][: len(done["answers"])]
    asked = Encoder(rv.load(home)).texts(texts)
    offsets = np.cumsum([0, *(part.rows for part in data.embeddings.parts)])
    found = np.array([[offsets[hit["part"]] + hit["row"] for hit in answer["hits"]] for answer in done["answers"]])
    return vectors.found_share(found, indexes.truth(data, asked, K))


if __name__ == "__main__":
    main()
