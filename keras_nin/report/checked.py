"""Records from JSON that anyone may have written: every value has the type that the record declares."""

import dataclasses
import functools
import math
import types
import typing

from keras_nin.errors import InputError

_MOST = 2**63


def record(cls, document):
    """Return a dataclass `cls` of a JSON document (a dictionary); keys that it does not have are left out.

    Raises:
        InputError: a field is missing or is not what `cls` declares.
    """
    if not isinstance(document, dict):
        raise InputError(f"Expected {cls.__name__} as a JSON object. Received: {_shown(document)}")
    hints, values = _hints(cls), {}
    for field in dataclasses.fields(cls):
        if field.name in document:
            values[field.name] = _value(hints[field.name], document[field.name], f"{cls.__name__}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"Expected {cls.__name__} with {field.name!r}. Received: none")
    return cls(**values)


def base_name(path):
    """Return the last part of a path of any system: where a file lay is nobody's business but its author's."""
    return path.replace("\\", "/").rpartition("/")[2]


@functools.cache
def _hints(cls):
    return typing.get_type_hints(cls)


def _value(hint, value, where):
    """Return `value` as `hint` wants it: lists as tuples, dictionaries as records."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in options:
        return None
    (kind,) = (option for option in options if option is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        return record(kind, value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        items = typing.get_args(kind)
        if items[-1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) != len(value):
            raise InputError(f"Expected {len(items)} values of {where}. Received: {_shown(value)}")
        return tuple(_value(item, each, where) for item, each in zip(items, value, strict=True))
    if kind is tuple and isinstance(value, list):
        return _tuples(value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < _MOST else math.nan
    if not _is(kind, value):
        raise InputError(f"Expected {getattr(kind, '__name__', kind)} for {where}. Received: {_shown(value)}")
    return value


def _is(kind, value):
    if not isinstance(kind, type) or not isinstance(value, kind):
        return False
    if kind is int:
        return not isinstance(value, bool) and abs(value) < _MOST
    return kind is not float or math.isfinite(value)


def _tuples(value, where):
    """Return nested lists of integers, such as shapes, as tuples; None stands for an open side."""
    if isinstance(value, list):
        return tuple(_tuples(item, where) for item in value)
    if value is not None and not _is(int, value):
        raise InputError(f"Expected integers for {where}. Received: {_shown(value)}")
    return value


def _shown(value, length=60):
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
