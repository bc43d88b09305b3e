"""C++ for TFLite Micro: the array, its constants and the op resolver."""

import dataclasses
import pathlib
import re
import shutil
import subprocess

import micro_stand_in
import numpy as np
import pytest
import tflite_writer as writer

from keras_nin.edge.micro import Arena, MicroFinding, MicroResult, format_c_array, format_resolver, list_operators
from keras_nin.edge.micro.cpp import cpp_identifier, resolver_method
from keras_nin.errors import InputError
from keras_nin.tflite.reader import read_model

COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no g++")
# Prints the constants, whether the array is aligned, and then the array.
PROGRAM = """
#include "{header}"
#include "{header}"
#include <cstdio>
using namespace {name};
int main() {{
  std::printf("%d %d %d", int(reinterpret_cast<std::uintptr_t>(kData) % 16), int(kArenaSize), int(kLabels));
  std::printf(" %.9g %d %d %.9g %d %d", kInputScale, kInputZeroPoint, kInputShape[1], kOutputScale, kOutputZeroPoint,
              int(kOutputElements));
  std::printf("\\n");
  std::fwrite(kData, 1, kDataSize, stdout);
}}
"""


def micro(graph, **changed):
    uses = list_operators(graph)
    made = MicroResult(
        file="net.tflite",
        sha256="00",
        file_bytes=graph.size_bytes,
        weight_bytes=0,
        operators=uses,
        resolver=format_resolver(uses),
        max_arena=2**21,
        arena=Arena(4096, 1000, 3096, (), 16, 2, 64),
        finding=None,
        comparison=None,
        comparison_finding=None,
        peak_activation_bytes=None,
        float_operators=0,
        package="0.dev1",
    )
    return dataclasses.replace(made, **changed)


def write(graph, path, **changed):
    for each, text in format_c_array(micro(graph, **changed), graph, path).items():
        each.write_text(text)


def compiled(folder, program):
    """Compile every .cc file of a folder with a program, warnings being errors, and return what it prints."""
    (folder / "main.cpp").write_text(program)
    words = [COMPILER, "-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o", folder / "main"]
    subprocess.run([*words, folder / "main.cpp", *folder.glob("*.cc")], check=True, capture_output=True, text=True)
    return subprocess.run([folder / "main"], check=True, capture_output=True).stdout


@needs_compiler
@pytest.mark.parametrize("stem", ["net", "3d-net", "class", "unix", "net..v2 (copy)"])
def test_a_program_has_the_bytes_of_the_file(tmp_path, stem):
    graph = read_model(micro_stand_in.softmax(tmp_path / "net.tflite", scale=0.12345679))
    write(graph, tmp_path / f"{stem}.h")
    # What the compiler aligns by itself shows nothing.
    assert "alignas(16) const unsigned char kData" in (tmp_path / f"{stem}.cc").read_text()
    printed = compiled(tmp_path, PROGRAM.format(header=f"{stem}.h", name=cpp_identifier(stem)))
    line, _, data = printed.partition(b"\n")
    assert data == graph.content
    scale = f"{np.float32(0.12345679):.9g}"
    assert line.decode().split() == ["0", "4096", "10", scale, "5", "10", "0.00390625", "-128", "10"]


@needs_compiler
def test_names_from_a_file_and_several_ends_break_nothing(tmp_path):
    path = tmp_path / "net.tflite"
    ends = [
        writer.tensor("evil\\", (1, 4), quantization=micro_stand_in.quantization(2.0**-130, -3)),
        writer.tensor("*/ int x; //??/\n", (), "FLOAT32"),
        writer.tensor("c", (1, 3, 4), "INT32"),
        writer.tensor("d", (2, 4), quantization=micro_stand_in.quantization(1e9, 0)),
    ]
    writer.write(path, ends, [writer.custom("a\\\nb????/", [0, 1], [2, 3])], inputs=(0, 1), outputs=(2, 3))
    graph = read_model(path)
    write(graph, tmp_path / "net", arena=None, finding=MicroFinding("abort", "it \\\nends\\"))
    text = (tmp_path / "net.h").read_text()
    assert "kArenaSize" not in text
    assert "// No arena size: it /" in text
    assert "kLabels" not in text
    facts = "net_model::kInput0ZeroPoint == -3 && net_model::kOutput1Shape[0] == 2"
    main = "int main() { return net_model::kInput0Scale > 0 ? 0 : 1; }"
    compiled(tmp_path, f'#include "net.h"\nstatic_assert({facts}, "");\n{main}\n')


