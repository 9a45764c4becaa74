"""What every spec class is made with: immutable containers, field conversion, plain-data form.

A field's converter makes the stored value from what people write and raises `SpecError` with an empty field;
`Value` adds the field's name, so that the error reads ``mounts[1].destination`` at the outermost class.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import attrs

from execdrivers.errors import SpecError
from execdrivers.frozen import FrozenDict as FrozenDict

K = TypeVar("K")
V = TypeVar("V")

if TYPE_CHECKING:
    from attrs import field as field
    from attrs.converters import optional as optional
    from typing_extensions import Self
else:
    # For type checkers this is attrs.field: a converter's argument type is then what the constructor takes.
    # At run time conversion is left to Value, which knows the field's name and skips fields that are not given:
    # a spec has some sixty fields, and few are ever set.
    def field(*, default=attrs.NOTHING, converter=None, validator=None):
        return attrs.field(default=default, metadata={"converter": converter, "validator": validator})

    # Says to type checkers that None may be given; Value takes it for every field.
    def optional(converter):
        return converter


#: Deepest nesting of free-form data; real profiles and options need about six levels.
MAX_DEPTH = 64

#: Largest JSON text read, in bytes. The kernel takes at most 6 MiB of arguments and environment.
MAX_JSON = 16 * 1024 * 1024

#: Bytes of a file's name, for the kernel.
NAME_MAX = 255

UINT32 = 2**32 - 1
#: The greatest uid or gid: the one above means "unchanged" to chown(2) and setresuid(2).
MAX_ID = 2**32 - 2


#: The default of all mapping fields.
EMPTY: FrozenDict[Any, Any] = FrozenDict()


class Value:
    """Base of the spec's attrs classes: converts and checks fields, compares by them, has a plain-data form.

    None means "not given" for every field. Classes state what concerns several fields in `_check`.
    """

    __slots__ = ("_hash",)
    _hash: int

    def __attrs_post_init__(self) -> None:
        fields, values = _table(type(self))
        for (name, default, convert, validate), value in zip(fields, values(self), strict=True):
            if value is default:
                continue
            try:
                if value is None:
                    if default is attrs.NOTHING:
                        fail(None, "is missing")
                    value = default
                elif convert is not None:
                    value = convert(value)
                if validate is not None and value is not default:
                    validate(self, None, value)
            except SpecError as error:
                raise error.within(name) from None
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        """Raise `SpecError` when fields do not fit each other."""

    def given(self) -> Iterator[tuple[str, Any]]:
        """Name and value of the fields that are not at their default."""
        fields, values = _table(type(self))
        for (name, default, _, _), value in zip(fields, values(self), strict=True):
            if value is not default and value != default:
                yield name, value

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; fields at their default are left out."""
        return {name: plain(value) for name, value in self.given()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises `SpecError` for an unknown or missing key."""
        names = [entry[0] for entry in _fields(cls)]
        for key in mapping(data):
            if key not in names:
                raise SpecError(str(key), data[key], f"is no field of {cls.__name__}", nearest(str(key), names))
        for name, default, _, _ in _fields(cls):
            if default is attrs.NOTHING and name not in data:
                raise SpecError(name, None, f"is missing in {cls.__name__}")
        return cls(**data)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        _, values = _table(type(self))
        return values(self) == values(other)

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            made = hash((type(self), _table(type(self))[1](self)))
            object.__setattr__(self, "_hash", made)
            return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.given())})"


_Entry = tuple[str, Any, "Callable[[Any], Any] | None", "Callable[[Any, Any, Any], Any] | None"]
#: What is known of the fields of a class, and what gets all their values from an object at once.
_Table = tuple[tuple[_Entry, ...], Callable[[Any], tuple[Any, ...]]]
_TABLES: dict[type, _Table] = {}


def _table(cls: type[Value]) -> _Table:
    table = _TABLES.get(cls)
    if table is None:
        fields = tuple(
            (item.name, item.default, item.metadata.get("converter"), item.metadata.get("validator"))
            for item in attrs.fields(cast("type[attrs.AttrsInstance]", cls))
        )
        table = _TABLES[cls] = fields, _values([entry[0] for entry in fields])
    return table


def _values(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda value: (get(value),)


def _fields(cls: type[Value]) -> tuple[_Entry, ...]:
    return _table(cls)[0]


def plain(value: Any) -> Any:
    """JSON data of a stored value: tuples become lists, specs and mappings become dicts."""
    if isinstance(value, Value):
        return value.to_dict()
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def fail(value: object, problem: str, remedy: str = "") -> NoReturn:
    """Raise `SpecError` for the value at hand; enclosing values add where it is."""
    raise SpecError("", value, problem, remedy)


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the nearest of the known ones, or all of them."""
    import difflib

    known = list(known)
    lower = {item.lower(): item for item in known}
    matches = difflib.get_close_matches(name.lower()[:100], lower, 1)
    return f"did you mean {lower[matches[0]]!r}?" if matches else f"use one of {', '.join(known)}"


# Converters ----------------------------------------------------------------------------------------------------------


def text(value: str | bytes | os.PathLike[str]) -> str:
    """A string the kernel can be given: no NUL; bytes that are no UTF-8 are carried as `os.fsdecode` does."""
    if not isinstance(value, str):
        if not isinstance(value, (bytes, os.PathLike)):
            fail(value, "is not a string", f"use {str(value)!r}" if isinstance(value, (int, float)) else "")
        value = os.fsdecode(value)
    if "\0" in value:
        fail(value, "contains a NUL character", "remove it: the kernel ends strings there")
    if not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            fail(value, "contains a lone surrogate, which has no bytes", "pass the bytes through os.fsdecode()")
    return value


def name(value: str) -> str:
    """A non-empty string without control characters."""
    value = text(value)
    if not value:
        fail(value, "is empty", "leave it out to get the default")
    if not value.isprintable():
        fail(value, "contains a control character", "use printable characters only")
    return value


def path(value: str | bytes | os.PathLike[str]) -> str:
    """An absolute path."""
    result = text(value)
    if not result.startswith("/"):
        fail(result, "is not an absolute path", f"use {os.path.join('/', result)!r}" if result else "give a path")
    if len(result) >= 64 and any(len(os.fsencode(part)) > NAME_MAX for part in result.split("/")):
        fail(result, f"has a name of more than {NAME_MAX} bytes, which no file can have", "shorten it")
    return result


def inner_path(value: str | os.PathLike[str]) -> str:
    """An absolute path in the container, in its one canonical form; ``..`` is refused, ``/`` too."""
    result = path(value)
    parts = [part for part in result.split("/") if part not in ("", ".")]
    if ".." in parts:
        fail(result, "contains '..'", f"use {os.path.normpath(result)!r} if that is meant")
    if not parts:
        fail(result, "is the container's root", "use rootfs= for the root")
    return "/" + "/".join(parts)


def flag(value: bool) -> bool:
    """True or False, nothing that merely is like it."""
    if not isinstance(value, bool):
        fail(value, "is not a boolean", "use True or False")
    return value


def number_text(value: str | int) -> str:
    """A string, or the digits of an int."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(cast(str, value))


def integer(value: int) -> int:
    """An int; bool is refused."""
    if isinstance(value, bool) or not isinstance(value, int):
        fail(value, "is not an integer")
    return value


def items(value: Iterable[V]) -> Iterable[V]:
    """Any iterable but a string or mapping, which are iterable by accident."""
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        fail(value, "is not a list")
    return value


def each(convert: Callable[[Any], V], value: Iterable[Any]) -> tuple[V, ...]:
    """Convert every item; an error names the index."""
    result = []
    for index, item in enumerate(items(value)):
        try:
            result.append(convert(item))
        except SpecError as error:
            raise error.within(f"[{index}]") from None
    return tuple(result)


def mapping(value: Mapping[K, V]) -> Mapping[K, V]:
    """A mapping with string keys."""
    if not isinstance(value, Mapping):
        fail(value, "is not a mapping")
    for key in value:
        if not isinstance(key, str):
            fail(key, "is not a string", "use strings as keys")
    return value


def each_value(key: Callable[[str], str], convert: Callable[[Any], V], value: Mapping[str, Any]) -> FrozenDict[str, V]:
    """Convert every key and value; an error names the key, and so does one about two keys that mean the same."""
    result: dict[str, V] = {}
    for raw, item in mapping(value).items():
        try:
            converted = key(raw)
            if converted in result:
                fail(raw, f"is given twice (it means {converted!r})", "keep one of them")
            result[converted] = convert(item)
        except SpecError as error:
            raise error.within(f'["{raw}"]') from None
    return FrozenDict(result)


def texts(value: Iterable[str | bytes | os.PathLike[str]]) -> tuple[str, ...]:
    """A tuple of strings."""
    return each(text, value)


def paths(value: Iterable[str]) -> tuple[str, ...]:
    """A tuple of canonical absolute paths in the container."""
    return each(inner_path, value)


def text_map(value: Mapping[str, str]) -> Mapping[str, str]:
    """An immutable mapping of names to strings."""
    return each_value(name, text, value)


def instance(cls: type[Any]) -> Callable[[Any], Any]:
    """Converter to one of the spec's classes: an instance, or the mapping that `Value.from_dict` takes."""

    def convert(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            fail(value, f"is neither a {cls.__name__} nor a mapping of its fields")
        return cls.from_dict(value)

    return convert


def freeze(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Free-form JSON data, made immutable."""
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if not depth:
        fail("…", f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            fail(value, "is no JSON number")
        return value
    if isinstance(value, Mapping):
        return each_value(text, lambda item: freeze(item, depth - 1), value)
    if isinstance(value, (list, tuple)):
        return each(lambda item: freeze(item, depth - 1), value)
    fail(value, "is not JSON data", "use strings, numbers, booleans, None, lists and dicts")


# Validators ----------------------------------------------------------------------------------------------------------


def between(low: int, high: int, *also: int, unit: str = "") -> Callable[[Any, Any, int], None]:
    """Accept ``low`` to ``high`` and what ``also`` lists (such as -1: unlimited)."""

    def validate(instance: Any, attribute: Any, value: int) -> None:
        if not low <= value <= high and value not in also:
            others = "".join(f", or {item} (unlimited)" if item == -1 else f", or {item}" for item in also)
            problem = "is negative" if value < 0 else "is too small" if value < low else "is too large"
            fail(value, problem, f"use {low} to {high}{unit and ' ' + unit}{others}")

    return validate


def one_of(*known: str) -> Callable[[Any, Any, str], None]:
    """Accept one of the names."""

    def validate(instance: Any, attribute: Any, value: str) -> None:
        if value not in known:
            fail(value, "is unknown", nearest(value, known))

    return validate


# JSON ----------------------------------------------------------------------------------------------------------------


def load_json(data: str | bytes, where: str) -> Any:
    """Parse JSON from people and files: every way in which it can be bad is a `SpecError` for ``where``."""
    import json

    if len(data) > MAX_JSON:
        raise SpecError(where, f"{len(data)} bytes", "is too large", f"keep it below {MAX_JSON} bytes")
    try:
        parsed = json.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        near = data[error.start : error.start + 8]
        raise SpecError(where, near, f"is not UTF-8 at byte {error.start}", "save it as UTF-8") from None
    except json.JSONDecodeError as error:
        near = error.doc[max(error.pos - 20, 0) : error.pos + 20]
        problem = f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ended = error.pos >= len(error.doc.rstrip())
        raise SpecError(where, near, problem, "the text ends too early" if ended else "") from None
    except (RecursionError, ValueError) as error:
        # ValueError: an integer of more digits than int() takes.
        deep = isinstance(error, RecursionError)
        raise SpecError(where, "…", "is nested too deeply" if deep else f"is not usable: {error}") from None
    level, depth = [parsed], 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        if depth > MAX_DEPTH + 8:
            raise SpecError(where, "…", "is nested too deeply", f"keep it below {MAX_DEPTH} levels")
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return parsed
