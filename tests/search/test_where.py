"""Filters: what they mean, as conditions of SQLite and of Lance, and which are refused."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneclip.errors import QueryError
from oneclip.search.filter_syntax import (
    MAX_DEPTH,
    MAX_LENGTH,
    MAX_TESTS,
    And,
    Compare,
    Contains,
    Empty,
    Node,
    Within,
    parse_filter,
)
from oneclip.search.filter_values import COLUMNS
from oneclip.search.where import compile_lance, compile_sql, distance_km, register_functions

# path, bytes, time of the file, width, height, format, taken_at, camera, latitude, longitude
ROWS: list[tuple[Any, ...]] = [
    ("a.jpg", 500, "2023-05-01T00:00:00", 400, 300, "jpeg", "2023-05-01T12:30:00", "Google Pixel 7", 52.52, 13.405),
    ("trip/B's.PNG", 2_000_000, "2023-12-31T23:59:59", 300, 400, "png", None, None, None, None),
    ("trip/Été.heic", 2_000_001, "2022-01-01T00:00:00", 4000, 3000, "heif", "2023-05-31T23:59:59+02:00",
     "Apple iPhone 12", 48.85, 2.35),
    ("trip/day 1/x_%.jpg", 7, "1999-06-01T12:00:00", 8, 8, "jpeg", "2022-12-31T23:59:59", "Canon EOS", -33.86, 151.21),
    ("b/c/d/a.jpg", 3000, "2024-02-29T10:00:00", 640, 480, "jpeg", "2024-01-01T00:00:00-08:00", "google pixel 7 Pro",
     52.4, 13.06),
    ("\"; DROP TABLE files; --.gif", 1, "2020-01-01T00:00:00", 1, 2, "gif", "2023-06-01T00:00:00", "", 90.0, 0.0),
]  # fmt: skip
FIELDS = (
    *(
        "path",
        "bytes",
        "modified",
        "width",
        "height",
        "format",
        "taken_at",
        "camera",
        "latitude",
        "longitude",
    ),
)


def mtime_ns(local: str) -> int:
    return int(datetime.fromisoformat(local).timestamp()) * 10**9


@pytest.fixture(scope="module")
def catalogue() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE files (id, root, path BLOB, size, mtime_ns, content, error);"
        "CREATE TABLE contents (id, sha256, width, height, format, taken_at, camera, latitude, longitude);"
    )
    for i, (path, size, modified, *rest) in enumerate(ROWS):
        connection.execute(
            "INSERT INTO files VALUES (?, 1, ?, ?, ?, ?, NULL)",
            (i, os.fsencode(path), size, mtime_ns(modified), i),
        )
        connection.execute("INSERT INTO contents VALUES (?, '', ?, ?, ?, ?, ?, ?, ?)", (i, *rest))
    register_functions(connection)
    yield connection
    connection.close()


def matches(catalogue: sqlite3.Connection, text: str) -> list[int]:
    """Return the numbers of the rows that a filter selects."""
    condition, values = compile_sql(text)
    query = (
        f"SELECT f.id FROM files AS f JOIN contents AS c ON f.content = c.id WHERE {condition} ORDER BY f.id"
    )
    return [row for (row,) in catalogue.execute(query, values)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("path = a.jpg", [0]),
        ("PATH = 'trip/B''s.PNG'", [1]),
        ('path = "trip/B\'s.PNG"', [1]),
        ("path ~ TRIP/", [1, 2, 3]),
        ("path ~ e\u0301te\u0301", [2]),  # accents of their own, as macOS writes them
        ("path ~ '%'", [3]),
        ("path ~ '_'", [3]),
        ("name = a.jpg", [0, 4]),
        ("name != a.jpg", [1, 2, 3, 5]),
        ("name ~ .JPG", [0, 3, 4]),
        ("name !~ .jpg", [1, 2, 5]),
        ("folder = b/c/d", [4]),
        ("folder = 'trip/day 1'", [3]),
        ("folder is empty", [0, 5]),
        ("folder is not empty", [1, 2, 3, 4]),
        ("camera ~ pixel", [0, 4]),
        ("camera = 'Google Pixel 7'", [0]),
        ("camera != 'Google Pixel 7'", [2, 3, 4, 5]),  # 1 is unknown
        ("camera in ('Canon EOS', 'Apple iPhone 12')", [2, 3]),
        ("camera not in ('Canon EOS', 'Apple iPhone 12')", [0, 4, 5]),
        ("camera is empty", [1, 5]),
        ("camera is not empty", [0, 2, 3, 4]),
        ("not camera is empty", [0, 2, 3, 4]),
        ("not camera ~ pixel", [2, 3, 5]),
        ("not not camera ~ pixel", [0, 4]),
        ("taken_at = 2023-05", [0, 2]),
        ("taken_at = 2023", [0, 2, 5]),
        ("taken_at = '2023'", [0, 2, 5]),
        ("taken_at != 2023", [3, 4]),
        ("taken_at < 2023", [3]),
        ("taken_at <= 2023", [0, 2, 3, 5]),
        ("taken_at > 2023", [4]),
        ("taken_at >= 2023-06", [4, 5]),
        ("taken_at > 2023-05", [4, 5]),
        ("taken_at = 2023-05-31", [2]),  # local time as written
        ("taken_at = 2024-1-1", [4]),
        ("taken_at = 2023-05-01T12", [0]),
        ("taken_at = '2023-05-01 12:30'", [0]),
        ("taken_at <= 2023-05-01T12:29", [3]),
        ("taken_at > 2023-05-01T12:29:59", [0, 2, 4, 5]),
        ("taken_at <= 9999", [0, 2, 3, 4, 5]),
        ("taken_at in (2022, 2024)", [3, 4]),
        ("taken_at is empty", [1]),
        ("modified = 2023-12-31", [1]),
        ("modified < 2000 or modified >= 2024-02-29T10:00", [3, 4]),
        ("modified <= 9999", [0, 1, 2, 3, 4, 5]),
        ("modified > 0001", [0, 1, 2, 3, 4, 5]),
        ("width >= 400", [0, 2, 4]),
        ("width=8", [3]),
        ("width in (1,8)", [3, 5]),
        ("megapixels >= 12", [2]),
        ("megapixels < 0.12", [3, 5]),
        ("bytes > 2MB", [2]),
        ("bytes >= 2mb", [1, 2]),
        ("bytes < 0.5kB", [3, 5]),
        ("bytes <= 1.5KiB", [0, 3, 5]),
        ("bytes = 500", [0]),
        ("orientation = landscape", [0, 2, 4]),
        ("orientation != Landscape", [1, 3, 5]),
        ("orientation in (portrait, square)", [1, 3, 5]),
        ("not orientation = square", [0, 1, 2, 4, 5]),
        ("format = JPG", [0, 3, 4]),
        ("format in (heic, png)", [1, 2]),
        ("format not in (jpeg)", [1, 2, 5]),
        ("latitude < -33.5", [3]),
        ("longitude > +100", [3]),
        ("latitude is empty", [1]),
        ("place within 10km of 52.52,13.40", [0]),
        ("place within 30000m of 52.52, 13.40", [0, 4]),
        ("place within 10mi of 52.52,13.40", [0]),
        ("place not within 30km of 52.52,13.40", [2, 3, 5]),
        ("not place within 30km of 52.52,13.40", [2, 3, 5]),
        ("place within 1km of 90,-120", [5]),  # all meridians meet at the pole
        ("place within 20100km of 0,0", [0, 2, 3, 4, 5]),  # the whole earth
        ("place is empty", [1]),
        ("width > 1 and (camera ~ pixel or camera ~ canon) and not format = png", [0, 3, 4]),
        ("width = 1 or width = 8 and height = 8", [3, 5]),
        ("(width = 1 or width = 8) and height = 8", [3]),
        ("not (camera ~ pixel and width > 500)", [0, 1, 2, 3, 5]),  # 1: the width is known to be less
        ("not (camera ~ pixel or width > 500)", [3, 5]),
        ("Width > 1 AND Camera ~ PIXEL", [0, 4]),
        ("path = 'a.jpg' or width = 1", [0, 5]),
    ],
)
def test_a_filter_selects_what_it_says(catalogue: sqlite3.Connection, text: str, rows: list[int]) -> None:
    assert matches(catalogue, text) == rows


@pytest.mark.parametrize(
    ("text", "message", "mark"),
    [
        ("", "the filter is empty; expected one such as", None),
        (" \n ", "the filter is empty", None),
        ("taken >= 2023", r"no column 'taken'; did you mean taken_at\? Columns: path, name", "taken"),
        ("a and widht > 3", "no column 'a'. Columns: path", "a"),
        ("width > 3 and heigth > 3", r"no column 'heigth'; did you mean height\?", "heigth"),
        ("size > 3", r"did you mean bytes\?", "size"),
        ("sha256 = 3", "no column 'sha256'", "sha256"),
        ("width > 'abc'", "expected a whole number, found 'abc'", "'abc'"),
        ("width > 3.5", "expected a whole number, found '3.5'", "3.5"),
        ("width > nan", "expected a whole number, found 'nan'", "nan"),
        ("latitude < 1e9", "expected a number, found '1e9'", "1e9"),
        ("latitude < 99999999999999999999", "is too large", "99999999999999999999"),
        ("bytes > 2XB", "expected a size such as 500kB or 2MB, found '2XB'", "2XB"),
        ("taken_at = May", "expected a date such as 2023", "May"),
        ("taken_at = 2023-13", "'2023-13' is not a date: month must be in 1..12", "2023-13"),
        ("taken_at = 2023-05-01T12:30Z", "times are compared without their time zone", "2023-05-01T12:30Z"),
        ("taken_at ~ 2023", "`~` searches in texts, but taken_at is a date", "~"),
        ("camera < a", "`<` needs a number or a date, but camera is a text", "<"),
        ("orientation > square", "`>` needs a number or a date, but orientation is an orientation", ">"),
        ("orientation = up", "orientation is landscape, portrait or square; found 'up'", "up"),
        ("camera = 'abc", "this quote is not closed", "'"),
        ("camera = it's", "this quote is not closed", "'"),
        (
            "camera = Pixel 7",
            "expected `and`, `or` or the end, found '7'; put text with blanks in quotes",
            "7",
        ),
        ("(width = 3", "this parenthesis is not closed", "("),
        ("width = 3)", r"expected `and`, `or` or the end, found '\)'", ")"),
        ("(width = 3 4)", r"expected `and`, `or` or `\)`, found '4'", "4"),
        ("()", r"expected a column, found '\)'", ")"),
        ("width", "expected an operator after width, such as = or >=, found the end", "^"),
        ("width 3", "expected an operator after width, such as = or >=, found '3'", "3"),
        ("width >", "expected a value, found the end", "^"),
        ("width > and", "'and' is a keyword; put it in quotes", "and"),
        ("width = 3 and", "expected a column, found the end", "^"),
        ("'width' = 3", "expected a column, found 'width'", "'width'"),
        ("width ! 3", "unexpected '!'", "!"),
        ("width is 3", "expected `empty` after `is`, found '3'", "3"),
        ("width not 3", "expected `in` or `within` after `not`, found '3'", "3"),
        ("width in 3", r"expected `\(` after `in`, found '3'", "3"),
        ("width in ()", r"expected a value, found '\)'", ")"),
        ("width in (1, 2", r"expected `\)` after the values, found the end", "^"),
        ("place = home", "expected `place within 10km of 52.52,13.40` or `place is empty`, found '='", "="),
        ("place within 10 of 1,2", "expected a distance such as 10km, 500m or 3mi, found '10'", "10"),
        ("place within 1km of 91,2", "a latitude is between -90 and 90; found 91", "91"),
        ("place within 1km of 9,181", "a longitude is between -180 and 180; found 181", "181"),
        ("place within 1km of 9 2", "expected `,` after the latitude", "2"),
        ("width = 3; DROP TABLE files", "expected a whole number, found '3;'", "3;"),
        ("width = 3 union select 1", "expected `and`, `or` or the end, found 'union'", "union"),
        ("1=1", "no column '1'", "1"),
    ],
)
def test_a_bad_filter_gets_an_error_that_marks_the_place(text: str, message: str, mark: str | None) -> None:
    for compile_filter in (compile_sql, compile_lance):
        with pytest.raises(QueryError, match=message) as caught:
            compile_filter(text)
    if mark is None:
        return
    _, shown, marks = str(caught.value).split("\n")
    assert shown == f"  {text}"
    column = marks.index("^")
    assert len(marks) - column == len(mark)
    assert (shown[column:].startswith(mark)) or (mark == "^" and column == len(shown))


def test_the_error_of_a_long_filter_shows_the_part_that_is_wrong() -> None:
    with pytest.raises(QueryError) as caught:
        compile_sql("\n".join(["width > 3 or"] * 100) + " wrong > 3 " + "or width > 3" * 50)
    _, shown, marks = str(caught.value).split("\n")
    assert len(shown) < 130
    assert shown[marks.index("^") :].startswith("wrong")


# ----------------------------------------------------------------------------------------------- hostile input


@pytest.mark.parametrize(
    "text",
    [
        "(" * (MAX_DEPTH + 1) + "width = 3" + ")" * (MAX_DEPTH + 1),
        "(" * MAX_LENGTH,
        "not (" * 1000,
        " or ".join(["width = 3"] * (MAX_TESTS + 1)),
        f"width in ({','.join('1' * (MAX_TESTS + 1))})",
        "x" * (MAX_LENGTH + 1),
        "'" * (MAX_LENGTH - 1),
        "taken_at = " + "2" * 5000,
        "latitude = " + "." * 5000,
    ],
)
def test_a_hostile_filter_is_refused_at_once(text: str) -> None:
    with pytest.raises(QueryError):
        compile_sql(text)


LARGEST = [
    " or ".join(["taken_at = 2023"] * MAX_TESTS),
    f"taken_at in ({','.join(['2023'] * MAX_TESTS)})",
    "not " * 1000 + "width = 1",
    "not (width = 3 and " * MAX_DEPTH + "width = 1" + ")" * MAX_DEPTH,
    "(width = 1 or (width = 2 and " * (MAX_DEPTH // 2) + "not taken_at = 2023" + "))" * (MAX_DEPTH // 2),
]


@pytest.mark.parametrize("text", LARGEST, ids=range(len(LARGEST)))
def test_the_largest_filters_run(catalogue: sqlite3.Connection, dataset: Any, text: str) -> None:
    assert matches(catalogue, text) == lance_matches(dataset, text)


@pytest.mark.parametrize(
    "value",
    [
        "'; DROP TABLE files; --",
        "' OR '1'='1",
        "\\' OR 1=1 --",
        '"; DELETE FROM contents; --',
        "?",
        "\0",
        "%",
        "\udcff",
    ],
)
def test_values_stay_data(catalogue: sqlite3.Connection, dataset: Any, value: str) -> None:
    quoted = "'" + value.replace("'", "''") + "'"
    assert matches(catalogue, f"camera = {quoted}") == []
    assert matches(catalogue, f"camera ~ {quoted}") == []
    assert matches(catalogue, f"format = {quoted}") == []
    assert lance_matches(dataset, f"camera = {quoted}") == []
    assert lance_matches(dataset, f"camera ~ {quoted}") == []
    statement, values = compile_sql(f"camera = {quoted}")
    assert statement == "c.camera = ?"
    assert values == [value.replace("\udcff", "?")]
    assert len(matches(catalogue, "width > 0")) == len(ROWS)


@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
    | st.text("()'\"=<>~!, .0123aelnotrwid", max_size=40)
)
@settings(max_examples=120, deadline=None)
def test_any_text_is_a_filter_or_gets_an_error(text: str) -> None:
    try:
        compile_sql(text)
        compile_lance(text)
    except QueryError:
        pass


def test_a_file_name_that_is_no_text_can_be_found() -> None:
    connection = sqlite3.connect(":memory:")
    register_functions(connection)
    condition, values = compile_sql("name ~ caf and folder = a\udce9")  # from the command line
    query = f"SELECT {condition} FROM (SELECT ? AS path) AS f"
    assert connection.execute(query, (*values, b"a\xe9/caf\xe9.jpg")).fetchone() == (1,)
    connection.close()


def test_the_distance_is_that_of_the_great_circle() -> None:
    quarter = 6371.0088 * 3.14159265358979 / 2
    assert distance_km(0, 0, 90, 0) == pytest.approx(quarter)
    assert distance_km(0, 179, 0, -179) == pytest.approx(quarter / 45)
    assert distance_km(8, -73, -8, 107) == pytest.approx(2 * quarter)  # rounding gives a sine above 1
    assert distance_km(90, 12, -90, 7) == pytest.approx(2 * quarter)
    assert distance_km(52.52, 13.405, 48.8566, 2.3522) == pytest.approx(877.46, abs=0.5)  # Berlin to Paris
    assert distance_km(None, 3.0, 0, 0) is None


# ---------------------------------------------------------------------- SQLite and Lance against Python


def texts_of(row: dict[str, Any], column: str) -> Any:
    """Return the value of a column, computed from the row."""
    path = row["path"]
    if column == "name":
        return path.split("/")[-1]
    if column == "folder":
        return "/".join(path.split("/")[:-1])
    if column == "megapixels":
        return row["width"] * row["height"] / 1e6
    if column == "orientation":
        sign = (row["width"] > row["height"]) - (row["width"] < row["height"])
        return {1: "landscape", -1: "portrait", 0: "square"}[sign]
    if column == "place":
        return row["latitude"]
    return mtime_ns(row["modified"]) if column == "modified" else row[column]


def truth(node: Node, row: dict[str, Any]) -> bool | None:
    """Evaluate a tree for one row; None if the answer depends on an unknown value."""
    if isinstance(node, Compare | Contains):
        value = texts_of(row, node.column)
        if value is None:
            return None
        if isinstance(node, Contains):
            return (node.text.lower() in value.lower()) != node.negated
        return {
            "=": value == node.value, "!=": value != node.value,
            "<": value < node.value, "<=": value <= node.value,
            ">": value > node.value, ">=": value >= node.value,
        }[node.operator]  # fmt: skip
    if isinstance(node, Empty):
        return (texts_of(row, node.column) in (None, "")) != node.negated
    if isinstance(node, Within):
        distance = distance_km(row["latitude"], row["longitude"], node.latitude, node.longitude)
        return None if distance is None else (distance <= node.distance) != node.negated
    answers = [truth(part, row) for part in node.parts]
    decisive = not isinstance(node, And)  # one True decides `or`, one False `and`
    if decisive in answers:
        return decisive
    return None if None in answers else not decisive


def expected(text: str) -> list[int]:
    tree = parse_filter(text)
    return [i for i, row in enumerate(ROWS) if truth(tree, dict(zip(FIELDS, row, strict=True))) is True]


WORDS = ["a.jpg", "'Google Pixel 7'", "trip", "''", "'B''s'", "é", "jpeg", '"day 1"', "%", "gif"]
DATES = ["2022", "2023", "2023-05", "2023-05-31", "2023-05-01T12:30", "2024-01-01T00:00:00", "1999-06"]
VALUES = {
    "text": WORDS, "format": ["jpg", "png", "HEIC", "gif"], "orientation": ["landscape", "portrait", "square"],
    "whole": ["1", "8", "300", "400", "100000"], "bytes": ["7", "0.5kB", "2MB", "1KiB"],
    "number": ["0", "-33.86", "52.5", "0.12", "12"], "time": DATES, "file time": DATES,
}  # fmt: skip


@st.composite
def single_tests(draw: st.DrawFn) -> str:
    column = draw(st.sampled_from(list(COLUMNS)))
    if draw(st.integers(0, 5)) == 0:
        return f"{column} is {draw(st.sampled_from(['empty', 'not empty']))}"
    kind, negation = COLUMNS[column], draw(st.sampled_from(["", "not "]))
    if kind == "place":
        place = draw(st.sampled_from(["52.5,13.4", "-33.9,151.2", "90,0", "0,-179.9"]))
        return (
            f"place {negation}within {draw(st.sampled_from(['25km', '900km', '15000km', '3mi']))} of {place}"
        )
    values = draw(st.lists(st.sampled_from(VALUES[kind]), min_size=1, max_size=3))
    if len(values) > 1:
        return f"{column} {negation}in ({', '.join(values)})"
    operators = ["=", "!="] + (["~", "!~"] if kind == "text" else [])
    if kind not in ("text", "format", "orientation"):
        operators += ["<", "<=", ">", ">="]
    return f"{column} {draw(st.sampled_from(operators))} {values[0]}"


FILTERS = st.recursive(
    single_tests(),
    lambda parts: st.one_of(
        st.builds("not ({})".format, parts),
        st.builds("{} and {}".format, parts, parts),
        st.builds("({} or {})".format, parts, parts),
    ),
    max_leaves=8,
)


@given(text=FILTERS)
@settings(max_examples=120, deadline=None)
def test_sqlite_selects_what_python_does(catalogue: sqlite3.Connection, text: str) -> None:
    assert matches(catalogue, text) == expected(text)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same rows as a Lance dataset."""
    lance = pytest.importorskip("lance")
    arrow = pytest.importorskip("pyarrow")
    columns = dict(zip(FIELDS, map(list, zip(*ROWS, strict=True)), strict=True))
    columns["size"] = columns.pop("bytes")
    columns["mtime_ns"] = [mtime_ns(time) for time in columns.pop("modified")]
    table = arrow.table({**columns, "id": list(range(len(ROWS)))})
    folder: Path = tmp_path_factory.mktemp("lance") / "rows.lance"
    return lance.write_dataset(table, str(folder))