def test_a_scale_that_is_no_number_is_refused(tmp_path):
    graph = read_model(micro_stand_in.softmax(tmp_path / "net.tflite", scale=float("inf")))
    with pytest.raises(InputError, match="Expected a finite scale. Received: inf"):
        format_c_array(micro(graph), graph, "net")


@pytest.mark.parametrize("path", ["a/net", "a/net.cc", "a/net.h"])
def test_either_path_means_both(tmp_path, path):
    graph = read_model(micro_stand_in.softmax(tmp_path / "net.tflite"))
    made = format_c_array(micro(graph), graph, path)
    assert [str(each) for each in made] == ["a/net.cc", "a/net.h"]
    assert made[pathlib.Path("a/net.cc")].startswith('#include "net.h"\n')


@pytest.mark.parametrize("path", ['a".h', "a\\b.h", "a\nb.h", "what??.h"])
def test_a_name_that_no_include_can_hold_is_refused(tmp_path, path):
    graph = read_model(micro_stand_in.softmax(tmp_path / "net.tflite"))
    with pytest.raises(InputError, match="without quotes and backslashes"):
        format_c_array(micro(graph), graph, path)


@pytest.mark.parametrize("path", ["net.c", "net.v2", "net.tflite"])
def test_another_ending_is_refused(tmp_path, path):
    graph = read_model(micro_stand_in.softmax(tmp_path / "net.tflite"))
    with pytest.raises(InputError, match=re.escape(f"ends in .cc or .h, or without an ending. Received: '{path}'")):
        format_c_array(micro(graph), graph, path)


@pytest.mark.parametrize(
    ("text", "name"),
    [("nin_digits_int8", "nin_digits_int8_model"), ("3d-net", "m3d_net_model"), ("__a  b__", "a_b_model"),
     ("模型", "model"), ("class", "class_model")],
)  # fmt: skip
def test_names_are_sanitised(text, name):
    assert cpp_identifier(text) == name


# the op resolver


@pytest.mark.parametrize(
    ("op", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("MAX_POOL_2D", "AddMaxPool2D"),
        ("PADV2", "AddPadV2"),
        ("CUMSUM", "AddCumSum"),
        ("BATCH_MATMUL", "AddBatchMatMul"),
        ("L2_NORMALIZATION", "AddL2Normalization"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM"),
        ("LOCAL_RESPONSE_NORMALIZATION", None),
        ("RELU_N1_TO_1", None),
    ],
)
def test_methods_have_the_names_of_the_resolver(op, method):
    assert resolver_method(op) == method
    assert resolver_method(op, is_custom=True) is None


def test_a_declaration_of_every_operator_once(tmp_path):
    path = tmp_path / "net.tflite"
    tensors = [writer.tensor(name, (1, 4)) for name in "abcdef"]
    made = [
        writer.operator("RELU", [0], [1]),
        writer.custom("SignalWindow", [1], [2]),
        writer.operator("RELU", [2], [3]),
        writer.custom("mine\\", [3], [4]),
        writer.operator("LOCAL_RESPONSE_NORMALIZATION", [4], [5]),
    ]
    more = [([writer.tensor(name, (1, 4)) for name in "xy"], [writer.operator("TANH", [0], [1])])]
    writer.write(path, tensors, made, more=more)
    assert format_resolver(list_operators(read_model(path))).splitlines() == [
        "tflite::MicroMutableOpResolver<4> resolver;",
        "resolver.AddRelu();",
        "resolver.AddTanh();",
        "resolver.AddWindow();",
        "// resolver.AddCustom(...) for the custom operator mine/",
        "// TFLite Micro has no operator LOCAL_RESPONSE_NORMALIZATION",
    ]


def test_a_file_without_operators_has_a_resolver_that_compiles():
    assert format_resolver(()) == "tflite::MicroMutableOpResolver<1> resolver;"
