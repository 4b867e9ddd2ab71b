"""Conditions of rules: a part of CEL that is typed, and cannot run for long (the library checks neither).

    condition  = or [ "?" or ":" condition ]
    or         = and { "||" and }          and = relation { "&&" relation }
    relation   = unary [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" ) unary ]
    unary      = "!" unary | member
    member     = primary { "." NAME [ "(" ... ")" ] }
    primary    = NAME | STRING | NUMBER | "true" | "false" | "size" "(" condition ")" | "(" condition ")" | "[" ... "]"

Nothing of it can fail when it is evaluated: there are no optional fields, no indices, no arithmetic and no
conversions. What it costs is counted beforehand, each list with MAX_ITEMS.
"""

import difflib
import re
from collections.abc import Callable

import msgspec

from controller.model.rule import MAX_ITEMS, VARIABLES

MAX_LENGTH = 2_000
MAX_DEPTH = 16
"""Of parentheses, calls and negations."""
MAX_MACROS = 2
"""Of `exists`, `all` and `exists_one` inside one another."""
MAX_COST = 100_000
"""Elementary operations in the worst case; the library does about one in a microsecond."""

BOOL, INT, DOUBLE, STRING = "bool", "int", "double", "string"
_NUMBERS = (INT, DOUBLE)
_TEXT_TESTS = ("startsWith", "endsWith", "contains")
_MACROS = ("exists", "all", "exists_one")
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=", "in")
_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\r]+)
      | (?P<string>"(?:[^"\\\n\r]|\\["'\\nt])*"|'(?:[^'\\\n\r]|\\["'\\nt])*')
      | (?P<number>-?[0-9]{1,15}(?:\.[0-9]{1,15})?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]{0,63})
      | (?P<sign>\|\||&&|==|!=|<=|>=|[<>!?:.,()\[\]])""",
    re.VERBOSE,
)


class ConditionInvalid(ValueError):
    """What is wrong with a condition, and at which character (from 0)."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    offset: int


class _Part(msgspec.Struct, frozen=True):
    """A part of a condition that has been read."""

    type: str
    """A CEL type, or the name of a variable with fields."""
    cost: int
    offset: int


def check(text: str) -> None:
    """Raises ConditionInvalid."""
    if len(text) > MAX_LENGTH:
        raise ConditionInvalid(MAX_LENGTH, f"{len(text):,} characters are too many; at most {MAX_LENGTH:,}")
    parser = _Parser(_tokens(text))
    part = parser.whole()
    if part.type != BOOL:
        raise ConditionInvalid(part.offset, f"a condition is true or false; this is {_words(part.type)}")
    if part.cost > MAX_COST:
        message = f"this may take {part.cost:,} operations; at most {MAX_COST:,}: nest fewer {', '.join(_MACROS)}"
        raise ConditionInvalid(part.offset, message)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    offset = 0
    while offset < len(text):
        match = _TOKEN.match(text, offset)
        if match is None:
            message = f"unexpected {text[offset]!r}; strings stand in quotes, and there is no arithmetic"
            raise ConditionInvalid(offset, message)
        if match.lastgroup != "space":
            tokens.append(_Token(str(match.lastgroup), match.group(), offset))
        offset = match.end()
    return [*tokens, _Token("end", "the end", len(text))]


