"""`--where`: a condition over the metadata's columns, in SQL, decided by DuckDB row group by row group.

    reactvl retrieve run/embeddings --where "width >= 200 AND similarity > 0.3 AND NOT caption ILIKE '%stock photo%'"

A recipe may come from a stranger, so a condition can do nothing but decide: DuckDB runs in memory with external access
off and its configuration locked; the text must parse as one expression and nothing beside it; and its syntax tree may
hold columns, constants, comparisons, casts and the functions of FUNCTIONS, which are functions of their arguments
alone, of one row, and of bounded size. So no subquery, no file, no other statement, no clock and no chance.
"""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.handles.foreign_columns import canonical_types, read_columns
from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    from reactvl.handles.embeddings import Embeddings, Part

SIMILARITY = "similarity"
TABLE = "pool"
NODES = {
    "BETWEEN",
    "CASE",
    "CAST",
    "COLLATE",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "OPERATOR",
    "TYPE",
}
ALLOWED = """
    = != < <= > >= + - * / // % ** ^ ~ ~~ !~~ ~~* !~~* ~~~ || & | << >> @ ^@ xor abs ceil ceiling floor round trunc
    sign sqrt cbrt exp ln log log2 log10 pow power mod least greatest even isnan isinf isfinite coalesce nullif if
    ifnull bit_count hamming jaccard levenshtein damerau_levenshtein jaro_similarity jaro_winkler_similarity
    editdist3 mismatches lower upper lcase ucase length len strlen char_length character_length octet_length
    bit_length trim ltrim rtrim left right substr substring replace reverse strip_accents nfc_normalize concat
    concat_ws split_part strpos instr position contains starts_with ends_with prefix suffix like_escape
    not_like_escape ilike_escape not_ilike_escape regexp_matches regexp_full_match regexp_extract regexp_replace
    regexp_escape ascii unicode ord chr translate hex unhex to_hex from_hex md5 sha1 sha256 hash url_decode
    url_encode parse_filename parse_dirname string_split str_split split list_contains list_has array_contains
    array_length list_extract array_extract list_value struct_extract json_extract json_extract_string json_exists
    json_valid json_type json_value ->> year month day hour minute second quarter week weekday dayofweek dayofyear
    isodow date_part datepart date_trunc datetrunc date_diff datediff strptime try_strptime strftime make_date epoch
    epoch_ms to_timestamp
"""
FUNCTIONS = frozenset(ALLOWED.split())
CONFIG = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # a name in the condition must never be a Python variable
    "threads": "1",
    "memory_limit": "1GB",
    "lock_configuration": "true",
}
ROWS = 65_536  # decided at a time


@dataclass(frozen=True)
class Condition:
    """A condition that has been checked: its text, and the columns that it names, each with the spelling under which
    the metadata or `canonical_types` has it."""

    text: str
    columns: dict[str, str]  # folded name -> column

    def __str__(self) -> str:
        return f'where "{self.text if len(self.text) <= 80 else self.text[:77] + "..."}"'


def checked_condition(embeddings: "Embeddings", text: str) -> Condition:
    """A condition that may be run on these embeddings.

    Columns are those of the metadata, under our names and under those of the files (letters' case aside), and
    `similarity`: the column of that name, or the cosine of picture and caption where there is none. Raises ReactvlError
    for text that is not one expression, that names an unknown column (with the nearest known ones) or function, that is
    no yes or no, and for anything else that may not stand in a condition.
    """
    names = known_columns(embeddings)
    tree = parsed(text)
    wanted: dict[str, str] = {}
    for name in named_columns(tree, text):
        column = names.get(name.casefold())
        if column is None:
            near = difflib.get_close_matches(name.casefold(), names, n=3, cutoff=0.5)
            hint = ", ".join(names[key] for key in near) if near else ", ".join(list(names.values())[:20])
            raise ReactvlError(f"where: there is no column '{name}'; {'did you mean' if near else 'there are'} {hint}")
        wanted[name.casefold()] = column
    if not wanted:
        raise ReactvlError(f'where: "{text}" names no column; such as width, caption or {SIMILARITY}')
    condition = Condition(text, wanted)
    types = column_types(embeddings, condition)
    nothing = {folded: pa.nulls(0, types.get(column, pa.null())) for folded, column in wanted.items()}
    Decider(condition, types)(pa.table(nothing))  # whether it binds, and is a yes or no
    return condition


