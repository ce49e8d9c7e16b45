"""Compile filters, see `filter_syntax`, to conditions of SQLite and of Lance.

Text of the user never becomes part of a statement for SQLite: columns and operators come from tables here, and values
are parameters. Lance has no parameters; there, values are literals that are quoted here.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

from oneclip.search.filter_syntax import And, Compare, Contains, Empty, Node, Within, parse_filter
from oneclip.search.filter_values import COLUMNS, plain_text

ToLiteral: TypeAlias = Callable[[str | int | float], str]  # returns the expression of a value

EARTH_RADIUS = 6371.0088  # km; the mean radius

SQL_COLUMNS = {
    "path": "path_text(f.path)",
    "name": "path_name(f.path)",
    "folder": "path_folder(f.path)",
    "taken_at": "c.taken_at",
    "camera": "c.camera",
    "width": "c.width",
    "height": "c.height",
    "megapixels": "(c.width * c.height / 1000000.0)",
    "bytes": "f.size",
    "format": "c.format",
    "latitude": "c.latitude",
    "longitude": "c.longitude",
    "modified": "f.mtime_ns",
}
_LANCE_COLUMNS = {
    "path": "path",
    "name": "regexp_replace(path, '^.*/', '')",
    "folder": "regexp_replace(path, '/?[^/]*$', '')",
    "taken_at": "taken_at",
    "camera": "camera",
    "width": "width",
    "height": "height",
    "megapixels": "(CAST(width AS DOUBLE) * height / 1000000.0)",
    "bytes": "size",
    "format": "format",
    "latitude": "latitude",
    "longitude": "longitude",
    "modified": "mtime_ns",
}
_ORIENTATIONS = {  # to the operators between width and height, for = and for !=
    "landscape": (">", "<="),
    "portrait": ("<", ">="),
    "square": ("=", "!="),
}
_TEXT_KINDS = ("text", "format")


def compile_sql(text: str) -> tuple[str, list[Any]]:
    """Compile a filter to a condition of SQLite.

    The connection must have the functions of `register_functions`.

    Returns:
        The condition, in parentheses where it needs them, over `files AS f JOIN contents AS c`; and the values of its
        parameters `?`, in order.

    Raises:
        QueryError: if the filter cannot be understood; the message marks the position.
    """
    values: list[Any] = []

    def literal(value: str | int | float) -> str:
        values.append(value)
        return "?"

    return _Compiler(SQL_COLUMNS, literal, _contains_in_sql, _within_in_sql).compile(
        parse_filter(text)
    ), values


def compile_lance(text: str) -> str:
    """Compile a filter to a condition for a Lance dataset.

    The dataset has the columns path, width, height, taken_at (text), camera, latitude, longitude, format, size (bytes)
    and mtime_ns. Lance ignores case with `lower`, which differs from SQLite's result for a few letters, such as "ß".

    Raises:
        QueryError: if the filter cannot be understood; the message marks the position.
    """
    return _Compiler(_LANCE_COLUMNS, _quoted, _contains_in_lance, _within_in_lance).compile(
        parse_filter(text)
    )


def register_functions(connection: sqlite3.Connection) -> None:
    """Give a connection the functions that conditions of `compile_sql` call."""
    for name, function, arguments in (
        ("path_text", _path_text, 1),
        ("path_name", _path_name, 1),
        ("path_folder", _path_folder, 1),
        ("contains_ignoring_case", _contains_ignoring_case, 2),
        ("distance_km", distance_km, 4),
    ):
        connection.create_function(name, arguments, function, deterministic=True)


def distance_km(
    latitude: float | None, longitude: float | None, other_latitude: float, other_longitude: float
) -> float | None:
    """Return the great-circle distance of two places given in degrees (haversine formula); None if one is unknown."""
    if latitude is None or longitude is None:
        return None
    north, other_north = math.radians(latitude), math.radians(other_latitude)
    east = math.radians(longitude - other_longitude)
    half_chord = (
        math.sin((north - other_north) / 2) ** 2
        + math.cos(north) * math.cos(other_north) * math.sin(east / 2) ** 2
    )
    return 2 * EARTH_RADIUS * math.asin(math.sqrt(min(1.0, half_chord)))


class _Compiler:
    """Compile a tree for one engine.

    Args:
        columns: expression of each column.
        literal: returns the expression of a value; called in the order of the condition.
        contains: returns the test whether an expression contains a literal.
        within: returns the expression of the distance test of a place.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        literal: ToLiteral,
        contains: Callable[[str, str, ToLiteral], str],
        within: Callable[[Within, ToLiteral], str],
    ) -> None:
        self._columns, self._literal, self._contains, self._within = columns, literal, contains, within

    def compile(self, node: Node) -> str:
        if isinstance(node, Compare):
            return self._compare(node)
        if isinstance(node, Contains):
            test = self._contains(self._columns[node.column], node.text, self._literal)
            return f"NOT {test}" if node.negated else test
        if isinstance(node, Empty):
            return self._empty(node)
        if isinstance(node, Within):
            return self._within(node, self._literal)
        joint = " AND " if isinstance(node, And) else " OR "
        return f"({joint.join(self.compile(part) for part in node.parts)})"

    def _compare(self, node: Compare) -> str:
        if node.column == "orientation":
            equal, unequal = _ORIENTATIONS[str(node.value)]
            operator = equal if node.operator == "=" else unequal
            return f"{self._columns['width']} {operator} {self._columns['height']}"
        return f"{self._columns[node.column]} {node.operator} {self._literal(node.value)}"

    def _empty(self, node: Empty) -> str:
        """Test the first of the columns that a column is made of; the others are unknown with it."""
        made_of = {"place": "latitude", "orientation": "width", "megapixels": "width"}.get(
            node.column, node.column
        )
        column = self._columns[made_of]
        if COLUMNS[node.column] in _TEXT_KINDS:
            return f"{column} != ''" if node.negated else f"({column} IS NULL OR {column} = '')"
        return f"{column} IS {'NOT ' if node.negated else ''}NULL"


