"""What is printed while it is captured, by Python, native code and child processes."""

import logging
import os
import subprocess
import sys

from keras_nin.output_capture import capture_output


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