class _Parser:
    """Reads, types and counts in one pass."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._bound: dict[str, str] = {}
        """Variables of the macros around."""

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _skip(self, text: str) -> bool:
        is_next = self._next.kind in ("sign", "name") and self._next.text == text
        self._at += is_next
        return is_next

    def _expect(self, text: str) -> None:
        if not self._skip(text):
            raise ConditionInvalid(self._next.offset, f"expected {text!r}, found {self._next.text}")

    def _inside(self, read: Callable[[], _Part]) -> _Part:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConditionInvalid(self._next.offset, f"nested more than {MAX_DEPTH} deep")
        part = read()
        self._depth -= 1
        return part

    def whole(self) -> _Part:
        part = self._condition()
        if self._next.kind != "end":
            raise ConditionInvalid(self._next.offset, f"expected an operator or the end, found {self._next.text}")
        return part

    def _condition(self) -> _Part:
        test = self._or()
        if not self._skip("?"):
            return test
        _want(test, BOOL)
        yes = self._or()
        self._expect(":")
        no = self._inside(self._condition)
        if yes.type != no.type:
            message = f"both sides of ':' must be of one type; found {_words(yes.type)} and {_words(no.type)}"
            raise ConditionInvalid(no.offset, message)
        return _Part(yes.type, 1 + test.cost + yes.cost + no.cost, test.offset)

    def _or(self) -> _Part:
        return self._chain("||", self._and)

    def _and(self) -> _Part:
        return self._chain("&&", self._relation)

    def _chain(self, operator: str, read: Callable[[], _Part]) -> _Part:
        part = read()
        while self._skip(operator):
            _want(part, BOOL)
            other = read()
            _want(other, BOOL)
            part = _Part(BOOL, 1 + part.cost + other.cost, part.offset)
        return part

    def _relation(self) -> _Part:
        left = self._unary()
        token = self._next
        if token.text not in _COMPARISONS or token.kind not in ("sign", "name"):
            return left
        self._take()
        right = self._unary()
        many = MAX_ITEMS if left.type.startswith("list") or right.type.startswith("list") else 1
        if not _comparable(left.type, token.text, right.type):
            message = f"{token.text} does not compare {_words(left.type)} with {_words(right.type)}"
            raise ConditionInvalid(token.offset, message)
        return _Part(BOOL, many + left.cost + right.cost, left.offset)

    def _unary(self) -> _Part:
        offset = self._next.offset
        if not self._skip("!"):
            return self._member()
        part = self._inside(self._unary)
        _want(part, BOOL)
        return _Part(BOOL, 1 + part.cost, offset)

    def _member(self) -> _Part:
        part = self._inside(self._primary)
        while self._skip("."):
            name = self._take()
            if name.kind != "name":
                raise ConditionInvalid(name.offset, f"expected a field's name after '.', found {name.text}")
            if self._skip("("):
                part = self._call(part, name)
                self._expect(")")
            else:
                part = _field(part, name)
        if self._next.text == "[" and self._next.kind == "sign":
            hint = '"name=value" in source.labels' if part.type == "list(string)" else "fields with '.'"
            raise ConditionInvalid(self._next.offset, f"there are no indices, since one may be missing: write {hint}")
        return part

    def _call(self, on: _Part, name: _Token) -> _Part:
        if name.text in _TEXT_TESTS:
            _want(on, STRING)
            argument = self._inside(self._condition)
            _want(argument, STRING)
            return _Part(BOOL, 4 + on.cost + argument.cost, on.offset)
        if name.text == "size":
            return _Part(_size(on), 1 + on.cost, on.offset)
        if name.text in _MACROS:
            return self._macro(on, name)
        known = (*_MACROS, *_TEXT_TESTS, "size")
        raise ConditionInvalid(name.offset, f"unknown function {name.text}{_nearest(name.text, known)}")

    def _macro(self, on: _Part, name: _Token) -> _Part:
        if not on.type.startswith("list("):
            raise ConditionInvalid(on.offset, f"{name.text} needs a list; this is {_words(on.type)}")
        variable = self._take()
        if variable.kind != "name" or variable.text in VARIABLES or variable.text in self._bound:
            message = f"expected a new name for each item (as in {name.text}(label, ...)), found {variable.text}"
            raise ConditionInvalid(variable.offset, message)
        if variable.text in ("true", "false", "null", "in", "size"):
            raise ConditionInvalid(variable.offset, f"{variable.text} cannot be a name: it has a meaning in CEL")
        if len(self._bound) >= MAX_MACROS:
            raise ConditionInvalid(name.offset, f"at most {MAX_MACROS} of {', '.join(_MACROS)} inside one another")
        self._expect(",")
        self._bound[variable.text] = on.type[len("list(") : -1]
        body = self._inside(self._condition)
        _want(body, BOOL)
        del self._bound[variable.text]
        return _Part(BOOL, on.cost + MAX_ITEMS * body.cost, on.offset)

    def _primary(self) -> _Part:
        token = self._take()
        if token.kind == "string":
            return _Part(STRING, 1, token.offset)
        if token.kind == "number":
            return _Part(DOUBLE if "." in token.text else INT, 1, token.offset)
        if token.kind == "name":
            return self._name(token)
        if token.text == "(" and token.kind == "sign":
            part = self._condition()
            self._expect(")")
            return part
        if token.text == "[" and token.kind == "sign":
            return self._list(token)
        raise ConditionInvalid(token.offset, f"expected a value, found {token.text}")

    def _name(self, token: _Token) -> _Part:
        if token.text in ("true", "false"):
            return _Part(BOOL, 1, token.offset)
        if self._skip("("):
            if token.text != "size":
                hint = " (every field is there: compare it)" if token.text == "has" else _nearest(token.text, ("size",))
                raise ConditionInvalid(token.offset, f"unknown function {token.text}{hint}")
            part = self._condition()
            self._expect(")")
            return _Part(_size(part), 1 + part.cost, token.offset)
        if token.text in self._bound:
            return _Part(self._bound[token.text], 1, token.offset)
        kind = VARIABLES.get(token.text)
        if kind is None:
            message = f"unknown variable {token.text}{_nearest(token.text, (*VARIABLES, *self._bound))}"
            raise ConditionInvalid(token.offset, message)
        return _Part(kind if isinstance(kind, str) else token.text, 1, token.offset)

    def _list(self, opening: _Token) -> _Part:
        items: list[_Part] = []
        while not self._skip("]"):
            if items:
                self._expect(",")
            items.append(self._inside(self._condition))
            if items[-1].type not in (BOOL, INT, DOUBLE, STRING) or items[-1].type != items[0].type:
                message = f"a list has items of one simple type; this is {_words(items[-1].type)}"
                raise ConditionInvalid(items[-1].offset, message)
        if not items or len(items) > MAX_ITEMS:
            raise ConditionInvalid(opening.offset, f"expected 1 to {MAX_ITEMS} items, found {len(items)}")
        return _Part(f"list({items[0].type})", 1 + sum(item.cost for item in items), opening.offset)


def _want(part: _Part, kind: str) -> None:
    if part.type != kind:
        raise ConditionInvalid(part.offset, f"expected {_words(kind)} here; this is {_words(part.type)}")


def _comparable(left: str, operator: str, right: str) -> bool:
    if operator == "in":
        return right == f"list({left})"
    simple = left in (*_NUMBERS, STRING, BOOL)
    same = left == right or (left in _NUMBERS and right in _NUMBERS)
    if operator in ("==", "!="):
        return same and (simple or left.startswith("list("))
    return same and left in (*_NUMBERS, STRING)


def _field(on: _Part, name: _Token) -> _Part:
    fields = VARIABLES.get(on.type)
    if not isinstance(fields, dict):
        hint = ': write "name=value" in ...labels' if on.type == "list(string)" else ""
        raise ConditionInvalid(name.offset, f"{_words(on.type)} has no field {name.text}{hint}")
    if name.text not in fields:
        raise ConditionInvalid(name.offset, f"{on.type} has no field {name.text}{_nearest(name.text, tuple(fields))}")
    return _Part(fields[name.text], 1 + on.cost, on.offset)


def _size(part: _Part) -> str:
    if part.type != STRING and not part.type.startswith("list("):
        raise ConditionInvalid(part.offset, f"size needs a list or a string; this is {_words(part.type)}")
    return INT


def _words(kind: str) -> str:
    if kind in VARIABLES:
        return f"{kind}, which has fields"
    return {BOOL: "true or false", INT: "a whole number", DOUBLE: "a number", STRING: "a string"}.get(kind, f"a {kind}")


def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.6)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
