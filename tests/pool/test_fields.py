"""Fields of any mix become columns of one schema, whatever shards they come from."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactvl.pool import fields
from reactvl.pool.embeddings_format import METADATA_SCHEMA
from reactvl.pool.fields import commonest, field_columns, fitted, whole_schema

VALUES = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, width=32), st.text(max_size=5)
)
SAMPLES = st.lists(st.dictionaries(st.sampled_from("abcde"), VALUES, max_size=4), max_size=6)
OWN = len(METADATA_SCHEMA)


def base(rows: int) -> pa.Table:
    return pa.table([pa.nulls(rows, field.type) for field in METADATA_SCHEMA], schema=METADATA_SCHEMA)


def piece(samples):
    extra, found = field_columns(samples)
    table = base(len(samples))
    for name in found:
        table = table.append_column(name, extra[name])
    return table, found


@given(st.lists(SAMPLES, min_size=1, max_size=4))
def test_every_value_stands_in_its_column(shards):
    pieces = [piece(samples) for samples in shards]
    schema, too_many = whole_schema(found for _, found in pieces)
    assert too_many == 0 and schema.names[OWN:] == sorted({name for shard in shards for one in shard for name in one})
    whole = pa.concat_tables([fitted(table, schema) for table, _ in pieces])
    assert whole.schema == schema
    samples = [sample for shard in shards for sample in shard]
    for name in schema.names[OWN:]:
        given = [sample.get(name) for sample in samples]
        kinds = {type(value) for value in given if value is not None}
        wanted = {frozenset({bool}): "bool", frozenset({int}): "int64", frozenset({float}): "double"}
        wanted[frozenset({int, float})] = "double"
        assert str(schema.field(name).type) == wanted.get(frozenset(kinds), "string")
        for value, held in zip(given, whole[name].to_pylist(), strict=True):
            if value is None:
                assert held is None
            elif isinstance(held, str) and not isinstance(value, str):
                assert json.loads(held) == value  # a number may have become a double on the way
            else:
                assert held == value


def test_the_order_of_the_shards_does_not_matter():
    found = [piece(samples)[1] for samples in ([{"b": 1, "a": 1}], [{"a": 0.5}], [{"c": True}, {"b": "x"}])]
    assert whole_schema(found) == whole_schema(reversed(found))


@pytest.mark.parametrize("name", ["key", "WIDTH", "Caption", "sha256"])
def test_our_own_columns_win(name):
    table, found = field_columns([{name: 1, "other": 2}])
    assert list(found) == ["other"] and table.column_names == ["other"]
    assert field_columns([{name: 1}]) == (None, {})


def test_names_made_of_data_do_not_become_a_million_columns(monkeypatch):
    monkeypatch.setattr(fields, "MAX_COLUMNS", 3)
    samples = [{f"id-{number}": 1, "often": number} for number in range(9)]
    table, found = field_columns(samples)
    assert list(found) == ["id-0", "id-1", "often"] and table.num_rows == 9
    schema, too_many = whole_schema([found, field_columns([{"rare": 1, "often": 1}])[1], {"id-1": ("string", 4)}])
    assert schema.names[OWN:] == ["id-0", "id-1", "often"] and too_many == 1
    assert commonest({"b": 1, "a": 1, "c": 5, "d": 4}) == ["a", "c", "d"]
