"""What the commands for edge targets, `evaluate` and `claims` print as JSON, made of records with made-up figures."""

import dataclasses

import numpy as np
import report_profiles

from keras_nin.claims import render
from keras_nin.claims.records import AtMost, Figure, Interval, Result
from keras_nin.edge.edgetpu import Memory, OperatorVerdict, Verdict, status
from keras_nin.edge.ethosu.records import Estimate, Finding, Layer, MemoryUse, Refusal, Sweep
from keras_nin.edge.fit import Cpu, EdgeTpu, EthosU, FileFit, Fit, NoFigure, Settings
from keras_nin.edge.fit import Micro as MicroFit
from keras_nin.edge.micro import Arena, Comparison, Micro, OperatorUse, Part
from keras_nin.edge.micro import Finding as MicroFinding
from keras_nin.report.evaluation import evaluation

SHA = "cd" * 32
CONFIG = ("Ethos_U55_High_End_Embedded", "Shared_Sram")


def file_fit(file="net_int8.tflite", **changes):
    """Return a `FileFit` with figures of all targets."""
    made = FileFit(
        file, SHA, 70_000, 50_482, 544_256, 240_000, True,
        cpu=Cpu(1250.0, 1240.0, 1270.0, 1, 500, True, 0.25),
        edgetpu=EdgeTpu(True, None, None, None, 13, 13, 50_000, "on-chip"),
        ethosu=EthosU("ethos-u55-128", *CONFIG, "5.2.0", 500e6, 132.0, 8320, 13, 13),
        micro=MicroFit(12_000, 5000, 7000, 64, "0.1", True),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def float_fit():
    """Return a `FileFit` of a float file: little of it has figures."""
    return file_fit(
        "net_float32.tflite",
        cpu=None,
        edgetpu=EdgeTpu(False, status.NOT_QUANTIZED, "it computes with float32", "export to int8", 0, 13, 0, "on-chip"),
        ethosu=EthosU("ethos-u55-128", *CONFIG, "5.2.0", 500e6, 0.0, 0, 0, 13),
        micro=None,
        missing=(
            NoFigure("cpu", "does not run", "Expected it to run. Received: a crash"),
            NoFigure("micro", "needs the extra micro", "Expected the package tflite-micro"),
        ),
    )


def fit(*results, **changes):
    """Return a `Fit` of results; by default of an int8 file and a float one."""
    made = Fit(
        ("cpu", "edgetpu", "ethosu", "micro"), Settings(), report_profiles.HOST,
        results or (file_fit(), float_fit()), ("the machine is busy",),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def verdict():
    """Return a `Verdict` on three operators, of which one is mapped."""
    operators = (
        OperatorVerdict(0, "CONV_2D", "conv1", True, status.MAPPED),
        OperatorVerdict(1, "TANH", "act", False, status.NOT_SUPPORTED, "there is none", "use ReLU", "supported"),
        OperatorVerdict(2, "RELU", "relu", False, status.SECOND_SUBGRAPH, "after the cut", None, "one-part"),
    )
    return Verdict("some/where/net_int8.tflite", False, None, operators, 1, Memory(2**20, "on-chip", 0), ("a note",))


def _layer(index, name, target, cycles):
    memory = {"SRAM": 100}
    return Layer(
        index, name, "CONV_2D", "pointwise", "expand", None, target, 1, cycles, cycles, 0.5, 6400, 6400, 6400, 0.5,
        "NPU", memory, memory, memory,
    )  # fmt: skip


def estimate(accelerator="ethos-u55-128"):
    """Return an `Estimate` of two layers, of which the CPU has one."""
    return Estimate(
        "net_int8.tflite", SHA, 70_000, accelerator, 128, *CONFIG, "5.2.0", 500e6, 0.2, 100, 100, 6400, 12_800, 0.5,
        (MemoryUse("SRAM", 8192, 9000),), 2000, 1800, 71_000,
        (_layer(0, "fire2_expand1x1", "NPU", 100), _layer(1, "lrn", "CPU", 0)),
        (Finding("cpu", "Vela gives no reason", ("lrn",)),), "what Vela said", b"compiled",
    )  # fmt: skip


def sweep():
    """Return a `Sweep` over two accelerators, with the refusal of a third."""
    refusal = Refusal("ethos-u85-256", "Expected another file")
    return Sweep("net_int8.tflite", (estimate(), estimate("ethos-u55-256")), (refusal,))


def micro(**changes):
    """Return a `Micro` that needs an arena of 11,840 bytes."""
    made = Micro(
        "net_int8.tflite", SHA, 70_000, 50_000, (OperatorUse("CONV_2D", 2, "AddConv2D"),), "resolver;", 2**21,
        Arena(11_840, 5120, 6720, (Part("Things", 792),), 16, 4, 64), None, Comparison("noise", True, 4, 40, 0, 0.0),
        None, 5120, 0, "0.1",
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def micro_abort():
    """Return a `Micro` for which no arena works."""
    return micro(arena=None, comparison=None, finding=MicroFinding("abort", "the runtime ends with SIGABRT"))


def evaluate(classes=3):
    """Return the document of `keras-nin evaluate`: every image recognised but one of the last class."""
    labels = np.arange(classes).repeat(4)
    outputs = np.eye(classes)[labels]
    outputs[-1] = np.eye(classes)[0]
    return {
        "schema": "keras_nin.evaluate/1",
        "file": "some/where/net_int8.tflite",
        **evaluation(outputs, labels, ("ant", "bee", "cat")).to_json(),
        "data": "insects",
        "preprocessing": {"mode": "unit"},
        "weights": "insects",
        "label_offset": 0,
        "speed": {
            "images_per_second": 18_950.0,
            "batch": 1,
            "threads": 1,
            "runs": 12,
            "host": report_profiles.HOST,
        },  # fmt: skip
    }


def claims():
    """Return the document of `keras-nin claims`: a claim that holds, and a timed one that is not reproduced."""
    figures = (
        Figure("parameters", 16_416, 16_416, 16_416),
        Figure("shape", (12, 12, 32), (12, 12, 32), (12, 12, 32)),
        Figure("difference", AtMost(1e-5), AtMost(1e-5), 2e-6),
    )
    timed = (Figure("ratio", 23.0, None, Interval(4.5, 4.25, 4.75)), Figure("agreed", None, True, False))
    conditions = {"host": report_profiles.HOST, "threads": [1, 2], "processes": 5, "runs": 50}
    return render.to_json(
        [
            Result("counted", "an article", "It has 16,416 parameters.", "It is arithmetic.", figures),
            Result("timed", "another", "It is 23 times faster.", "It is not.", timed, conditions),
        ]
    )


def documents():
    """Return one document of each kind by its name."""
    return {
        "fit": fit().to_json(),
        "edgetpu": verdict().to_json(),
        "ethosu": sweep().to_json(),
        "micro": micro().to_json(),
        "evaluate": evaluate(),
        "claims": claims(),
    }
