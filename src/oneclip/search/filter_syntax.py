"""Parse filters such as `taken_at >= 2023-05 and camera ~ 'Pixel'` into a small tree.

    filter     = and-part { "or" and-part }
    and-part   = condition { "and" condition }
    condition  = "not" condition | "(" filter ")" | test
    test       = column ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
               | column ( "~" | "!~" ) value
               | column [ "not" ] "in" "(" value { "," value } ")"
               | column "is" [ "not" ] "empty"
               | "place" [ "not" ] "within" distance "of" latitude "," longitude
    value      = text in ' or " (doubled to stand for itself), or a word without blanks

Keywords and names of columns may be in any case. Parsing carries `not` inwards to the tests and replaces a date by the
interval that it means, so that the tree has four kinds of tests, joined by `And` and `Or`. An unknown value matches no
test but `is empty`, negated or not: the logic of SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias, TypeVar

from oneclip.errors import QueryError, nearest_names
from oneclip.search import filter_values
from oneclip.search.filter_values import COLUMNS, OTHER_NAMES

MAX_LENGTH = 10_000  # characters of a filter
MAX_DEPTH = 15  # parentheses within parentheses; the parser of Lance refuses more than about 50
MAX_TESTS = 300  # tests and values; SQLite refuses expressions that are 1,000 deep

_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_KEYWORDS = ("and", "or", "not", "in", "is", "empty", "within", "of")
_TOKEN = re.compile(
    r"""\s*(?:(?P<word>[^\s'"()=!<>~,]+)|(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")"""
    r"""|(?P<sign><=|>=|!=|!~|==|<>|[=<>~(),])|(?P<wrong>\S))"""
)
_NUMBERS: dict[str, Callable[[str], int | float]] = {
    "whole": filter_values.whole,
    "bytes": filter_values.byte_count,
    "number": filter_values.decimal,
}
_TEXTS = {
    "text": filter_values.plain_text,
    "format": filter_values.format_name,
    "orientation": filter_values.orientation,
}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Compare:
    """Compare a column with a value.

    Attributes:
        column: one of COLUMNS, except "place".
        operator: one of = != < <= > >=.
        value: a text, a number, a time such as "2023-05-01T00:00:00", or nanoseconds for "modified".
    """

    column: str
    operator: str
    value: str | int | float


@dataclass(frozen=True)
class Contains:
    """Test whether a text contains another, ignoring case; or, negated, does not."""

    column: str
    text: str
    negated: bool


@dataclass(frozen=True)
class Empty:
    """Test whether a value is unknown or an empty text; or, negated, is neither."""

    column: str
    negated: bool


@dataclass(frozen=True)
class Within:
    """Test whether an image was taken at most `distance` km from a place; or, negated, farther away."""

    latitude: float
    longitude: float
    distance: float
    negated: bool


@dataclass(frozen=True)
class And:
    """All of several parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """Any of several parts."""

    parts: tuple[Node, ...]


Node: TypeAlias = "Compare | Contains | Empty | Within | And | Or"


def parse_filter(text: str) -> Node:
    """Parse a filter.

    Raises:
        QueryError: if it cannot be understood; the message marks the position.
    """
    return _Parser(text).parse()


@dataclass(frozen=True)
class _Token:
    """Part of a filter. Its kind is "word", "quoted", "sign", "wrong" or "end"; its text has no quotes."""

    kind: str
    text: str
    start: int
    length: int

    def is_a(self, expected: str) -> bool:
        """Report whether it is this keyword or sign."""
        return self.kind in ("word", "sign") and self.text.lower() == expected

    def is_keyword(self) -> bool:
        return self.kind == "word" and self.text.lower() in _KEYWORDS

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise QueryError(f"the filter has {len(text):,} characters; at most {MAX_LENGTH:,} are allowed")
        self._text = text
        self._tokens = self._split()
        self._place = self._depth = self._tests = 0

    def parse(self) -> Node:
        if self._next.kind == "end":
            raise QueryError(
                f"the filter is empty; expected one such as `taken_at >= 2023`. {_known_columns()}"
            )
        node = self._any(negated=False)
        if self._next.kind != "end":
            hint = "; put text with blanks in quotes" if self._next.kind == "word" else ""
            self._fail(f"expected `and`, `or` or the end, found {self._next}{hint}", self._next)
        return node

    # ------------------------------------------------------------------------------------------------------- tokens

    def _split(self) -> list[_Token]:
        tokens = []
        for found in _TOKEN.finditer(self._text):
            kind = str(found.lastgroup)
            text, start = found[kind], found.start(kind)
            if kind == "wrong":
                problem = "this quote is not closed" if text in ("'", '"') else f"unexpected {text!r}"
                self._fail(problem, _Token(kind, text, start, 1))
            length = len(text)
            if kind == "quoted":
                text = text[1:-1].replace(text[0] * 2, text[0])
            elif kind == "sign":
                text = {"==": "=", "<>": "!="}.get(text, text)
            tokens.append(_Token(kind, text, start, length))
        return [*tokens, _Token("end", "", len(self._text.rstrip()), 1)]

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self) -> _Token:
        token = self._next
        self._place += token.kind != "end"
        return token

    def _took(self, expected: str) -> bool:
        """Take the next token if it is this keyword or sign."""
        if not self._next.is_a(expected):
            return False
        self._take()
        return True

    def _expect(self, expected: str, after: str) -> None:
        if not self._took(expected):
            self._fail(f"expected `{expected}` after {after}, found {self._next}", self._next)

    def _fail(self, problem: str, token: _Token) -> NoReturn:
        """Raise an error that shows the part of the filter around a token, and marks the token."""
        first = max(0, token.start - 60)
        shown = "".join(c if c.isprintable() else " " for c in self._text[first : token.start + 60])
        mark = " " * (token.start - first) + "^" * min(token.length, 60)
        raise QueryError(f"filter: {problem}\n  {shown}\n  {mark}")

    # ------------------------------------------------------------------------------------------------------ grammar

    def _any(self, negated: bool) -> Node:
        parts = [self._all(negated)]
        while self._took("or"):
            parts.append(self._all(negated))
        return _join(And if negated else Or, parts)

    def _all(self, negated: bool) -> Node:
        parts = [self._condition(negated)]
        while self._took("and"):
            parts.append(self._condition(negated))
        return _join(Or if negated else And, parts)

    def _condition(self, negated: bool) -> Node:
        while self._took("not"):
            negated = not negated
        opening = self._next
        if not self._took("("):
            return self._test(negated)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} parentheses within each other", opening)
        node = self._any(negated)
        if self._next.kind == "end":
            self._fail("this parenthesis is not closed", opening)
        if not self._took(")"):
            self._fail(f"expected `and`, `or` or `)`, found {self._next}", self._next)
        self._depth -= 1
        return node

    def _test(self, negated: bool) -> Node:
        column = self._column()
        if self._took("is"):
            negated ^= self._took("not")
            self._expect("empty", "`is`")
            return Empty(column, negated)
        if self._took("not"):
            negated = not negated
            if not (self._next.is_a("in") or self._next.is_a("within")):
                self._fail(f"expected `in` or `within` after `not`, found {self._next}", self._next)
        if column == "place":
            return self._within(negated)
        operator = self._take()
        if operator.is_a("in"):
            return self._in(column, negated)
        if operator.is_a("~") or operator.is_a("!~"):
            if COLUMNS[column] != "text":
                self._fail(f"`{operator.text}` searches in texts, but {column} is {_what(column)}", operator)
            text = filter_values.plain_text(self._value().text)
            return Contains(column, text, negated ^ (operator.text == "!~"))
        if operator.text not in _OPPOSITE or operator.kind != "sign":
            self._fail(f"expected an operator after {column}, such as = or >=, found {operator}", operator)
        return self._compare(column, operator, self._value(), negated)

    def _column(self) -> str:
        token = self._take()
        name = token.text.lower()
        if token.kind != "word" or token.is_keyword():
            self._fail(f"expected a column, found {token}. {_known_columns()}", token)
        if name not in COLUMNS:
            near = [OTHER_NAMES[name]] if name in OTHER_NAMES else nearest_names(name, COLUMNS)
            meant = f"; did you mean {' or '.join(near)}?" if near else "."
            self._fail(f"no column {token.text!r}{meant} {_known_columns()}", token)
        self._count(token)
        return name

    def _in(self, column: str, negated: bool) -> Node:
        self._expect("(", "`in`")
        equal = _Token("sign", "=", self._next.start, 1)
        parts = [self._compare(column, equal, self._value(), negated)]
        while self._took(","):
            self._count(self._next)
            parts.append(self._compare(column, equal, self._value(), negated))
        self._expect(")", "the values")
        return _join(And if negated else Or, parts)

    def _within(self, negated: bool) -> Node:
        example = "`place within 10km of 52.52,13.40`"
        if not self._took("within"):
            self._fail(f"expected {example} or `place is empty`, found {self._next}", self._next)
        distance = self._read(filter_values.kilometres, self._value())
        self._expect("of", "the distance")
        latitude = self._read(lambda text: filter_values.coordinate(text, 90), self._value())
        self._expect(",", f"the latitude, as in {example}")
        longitude = self._read(lambda text: filter_values.coordinate(text, 180), self._value())
        return Within(latitude, longitude, distance, negated)

    def _value(self) -> _Token:
        token = self._take()
        if token.kind not in ("word", "quoted"):
            self._fail(f"expected a value, found {token}", token)
        if token.is_keyword():
            self._fail(f"{token.text!r} is a keyword; put it in quotes if it is a value", token)
        return token

    def _compare(self, column: str, sign: _Token, value: _Token, negated: bool) -> Node:
        """Return the comparison of a column with a value of its kind."""
        kind = COLUMNS[column]
        operator = _OPPOSITE[sign.text] if negated else sign.text
        if kind == "time":
            return _compare_time(column, operator, *self._read(filter_values.time_interval, value))
        if kind == "file time":
            return _compare_time(column, operator, *self._read(filter_values.time_interval_ns, value))
        if kind in _NUMBERS:
            return Compare(column, operator, self._read(_NUMBERS[kind], value))
        if operator not in ("=", "!="):
            self._fail(f"`{sign.text}` needs a number or a date, but {column} is {_what(column)}", sign)
        return Compare(column, operator, self._read(_TEXTS[kind], value))

    def _read(self, convert: Callable[[str], _T], value: _Token) -> _T:
        """Convert a value; an error of the conversion marks it."""
        try:
            return convert(value.text)
        except ValueError as error:
            self._fail(str(error), value)

    def _count(self, token: _Token) -> None:
        self._tests += 1
        if self._tests > MAX_TESTS:
            self._fail(f"more than {MAX_TESTS} tests and values", token)


def _join(kind: type[And] | type[Or], parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else kind(tuple(parts))


def _compare_time(column: str, operator: str, first: str | int, end: str | int) -> Node:
    """Compare a time with an interval that begins with `first` and ends before `end`."""
    if operator == "=":
        return And((Compare(column, ">=", first), Compare(column, "<", end)))
    if operator == "!=":
        return Or((Compare(column, "<", first), Compare(column, ">=", end)))
    return Compare(
        column, {"<=": "<", ">": ">="}.get(operator, operator), end if operator in ("<=", ">") else first
    )


def _what(column: str) -> str:
    kind = COLUMNS[column]
    known = {"text": "a text", "format": "a format", "time": "a date", "file time": "a date"}
    return known.get(kind, "an orientation" if kind == "orientation" else "a number")


def _known_columns() -> str:
    return f"Columns: {', '.join(COLUMNS)}"