def lance_matches(dataset: Any, text: str) -> list[int]:
    return sorted(dataset.to_table(columns=["id"], filter=compile_lance(text))["id"].to_pylist())


def test_lance_selects_what_python_does(dataset: Any) -> None:
    for text in filters_of_every_kind():
        assert lance_matches(dataset, text) == expected(text), text


def filters_of_every_kind() -> Iterator[str]:
    """Yield each test of a grid once, and some of them joined at random."""
    singles = []
    for column, kind in COLUMNS.items():
        singles += [f"{column} is empty", f"{column} is not empty"]
        if kind == "place":
            singles += [f"place {negation}within 25km of 52.5,13.4" for negation in ("", "not ")]
            singles += ["place within 15000km of 0,-179.9", "place within 30000km of 0,0"]
            continue
        operators = ("~", "!~", "=", "!=") if kind == "text" else ("=", "!=")
        for operator in operators if kind in ("text", "format", "orientation") else ("=", "!=", "<", ">="):
            singles += [f"{column} {operator} {value}" for value in VALUES[kind][:4]]
        singles.append(f"{column} not in ({', '.join(VALUES[kind][:2])})")
    yield from singles
    choose = random.Random(0)
    for _ in range(40):
        one, two, three = choose.sample(singles, 3)
        yield f"not ({one} and {two}) or {three}"
        yield f"({one} or not {two}) and not {three}"