def decided(embeddings: "Embeddings", condition: Condition) -> Iterator[np.ndarray]:
    """bool arrays that together have a value for every row of every part, in order: is the condition true there;
    neither false nor unknown (null).

    Metadata is read one row group at a time, and of it the columns that are named. Raises ReactvlError when a row cannot
    be decided (a cast that fails: use try_cast).
    """
    decide = Decider(condition, column_types(embeddings, condition))
    for part in embeddings.parts:
        for table in tables_of(part, condition):
            yield decide(table)


def known_columns(embeddings: "Embeddings") -> dict[str, str]:
    """Folded name -> the name by which `read_columns` gives the column; ours win over a file's of the same letters."""
    names = {name.casefold(): name for name in reversed(embeddings.columns())}
    present = {name for part in embeddings.parts for name in canonical_types() if has(part, name)}
    names |= {name.casefold(): name for name in canonical_types() if name in present}
    if SIMILARITY not in names and all(
        part.images() is not None and part.texts() is not None for part in embeddings.parts
    ):
        names[SIMILARITY] = SIMILARITY
    return names


def has(part: "Part", column: str) -> bool:
    from reactvl.handles.foreign_columns import source_of

    return source_of(column, part.names) is not None


def connected() -> duckdb.DuckDBPyConnection:
    """A database in memory that reaches nothing; it ends with the last reference to it."""
    return duckdb.connect(":memory:", config=CONFIG)


def parsed(text: str) -> dict:
    """The syntax tree of a condition; ReactvlError when it is not one expression and nothing else."""
    refused = ReactvlError(f'where: "{text}" is not one condition; such as "width > 200 AND caption LIKE \'%panda%\'"')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ReactvlError(f"where: {text!a} is not Unicode text") from None
    if not text.strip() or "\0" in text:
        raise refused
    connection = connected()
    tree, frame = (_parse(connection, f"SELECT (\n{inner}\n) AS keep FROM {TABLE}") for inner in (text, "true"))
    if tree.get("error"):
        raise ReactvlError(f'where: "{text}" is no condition ({tree["error_message"].splitlines()[0]})')
    # Whatever the text is, beside its one expression it must have left the statement around it as it was.
    try:
        expressions = tree["statements"][0]["node"].pop("select_list")
        frame["statements"][0]["node"].pop("select_list")
    except (KeyError, IndexError):
        raise refused from None
    if len(expressions) != 1 or without_places(tree) != without_places(frame):
        raise refused
    return expressions[0]


def _parse(connection: duckdb.DuckDBPyConnection, statement: str) -> dict:
    try:
        return json.loads(connection.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()[0][0])
    except duckdb.Error as fault:
        return {"error": True, "error_message": str(fault)}


def without_places(tree: Any) -> Any:
    """A syntax tree without the places in the text."""
    if isinstance(tree, dict):
        return {name: without_places(value) for name, value in tree.items() if not name.startswith("query_location")}
    return [without_places(value) for value in tree] if isinstance(tree, list) else tree


