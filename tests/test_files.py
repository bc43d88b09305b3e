"""The small modules that everything stands on: files, errors, quiet, tables, metrics."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_nin import InputError, files
from keras_nin.errors import check_choice, unknown_name_error
from keras_nin.formatting import format_markdown_table, format_table
from keras_nin.metrics import top_k_accuracy
from keras_nin.output_capture import capture_output


@pytest.mark.parametrize(("data", "stored"), [(b"\x00\xff", b"\x00\xff"), ("µs\n", "µs\n".encode())])
def test_write(data, stored, tmp_path):
    path = tmp_path / "new" / "folder" / "file.bin"
    files.write_file(path, b"old")
    files.write_file(path, data)
    assert path.read_bytes() == stored
    assert os.listdir(path.parent) == ["file.bin"]


def test_the_temporary_file_is_beside_and_has_the_same_ending(tmp_path):
    with files.replace_file(tmp_path / "model.weights.h5") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith("model.weights.h5")
        temporary.write_bytes(b"x")
        assert not (tmp_path / "model.weights.h5").exists()
    assert (tmp_path / "model.weights.h5").read_bytes() == b"x"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whole_or_not_at_all(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted():
        with files.replace_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_rename_that_fails(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="'.*file' to be writable. Received: Permission denied"):
        files.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_without_a_number(tmp_path):
    with pytest.raises(InputError, match="to be writable. Received: no space left"), files.replace_file(tmp_path / "f"):
        raise OSError("no space left")


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    for path in (tmp_path / "file" / "below", tmp_path / "file" / "further" / "below"):
        with pytest.raises(InputError, match="a folder that can be written to. Received: '.*file"):
            files.write_file(path, b"new")
    with pytest.raises(InputError, match="a folder that can be written to"):
        files.make_folder(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_target_that_is_a_folder(tmp_path):
    (tmp_path / "target").mkdir()
    with pytest.raises(InputError, match="'.*target' to be writable. Received: Is a directory"):
        files.write_file(tmp_path / "target", b"new")
    assert os.listdir(tmp_path) == ["target"]


def test_read(tmp_path):
    (tmp_path / "a.json").write_text('{"µ": [1, null]}', encoding="utf-8")
    (tmp_path / "broken.json").write_text('{"µ": ', encoding="utf-8")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\xfd")
    assert files.read_json(tmp_path / "a.json") == {"µ": [1, None]}
    for name in ("broken", "deep", "binary"):
        with pytest.raises(InputError, match=f"a JSON file. Received: .*{name}.json") as caught:
            files.read_json(tmp_path / f"{name}.json")
        assert "\n" not in str(caught.value)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="a readable file"):
            files.read_bytes(path)


def test_json_and_hash():
    assert files.dump_json({"b": "µs", "a": [1]}) == '{\n  "b": "µs",\n  "a": [\n    1\n  ]\n}\n'
    assert files.sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


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


def test_one_of():
    assert check_choice("scheme", "int8", ("float32", "int8")) == "int8"
    with pytest.raises(InputError, match=r"Expected `scheme` to be one of float32, None. Received: 'int4'"):
        check_choice("scheme", "int4", ("float32", None))


def test_captured_has_everything_in_order():
    with capture_output() as out:
        print("python")
        os.write(1, b"native \xff\n")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
        print("error →", file=sys.stderr)
    assert out.text == "python\nnative \ufffd\nchild\nerror →\n"


def fails_while_captured():
    try:
        with capture_output() as out:
            print("inner")
            raise RuntimeError
    except RuntimeError:
        return out


def test_captured_gives_the_streams_back(capfd):
    with capture_output() as outer:
        print("outer")
        inner = fails_while_captured()
        print("outer again")
    print("free")
    os.write(2, b"free too\n")
    assert (outer.text, inner.text) == ("outer\nouter again\n", "inner\n")
    assert tuple(capfd.readouterr()) == ("free\n", "free too\n")


def test_a_logger_made_while_captured_works_afterwards(capsys):
    with capture_output() as out:
        handler = logging.StreamHandler()
        handler.emit(logging.makeLogRecord({"msg": "during"}))
    handler.emit(logging.makeLogRecord({"msg": "after"}))
    assert (out.text, capsys.readouterr().err) == ("during\n", "after\n")


def test_text_table():
    table = format_table(
        ("layer", "time [us]"), [["conv[red]", "1"], ["x" * 300, "20"]], right=("time [us]",), title="[m]"
    )
    lines = table.splitlines()
    assert lines[0] == "[m]"
    assert lines[1].split() == ["layer", "time", "[us]"]
    assert [line.split() for line in lines[3:]] == [["conv[red]", "1"], ["x" * 300, "20"]]
    assert len(lines[3]) == len(lines[4])  # numbers to the right


def test_markdown_table():
    table = format_markdown_table(("a|b", "n"), [["x|y", "1"], ["two\nlines", "2"]], right=("n",))
    assert table == "| a\\|b | n |\n| --- | ---: |\n| x\\|y | 1 |\n| two lines | 2 |"


def test_top_k():
    outputs = np.array([[0.1, 0.6, 0.3], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], np.float32)
    assert top_k_accuracy(outputs, [1, 0, 0], 1) == pytest.approx(2 / 3)
    assert top_k_accuracy(outputs, [2, 1, 0], 1) == 0  # a tie goes to the lower class
    assert top_k_accuracy(outputs, [2, 1, 0], 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(outputs, [0, 0, 0], 3) is None
    assert top_k_accuracy(np.array([[-128, 127]], np.int8), [1], 1) == 1


def test_nan_is_a_miss():
    outputs = np.array([[np.nan] * 3, [0.0, np.nan, 0.0], [1.0, 0.0, 0.0]])
    assert top_k_accuracy(outputs, [0, 0, 0], 1) == pytest.approx(1 / 3)
