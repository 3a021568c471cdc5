"""Conditions over the registry, parsed and answered by DuckDB: `metrics.loss < 0.2 and config.lr >= 1e-3`.

The condition is one expression, never a statement; the connection sees the registry's table and nothing else: no file,
no extension, no setting, no variable of this process.

Metrics and hyperparameters reach it under names that differ by more than case, since DuckDB tells no others apart, and
without NaN, which it holds to be greater than every number: here a NaN is a value that is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from ray_workers.store.errors import InvalidInputError
from ray_workers.store.registry import SCHEMA

__all__ = ["search"]

_GROUPS = ("metrics", "config", "config_text")
_MENTIONED = re.compile(r"\b(metrics|config)\.([a-z_]\w*(?:\.[a-z_]\w*)*)", re.IGNORECASE)
_STRING = re.compile(r"'(?:[^']|'')*'")
_MOST_NAMES = 20
_Tree = dict[str, Any]
_CLOSE = """
SET python_enable_replacements = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET enable_external_access = false;
SET lock_configuration = true;
"""


def search(
    table: pa.Table, condition: str, *, order: str | None = None, limit: int | None = None
) -> pa.Table:
    """The rows for which `condition` holds, by run and number unless `order` says otherwise.

    Args:
        table: what `read_registry` gives.
        condition: an SQL expression over the columns; metrics are `metrics.NAME`, hyperparameters `config.NAME`. Small
            and capital letters are the same. A metric that is NaN is null: it satisfies no comparison, and is last in
            every order.
        order: SQL terms to sort by, such as `metrics.loss desc`.
        limit: the most rows to give.

    Raises:
        InvalidInputError: the condition or the order cannot be understood; it says where.
    """
    _check_names(table, f"{condition} {order or ''}")
    connection = duckdb.connect(":memory:")
    try:
        connection.execute(_CLOSE)
        rows = connection.from_arrow(_renamed(table)).project(_projection(table.schema))
        found = rows.filter(f"({condition}\n)").order(order or "run, number")
        chosen = found if limit is None else found.limit(limit)
        numbers = chosen.project("pawl_row").fetchall()
    except duckdb.Error as error:
        raise InvalidInputError(_told(condition, order, error)) from None
    finally:
        connection.close()
    return table.take(pa.array([number for (number,) in numbers], pa.int64()))


def _check_names(table: pa.Table, text: str) -> None:
    """A metric or hyperparameter that no version has is a slip of the pen, and DuckDB would find nothing, or say `struct`.

    Raises:
        InvalidInputError: with the names that there are. Nothing is said of an empty table.
    """
    if table.num_rows == 0:
        return
    known = {
        "metrics": _names(table, "metrics"),
        "config": _names(table, "config") | _names(table, "config_text"),
    }
    for group, name in _MENTIONED.findall(_STRING.sub("''", text)):
        if not any(_same_path(name.lower(), there.lower()) for there in known[group.lower()]):
            listed = "; ".join(
                f"{which}.NAME: {', '.join(sorted(names)[:_MOST_NAMES]) or 'none'}"
                for which, names in known.items()
            )
            raise InvalidInputError(f"No version has {group}.{name}. There are {listed}.")


def _names(table: pa.Table, group: str) -> set[str]:
    prefix = f"{group}."
    return {name.removeprefix(prefix) for name in table.schema.names if name.startswith(prefix)}


def _same_path(name: str, there: str) -> bool:
    """Also a branch of nested names, and a column with a method of DuckDB behind it."""
    return f"{there}.".startswith(f"{name}.") or f"{name}.".startswith(f"{there}.")


def _renamed(table: pa.Table) -> pa.Table:
    """Typed columns by their place: DuckDB would take `metrics.Loss` and `metrics.loss` for one."""
    names = table.schema.names
    return table.rename_columns(
        [name if name in SCHEMA.names else _place(index) for index, name in enumerate(names)]
    )


def _place(index: int) -> str:
    return f"pawl_{index}"


def _projection(schema: pa.Schema) -> str:
    """The fixed columns as they are, the typed ones as one struct a group, and each row's place in the table."""
    typed = {
        field.name: _value(field.type, _place(index))
        for index, field in enumerate(schema)
        if field.name not in SCHEMA.names and _searchable(field.name)
    }
    groups = {
        group: {name: value for name, value in typed.items() if name.startswith(f"{group}.")}
        for group in _GROUPS
    }
    # Text is found under `config.NAME` too, unless some run has a number there.
    taken = {_path(name) for name in groups["config"]}
    text = {n: v for n, v in groups["config_text"].items() if _path(n) not in taken}
    groups["config"] |= text
    structs = [
        f"{_struct(_tree(columns))} AS {_quoted(group)}" for group, columns in groups.items()
    ]
    return ", ".join(
        [*map(_quoted, SCHEMA.names), *structs, "row_number() OVER () - 1 AS pawl_row"]
    )


def _value(kind: pa.DataType, column: str) -> str:
    return f"nullif({column}, 'nan'::DOUBLE)" if pa.types.is_floating(kind) else column


def _searchable(name: str) -> bool:
    """SQL has no name that is empty, and none with NUL."""
    return all(_path(name)) and "\0" not in name


def _path(name: str) -> tuple[str, ...]:
    """`config.Model.layers` as `("model", "layers")`: DuckDB takes ASCII letters, and no others, for the same in both cases."""
    return tuple(name.encode().lower().decode().split(".")[1:])


def _tree(columns: Mapping[str, str]) -> _Tree:
    """`config.model.layers` becomes `{"model": {"layers": [value]}}`; of a leaf and a branch of one name, the branch."""
    tree: _Tree = {}
    for name in sorted(columns, key=lambda name: (-name.count("."), name)):
        *branch, leaf = _path(name)
        here = tree
        for part in branch:
            here = here.setdefault(part, {})
        values = here.setdefault(leaf, [])
        if isinstance(values, list):
            values.append(columns[name])
    return tree


def _struct(tree: _Tree) -> str:
    if not tree:
        return "NULL"
    fields = [
        f"{_quoted(name)} := {_struct(below) if isinstance(below, dict) else _either(below)}"
        for name, below in sorted(tree.items())
    ]
    return f"struct_pack({', '.join(fields)})"


def _either(values: Sequence[str]) -> str:
    """Runs may spell one name in several ways; of a version that has two of them, the first in the order of bytes."""
    return values[0] if len(values) == 1 else f"coalesce({', '.join(values)})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _told(condition: str, order: str | None, error: duckdb.Error) -> str:
    reason = " ".join(str(error).partition("\n\n")[0].split())
    what = f"The condition {condition[:200]!r}" + (f", sorted by {order[:100]!r}," if order else "")
    return (
        f"{what} cannot be used: {reason[:400].rstrip('.')}. Write an SQL expression over the registry's columns, such as "
        "\"metrics.loss < 0.2 and config.lr >= 1e-3 and rung = 'sound'\"."
    )