def named_columns(tree: Any, text: str) -> Iterator[str]:
    """The columns that an expression names; ReactvlError for what may not stand in a condition."""
    if isinstance(tree, list):
        for value in tree:
            yield from named_columns(value, text)
        return
    if not isinstance(tree, dict):
        return
    kind = tree.get("class")
    if kind is not None and kind not in NODES:
        word = {"STAR": "*", "LAMBDA": "a lambda"}.get(kind, f"a {kind.lower().replace('_', ' ')}")
        raise ReactvlError(f'where: "{text}" holds {word}; only columns, constants, comparisons and functions may')
    if tree.get("subquery") is not None or tree.get("subquery_type") is not None:
        raise ReactvlError(f'where: "{text}" holds a subquery; only columns, constants, comparisons and functions may')
    if kind == "FUNCTION":
        name = tree["function_name"].lower()
        if name not in FUNCTIONS or tree.get("schema") or tree.get("catalog"):
            near = difflib.get_close_matches(name, sorted(FUNCTIONS), n=3)
            hint = f"; did you mean {', '.join(near)}" if near else ""
            raise ReactvlError(f"where: there is no function '{name}' in a condition{hint}")
    if kind == "COLUMN_REF":
        path = tree["column_names"]
        yield path[1] if len(path) > 1 and path[0] == TABLE else path[0]
    for value in tree.values():
        yield from named_columns(value, text)


def column_types(embeddings: "Embeddings", condition: Condition) -> dict[str, pa.DataType]:
    """The type of every column that is named: a part that lacks a column has nulls of the type it has in the others."""
    types: dict[str, pa.DataType] = {}
    for part in embeddings.parts:
        if all(column in types for column in condition.columns.values()):
            break
        if not part.rows:
            continue
        table = next(tables_of(part, condition))
        for field in table.rename_columns(list(condition.columns.values())).schema:
            if not pa.types.is_null(field.type):
                types.setdefault(field.name, field.type)
    return types


def tables_of(part: "Part", condition: Condition) -> Iterator[pa.Table]:
    """The named columns of all rows, under their folded names, in pieces of a row group at most."""
    columns = list(condition.columns.values())
    computed = [name for name in columns if name == SIMILARITY and SIMILARITY not in map(str.casefold, part.names)]
    stored = [name for name in columns if name not in computed]
    first = 0
    with pq.ParquetFile(part.metadata_path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    for group, size in enumerate(sizes):
        whole = read_columns(part.metadata_path, stored, group) if stored else None
        for start in range(0, size, ROWS):
            stop = min(start + ROWS, size)
            arrays = {}
            for folded, column in condition.columns.items():
                if column in computed:
                    arrays[folded] = pa.array(similarities(part, first + start, first + stop))
                else:
                    arrays[folded] = whole[column].slice(start, stop - start)
            yield pa.table(arrays)
        first += size


def similarities(part: "Part", first: int, last: int) -> np.ndarray:
    """float32: the cosine of picture and caption of rows `first` to `last`; vectors are stored normalised."""
    images, texts = (np.asarray(side()[first:last], dtype=np.float32) for side in (part.images, part.texts))
    return np.einsum("nd,nd->n", images, texts)


class Decider:
    """Decides tables of the named columns, one after another: bool (rows,)."""

    def __init__(self, condition: Condition, types: dict[str, pa.DataType]):
        self.connection, self.condition = connected(), condition
        self.types = {folded: types.get(column) for folded, column in condition.columns.items()}

    def __call__(self, table: pa.Table) -> np.ndarray:
        table = pa.table(
            {
                name: pa.nulls(table.num_rows, self.types[name])
                if pa.types.is_null(values.type) and self.types[name] is not None
                else values
                for name, values in zip(table.column_names, table.columns, strict=True)
            }
        )
        kept = self._kept(table)
        if not pa.types.is_boolean(kept.type):
            raise ReactvlError(f"{self.condition}: gives {kept.type}, not true or false; compare it with something")
        return kept.fill_null(False).to_numpy(zero_copy_only=False)

    def _kept(self, table: pa.Table) -> pa.Array:
        self.connection.register(TABLE, table)
        try:
            query = self.connection.sql(f"SELECT (\n{self.condition.text}\n) AS keep FROM {TABLE}")
            return query.to_arrow_table().column(0).combine_chunks()
        except duckdb.Error as fault:
            raise ReactvlError(f"{self.condition}: {str(fault).splitlines()[0]}") from None
        finally:
            self.connection.unregister(TABLE)
