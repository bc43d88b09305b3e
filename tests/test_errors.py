"""Errors that a caller can use: their fields, and their messages as the command line shows them."""

import pytest

from keras_nin import InputError
from keras_nin.errors import (
    check_choice,
    check_whole_number,
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


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
    assert "pip install 'keras-nin[ethosu]'" in str(missing_package_error("Vela", "ethosu"))
