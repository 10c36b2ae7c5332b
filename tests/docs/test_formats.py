"""docs/formats.md says of every column what the code writes: its tables against the schemas, its lists against the constants."""

import re

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from guide_blocks import FENCE, ROOT

from reactvl.evaluate import elevater_files
from reactvl.evaluate.outputs import truth
from reactvl.handles.foreign_columns import SOURCES
from reactvl.manifest import Manifest
from reactvl.options import options_of
from reactvl.pack import pack
from reactvl.pool import embeddings_format, fields, tars
from reactvl.predict.tables import ParquetTable
from reactvl.retrieve import tables
from reactvl.retrieve.queries import MODES
from reactvl.retrieve.selection import FATES
from reactvl.train import checkpoints
from reactvl.train.loop import record_of

GUIDE = ROOT / "docs" / "formats.md"


def section(title: str) -> str:
    """The text below a heading, down to the next one."""
    text = FENCE.sub("", GUIDE.read_text())
    found = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"formats.md has no section {title}"
    return found[1]


def columns(title: str) -> list[tuple[str, str]]:
    """(column, type) of the table whose header is `column | type` in a section."""
    table = section(title).partition("| column | type |")[2].split("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table, re.MULTILINE)


def listed(title: str, header: str) -> dict[str, list[str]]:
    """First column -> words in code of the second, of the table with that header."""
    table = section(title).partition(header)[2].split("\n\n")[0]
    return {
        name: re.findall(r"`([^`]+)`", rest)
        for name, rest in re.findall(r"^\| `([^`]+)` \| (.*) \|$", table, re.MULTILINE)
    }


def written(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)) for field in schema]


@pytest.mark.parametrize(
    ("title", "schema"),
    [
        ("Metadata", embeddings_format.METADATA_SCHEMA),
        ("Shards", embeddings_format.SHARDS_SCHEMA),
        ("Skipped", embeddings_format.SKIPPED_SCHEMA),
        ("Pairs", tables.PAIRS),
        ("Queries", tables.QUERIES),
        ("Hits", tables.HITS),
    ],
)
def test_a_table_is_the_schema(title, schema):
    assert columns(title) == written(schema)


def test_predictions_are_as_written(tmp_path):
    with ParquetTable(tmp_path / "found.parquet"):
        pass
    assert columns("Predictions") == written(pq.read_schema(tmp_path / "found.parquet"))


def test_predictions_of_a_task_are_as_written(tmp_path):
    """Of a task of one label an image, and of one of several."""
    from reactvl.evaluate.outputs import write_predictions

    write_predictions(tmp_path / "task.parquet", scored(), ["base"])
    stated = columns("Predictions of a task")
    assert stated == written(pq.read_schema(tmp_path / "task.parquet"))
    several = truth(np.eye(2, dtype=np.int64), ["a", "b"])
    text = section("Predictions of a task")
    for name, values in several.items():
        assert f"`{name}`, `{str(values.type).replace('item', 'element')}`" in text


def scored():
    """One image of two classes, answered by one column, in the shape that `write_predictions` reads."""
    from types import SimpleNamespace as Made

    ranking = Made(predicted=np.array([1]), classes=np.array([[1, 0]]), probabilities=np.array([[0.7, 0.3]]))
    return Made(
        samples=Made(names=["a.png"]),
        rows=np.array([0]),
        task=Made(classes=["cat", "dog"]),
        labels=np.array([1]),
        rankings={"base": ranking},
        correct=lambda label: np.array([True]),
    )


def test_what_a_manifest_holds():
    assert list(listed("manifest.json", "| key | content |")) == [
        field.name for field in msgspec.structs.fields(Manifest)
    ]


def test_the_names_that_others_give_to_columns():
    assert listed("Metadata", "| here | read from |") == {name: list(known) for name, known in SOURCES.items()}


def test_lists_of_words_are_the_codes():
    assert re.findall(r"`([a-z]+)`", section("Pool").partition("the picture:")[2].partition(";")[0]) == list(
        tars.IMAGE_EXTENSIONS
    )
    assert f"more than {tars.MAX_TEXT >> 20} MiB" in section("Pool")
    assert re.findall(r"`([\w ]+)`", section("Hits").partition("Fates:")[2]) == list(FATES)
    modes = re.findall(r"`(\w+)`", section("Pairs").partition("of that query:")[2].partition(";")[0])
    assert modes == list(MODES)
    assert f"at most {fields.MAX_COLUMNS}" in section("Metadata")
    keys = re.findall(r"`(\w+)`", section("Evaluation").partition("ELEVATER's prediction file:")[2])
    assert keys == list(elevater_files.KEYS)


def test_lines_of_the_training_record():
    told = {"loss": 1.0, "lr": 1e-3, "logit_scale": 14.0, "accuracy": 0.5, "gates": np.array([0.1, -0.2])}
    [line] = re.findall(r"`metrics.jsonl` \| (.*) \|", section("Customized"))
    stated = re.findall(r"`(\w+)`", line)
    assert stated == list(record_of(0, 0.0, told, ["0.attn", "0.dense"]))
    [line] = re.findall(r"`checkpoints/step_N.safetensors` \| (.*) \|", section("Customized"))
    assert re.findall(r"`(\w+):`", line) == list(checkpoints.MOMENTS)


def test_the_columns_of_a_csv_are_packs_defaults():
    defaults = {option.name: option.default for option in options_of(pack)}
    assert f"columns `{defaults['csv_img_key']}` and `{defaults['csv_caption_key']}`" in section("What you write")


def test_the_class_file_shown_is_read(tmp_path):
    from reactvl.tasks.classes import read_class_list

    [text] = [match[3] for match in FENCE.finditer(GUIDE.read_text()) if match[2] == "toml"]
    (tmp_path / "classes.toml").write_text(text)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/panda-1.jpg").write_bytes(b"")
    [entry] = read_class_list(tmp_path / "classes.toml")
    assert entry.synonyms == ("red panda", "lesser panda")
    assert entry.templates == ("a photo of a {}, a mammal.",) and entry.examples[0].name == "panda-1.jpg"