# ------------------------------------------------------------------------------------------------------- SQLite


def _contains_in_sql(column: str, text: str, literal: ToLiteral) -> str:
    return f"contains_ignoring_case({column}, {literal(text)})"


def _within_in_sql(node: Within, literal: ToLiteral) -> str:
    place = f"{literal(node.latitude)}, {literal(node.longitude)}"
    operator = ">" if node.negated else "<="
    return f"distance_km(c.latitude, c.longitude, {place}) {operator} {literal(node.distance)}"


def _path_text(path: bytes | None) -> str | None:
    """Return a path of the catalogue as text, with "/" between folders on every system."""
    return None if path is None else plain_text(path).replace(os.sep, "/")


def _path_name(path: bytes | None) -> str | None:
    return None if path is None else plain_text(path).replace(os.sep, "/").rpartition("/")[2]


def _path_folder(path: bytes | None) -> str | None:
    return None if path is None else plain_text(path).replace(os.sep, "/").rpartition("/")[0]


def _contains_ignoring_case(text: str | None, part: str) -> bool | None:
    return None if text is None else part.casefold() in text.casefold()


# -------------------------------------------------------------------------------------------------------- Lance


def _quoted(value: str | int | float) -> str:
    """Return a literal of Lance. Numbers have no exponent, which its parser does not know."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, int):
        return str(value)
    digits = format(Decimal(repr(value)), "f")
    return digits if "." in digits else f"{digits}.0"


def _contains_in_lance(column: str, text: str, literal: ToLiteral) -> str:
    return f"contains(lower({column}), {literal(text.lower())})"


def _within_in_lance(node: Within, literal: ToLiteral) -> str:
    """Compare the half chord of the haversine formula, see `distance_km`, with that of the distance."""
    angle = node.distance / (2 * EARTH_RADIUS)
    largest = math.sin(angle) ** 2 if angle < math.pi / 2 else 2.0  # 2: the whole earth
    north = f"power(sin(radians(latitude - {literal(node.latitude)}) / 2.0), 2.0)"
    east = f"power(sin(radians(longitude - {literal(node.longitude)}) / 2.0), 2.0)"
    narrowing = literal(math.cos(math.radians(node.latitude)))  # meridians meet at the poles
    half_chord = f"{north} + cos(radians(latitude)) * {narrowing} * {east}"
    return f"({half_chord}) {'>' if node.negated else '<='} {literal(largest)}"
