"""What the commands for edge targets, `evaluate` and `claims` print as JSON, made of records with made-up figures."""

import dataclasses

import numpy as np
import report_profiles

from keras_nin.claims.claim import AtMost, ClaimFigure, ClaimResult, ClaimsResult, Interval
from keras_nin.edge.edgetpu import EdgeTPUResult, FailureMessage, OperatorVerdict, ParameterMemory, Status
from keras_nin.edge.ethosu.records import (
    EthosUEstimate,
    EthosUFinding,
    EthosULayer,
    EthosURefusal,
    EthosUResult,
    MemoryUsage,
)
from keras_nin.edge.fit import (
    CPUFigures,
    EdgeTPUFigures,
    EthosUFigures,
    FileFit,
    FitResult,
    FitSettings,
    MissingFigures,
)
from keras_nin.edge.fit import MicroFigures as MicroFit
from keras_nin.edge.micro.records import Arena, ArenaSection, MicroComparison, MicroFinding, MicroOperator, MicroResult
from keras_nin.report.accuracy import score_outputs

SHA = "cd" * 32
CONFIG = ("Ethos_U55_High_End_Embedded", "Shared_Sram")


def file_fit(file="net_int8.tflite", **changes):
    """Return a `FileFit` with figures of all targets."""
    made = FileFit(
        file, SHA, 70_000, 50_482, 544_256, 240_000, True,
        cpu=CPUFigures(1250.0, 1240.0, 1270.0, 1, 500, True, 0.25),
        edgetpu=EdgeTPUFigures(True, None, None, None, 13, 13, 50_000, "on-chip"),
        ethosu=EthosUFigures("ethos-u55-128", *CONFIG, "5.2.0", 500e6, 132.0, 8320, 13, 13),
        micro=MicroFit(12_000, 5000, 7000, 64, "0.1", True),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def float_fit():
    """Return a `FileFit` of a float file: little of it has figures."""
    return file_fit(
        "net_float32.tflite",
        cpu=None,
        edgetpu=EdgeTPUFigures(
            False, FailureMessage.NOT_QUANTIZED, "it computes with float32", "export to int8", 0, 13, 0, "on-chip"
        ),
        ethosu=EthosUFigures("ethos-u55-128", *CONFIG, "5.2.0", 500e6, 0.0, 0, 0, 13),
        micro=None,
        missing=(
            MissingFigures("cpu", "does not run", "Expected it to run. Received: a crash"),
            MissingFigures("micro", "needs the extra micro", "Expected the package tflite-micro"),
        ),
    )


def fit(*results, **changes):
    """Return a `Fit` of results; by default of an int8 file and a float one."""
    made = FitResult(
        ("cpu", "edgetpu", "ethosu", "micro"), FitSettings(), report_profiles.HOST,
        results or (file_fit(), float_fit()), ("the machine is busy",),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def verdict():
    """Return a `Verdict` on three operators, of which one is mapped."""
    operators = (
        OperatorVerdict(0, "CONV_2D", "conv1", True, Status.MAPPED),
        OperatorVerdict(1, "TANH", "act", False, Status.NOT_SUPPORTED, "there is none", "use ReLU", "supported"),
        OperatorVerdict(2, "RELU", "relu", False, Status.SECOND_SUBGRAPH, "after the cut", None, "one-part"),
    )
    return EdgeTPUResult(
        "some/where/net_int8.tflite", False, None, operators, 1, ParameterMemory(2**20, "on-chip", 0), ("a note",)
    )


def _layer(index, name, target, cycles):
    memory = {"SRAM": 100}
    return EthosULayer(
        index, name, "CONV_2D", "pointwise", "expand", None, target, 1, cycles, cycles, 0.5, 6400, 6400, 6400, 0.5,
        "NPU", memory, memory, memory,
    )  # fmt: skip


def estimate(accelerator="ethos-u55-128"):
    """Return an `Estimate` of two layers, of which the CPU has one."""
    return EthosUEstimate(
        "net_int8.tflite", SHA, 70_000, accelerator, 128, *CONFIG, "5.2.0", 500e6, 0.2, 100, 100, 6400, 12_800, 0.5,
        (MemoryUsage("SRAM", 8192, 9000),), 2000, 1800, 71_000,
        (_layer(0, "fire2_expand1x1", "NPU", 100), _layer(1, "lrn", "CPU", 0)),
        (EthosUFinding("cpu", "Vela gives no reason", ("lrn",)),), "what Vela said", b"compiled",
    )  # fmt: skip


def sweep():
    """Return a `Sweep` over two accelerators, with the refusal of a third."""
    refusal = EthosURefusal("ethos-u85-256", "Expected another file")
    return EthosUResult("net_int8.tflite", (estimate(), estimate("ethos-u55-256")), (refusal,))


def micro(**changes):
    """Return a `Micro` that needs an arena of 11,840 bytes."""
    made = MicroResult(
        "net_int8.tflite", SHA, 70_000, 50_000, (MicroOperator("CONV_2D", 2, "AddConv2D"),), "resolver;", 2**21,
        Arena(11_840, 5120, 6720, (ArenaSection("Things", 792),), 16, 4, 64), None,
        MicroComparison("noise", True, 4, 40, 0, 0.0),
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
        **score_outputs(outputs, labels, ("ant", "bee", "cat")).to_json(),
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
        ClaimFigure("parameters", 16_416, 16_416, 16_416),
        ClaimFigure("shape", (12, 12, 32), (12, 12, 32), (12, 12, 32)),
        ClaimFigure("difference", AtMost(1e-5), AtMost(1e-5), 2e-6),
    )
    timed = (ClaimFigure("ratio", 23.0, None, Interval(4.5, 4.25, 4.75)), ClaimFigure("agreed", None, True, False))
    conditions = {"host": report_profiles.HOST, "threads": [1, 2], "processes": 5, "runs": 50}
    return ClaimsResult(
        (
            ClaimResult("counted", "an article", "It has 16,416 parameters.", "It is arithmetic.", figures),
            ClaimResult("timed", "another", "It is 23 times faster.", "It is not.", timed, conditions),
        )
    ).to_json()


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
