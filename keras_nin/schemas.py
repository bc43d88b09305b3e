"""The JSON documents that keras-nin writes: their names, the first key of each, and records read back from them."""

import collections.abc
import contextlib
import dataclasses
import enum
import functools
import math
import types
import typing
from typing import Any, TypeVar

from keras_nin.errors import InputError
from keras_nin.formatting import format_value

AUDIT = "keras_nin.audit/1"
BENCHMARK = "keras_nin.benchmark/1"
BENCHMARK_DEVICES = "keras_nin.benchmark_devices/1"
CARD = "keras_nin.card/1"  # the measurement record behind a model card
CARDS = "keras_nin.cards/1"
CERTIFY = "keras_nin.certify/1"
CHECK = "keras_nin.check/1"
CLAIMS = "keras_nin.claims/1"
COMPARE = "keras_nin.compare/1"
COMPARE_RUNS = "keras_nin.compare_runs/1"
COMPRESSION = "keras_nin.compression/1"
DEVICES = "keras_nin.devices/1"
EDGETPU = "keras_nin.edgetpu/1"
ETHOSU = "keras_nin.ethosu/1"
EVALUATE = "keras_nin.evaluate/1"
EXPORT = "keras_nin.export/1"
EXPORT_FILE = "keras_nin.export_file/1"  # the export record beside a .tflite file
FIT = "keras_nin.fit/1"
LIST = "keras_nin.list/1"
MICRO = "keras_nin.micro/1"
PARTIAL = "keras_nin.partial/1"  # the first line of a file of `evaluate --partial`
PRUNE = "keras_nin.prune/1"
REPORT = "keras_nin.report/1"
SWEEP = "keras_nin.sweep/1"
TRAIN = "keras_nin.train/1"
VERIFY = "keras_nin.verify/1"

_Record = TypeVar("_Record")
_INT_LIMIT = 2**63
_field_types = functools.cache(typing.get_type_hints)
_TYPE_NAMES = {
    **{bool: "true or false", int: "a whole number", float: "a finite number", str: "text"},
    **{dict: "a JSON object", tuple: "a list", collections.abc.Mapping: "a JSON object"},
}


def record_from_json(cls: type[_Record], document: Any) -> _Record:
    """Return the dataclass `cls` from a JSON document that anyone may have written.

    Every value has to have the type that its field declares: lists become tuples, objects become records. Keys without
    a field are ignored.

    Raises:
        InputError: a field is missing, or its value has another type.
    """
    if not isinstance(document, dict):
        raise InputError(f"Expected {cls.__name__} as a JSON object. Received: {format_value(document)}")
    field_types, values = _field_types(cls), {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type] - cls is a dataclass
        if field.name in document:
            name = f"{cls.__name__}.{field.name}"
            values[field.name] = typed_value(field_types[field.name], document[field.name], name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"Expected {cls.__name__} with {field.name!r}. Received: none")
    return cls(**values)


def typed_value(annotation: Any, value: Any, name: str) -> Any:
    """Return a JSON value as `annotation` declares it; `name` is what the value is called in errors.

    Annotations are plain types, dataclasses, enumerations, literals, tuples, dictionaries, and unions of these. A bare
    `tuple` takes nested lists of integers, such as shapes.

    Raises:
        InputError: the value has another type, or is not a finite number.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return _union_value(arguments, value, name)
    if dataclasses.is_dataclass(annotation):
        return record_from_json(annotation, value)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(arguments) != len(value):
            raise InputError(f"Expected {len(arguments)} values for {name}. Received: {format_value(value)}")
        return tuple(typed_value(item, part, name) for item, part in zip(arguments, value, strict=True))
    if annotation is tuple and isinstance(value, list):
        return _nested_tuples(value, name)
    if origin in (dict, collections.abc.Mapping) and isinstance(value, dict):
        return {str(key): typed_value(arguments[1], part, name) for key, part in value.items()}
    if origin is typing.Literal and value in arguments and not isinstance(value, bool):
        return value
    if isinstance(annotation, enum.EnumType):
        with contextlib.suppress(ValueError):
            return annotation(value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < _INT_LIMIT else math.nan
    if annotation is not Any and not _is_instance(annotation, value):
        expected = _TYPE_NAMES.get(origin or annotation, str(annotation))
        raise InputError(f"Expected {expected} for {name}. Received: {format_value(value)}")
    return value


def _union_value(options: tuple[Any, ...], value: Any, name: str) -> Any:
    """Return a JSON value as the first of several annotations that takes it; the error is that of the last."""
    if value is None and types.NoneType in options:
        return None
    *others, last = (option for option in options if option is not types.NoneType)
    for option in others:
        try:
            return typed_value(option, value, name)
        except InputError:
            continue
    return typed_value(last, value, name)


def _is_instance(kind: Any, value: Any) -> bool:
    if kind is types.NoneType or not isinstance(kind, type) or not isinstance(value, kind):
        return False
    if kind is int:
        return not isinstance(value, bool) and abs(value) < _INT_LIMIT
    return kind is not float or math.isfinite(value)


def _nested_tuples(value: Any, name: str) -> Any:
    """Return nested lists of integers as tuples; None stands for an unknown size."""
    if isinstance(value, list):
        return tuple(_nested_tuples(item, name) for item in value)
    if value is not None and not _is_instance(int, value):
        raise InputError(f"Expected integers for {name}. Received: {format_value(value)}")
    return value
