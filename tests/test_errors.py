"""Errors that a caller can use: their fields, and their messages as the command line shows them."""

import json

import pytest

from keras_nin import InputError
from keras_nin.errors import (
    check_choice,
    check_whole_number,
    expected_error,
    first_line,
    missing_package_error,
    unknown_name_error,
    with_flags,
)


@pytest.mark.parametrize(
    ("received", "hint"),
    [
        ("nin_digit", "Did you mean nin_digits, nin_cifar?"),
        ("keras:mobilenet", "Did you mean keras:MobileNet"),
        ("zzz", "Known: keras:MobileNet, nin_cifar, nin_digits."),
        (3, "Known: "),
    ],
)
def test_unknown_name(received, hint):
    error = unknown_name_error("model", received, {"nin_digits", "nin_cifar", "keras:MobileNet"})
    assert isinstance(error, InputError)
    assert str(error).startswith(f"Expected `model` to be a known name. Received: {received!r}. {hint}")


def test_a_choice():
    assert check_choice("scheme", "int8", ("float32", "int8")) == "int8"
    with pytest.raises(InputError, match=r"Expected `scheme` to be one of float32, None. Received: 'int4'"):
        check_choice("scheme", "int4", ("float32", None))


def test_the_fields_of_an_error():
    error = InputError("Expected a file", argument="path", path="a.tflite", status=-11, received=3)
    assert (str(error), error.argument, error.path, error.status, error.received) == (
        *("Expected a file", "path", "a.tflite"),
        *(-11, 3),
    )
    plain = InputError("Expected a file")
    assert (plain.argument, plain.path, plain.status, plain.received) == (None, None, None, None)
    error = unknown_name_error("model", "nin", {"nin_digits"})
    assert (error.argument, error.received) == ("model", "nin")


def test_arguments_become_flags():
    message = "Expected `top` to be positive, or `model_path`. See `keras_nin.audit_model`"
    assert with_flags(message, {"top": "--top", "model_path": "MODEL", "to": "--to"}) == (
        "Expected --top to be positive, or MODEL. See `keras_nin.audit_model`"
    )


@pytest.mark.parametrize("received", [0, -1, 1.0, "1", None, True])
def test_whole_numbers(received):
    assert check_whole_number("runs", 1) == 1
    assert check_whole_number("seed", 0, minimum=0) == 0
    with pytest.raises(InputError, match="Expected `runs` to be a whole number of at least 1. Received: ") as caught:
        check_whole_number("runs", received)
    assert (caught.value.argument, caught.value.received) == ("runs", received)


HOSTILE = "\x1b[31mred\x07 \u202edrow\x9b"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError(f"Expected a name. Received: {HOSTILE!s}"), r"Received: \x1b[31mred\x07 \u202edrow\x9b"),
        (InputError(f"Expected a name. Received: {'a' * 100_000!r}. Pass another"), "aaa…aaa"),
        (InputError(f"Expected a name. Received: {'a ' * 100_000!r}. Pass another"), "Pass another"),
        (expected_error("runs", "to be a number", 10**5000), "Received: 0x"),
        (expected_error("runs", "to be a list", [10**5000]), "Received: list"),
        (unknown_name_error("model", HOSTILE, ["a"]), "Received: '\\x1b[31mred"),
        (unknown_name_error("model", "x" * 1_000_000, ["xx"]), "Received: 'xxxx"),
        (unknown_name_error("model", 10**5000, ["xx"]), "Received: 0x"),
    ],
)
def test_what_a_message_echoes_is_printable_and_short(error, expected):
    assert expected in str(error)
    assert str(error).isprintable()
    assert len(str(error)) <= 4000
    document = json.loads(json.dumps(error.to_json(), allow_nan=False))
    assert len(str(document)) < 5000
    assert InputError(str(error)).args == error.args  # a message in a message


def test_fields_that_json_has_no_number_for():
    assert InputError("", received=float("nan")).to_json()["received"] == "nan"
    assert InputError("", received=1.5).to_json()["received"] == 1.5
    assert InputError("", path="p" * 100_000).to_json()["path"] == "p" * 2048 + "…" + "p" * 2047


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
    assert "pip install 'keras-nin[ethosu]'" in str(missing_package_error("Vela", "ethosu"))
