"""Files are written whole or not at all, and read with one clear error."""

import os

import pytest

from keras_nin import InputError, files


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 65 + "]" * 65, "nested too deep"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested too deep"),
        ('{"a": NaN}', "not a finite number: NaN"),
        ("[-Infinity]", "not a finite number"),
        ("1e999", "not a finite number: 1e999"),
        ("9" * 5000, "an integer of 5,000 digits"),
        ("-" + "9" * 20, "an integer of 20 digits"),
        ("[" + " " * 100_000 + "]", "at most 100,000 bytes"),
    ],
)
def test_json_that_is_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(files, "_MAX_JSON_BYTES", 100_000)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        files.read_json(tmp_path / "a.json")
    assert files.parse_json("[" * 64 + "]" * 64)
    assert files.parse_json("[-9223372036854775808, 1e308]") == [-(2**63), 1e308]


def test_paths_that_lead_elsewhere():
    assert all(map(files.leads_elsewhere, ["/a", "..", "a/../b", "C:\\a", "\\\\host\\a", "a\\..\\b", "c:/a"]))
    assert not any(map(files.leads_elsewhere, ["a", "a/b.c", "..a", "a..", "b:0", ".", "", "keras:VGG16"]))


def test_json_and_hash():
    assert files.dump_json({"b": "µs", "a": [1]}) == '{\n  "b": "µs",\n  "a": [\n    1\n  ]\n}\n'
    assert files.sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
