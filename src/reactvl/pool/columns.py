"""Tables of rows whose fields and types are not known beforehand: a column a field, of the narrowest type that holds all.

The types are bool, int64, double and string. Whole and broken numbers join to double, anything else that disagrees to
string; so the type of a column does not depend on the order in which its values or shards come.
"""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = {"bool": bool, "int64": int, "double": float, "string": str}


def kind_of(value: Any) -> str:
    """The column type of one value; what is no scalar is a string, as json."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "string"
    return "double" if isinstance(value, float) else "string"


def joined(one: str | None, other: str) -> str:
    """The type that holds values of both; None is that of no value yet."""
    if one is None or one == other:
        return other
    return "double" if {one, other} == {"int64", "double"} else "string"


def kinds_of(rows: Iterable[Mapping[str, Any]], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """The type of every field of the rows, in the order in which they are met, after those of `known`."""
    kinds = dict(known or {})
    for row in rows:
        for name, value in row.items():
            if value is not None:
                kinds[name] = joined(kinds.get(name), kind_of(value))
            else:
                kinds.setdefault(name, None)
    return kinds


def table_of(rows: list[Mapping[str, Any]], kinds: Mapping[str, str | None]) -> "pa.Table":
    """The rows as an Arrow table of these columns; a field that a row lacks is null."""
    import pyarrow as pa

    return pa.table(
        {
            name: pa.array([held_as(row.get(name), kind or "string") for row in rows], arrow_type(kind or "string"))
            for name, kind in kinds.items()
        }
    )


def arrow_type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return {"bool": pa.bool_(), "int64": pa.int64(), "double": pa.float64(), "string": pa.string()}[kind]


def held_as(value: Any, kind: str) -> Any:
    """A value in its column's type: texts as they are, other things in a column of strings as json."""
    if value is None:
        return None
    if kind != "string":
        return KINDS[kind](value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode()
