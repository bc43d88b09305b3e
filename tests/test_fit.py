"""Files on all targets: what each answers, what a failure becomes, the table, and limits."""

import dataclasses

import micro_stand_in
import pytest
import target_documents as made
import tflite_writer as writer
import vela_stand_in

from keras_nin import benchmark
from keras_nin.edge.edgetpu import check_edgetpu
from keras_nin.edge.ethosu import EthosUResult, estimate, vela
from keras_nin.edge.fit import (
    FileFit,
    FitSettings,
    MissingFigures,
    check_fit,
    check_fit_limits,
    parse_fit_limits,
    parse_targets,
)
from keras_nin.edge.micro.runtime import RuntimeOutcome
from keras_nin.errors import InputError
from keras_nin.formatting import escape_unprintable
from keras_nin.report import fit as report

SHORT = FitSettings(seconds=0.02)


@pytest.fixture
def without_extras(monkeypatch):
    """Neither Vela nor tflite-micro is installed."""
    from keras_nin.edge.micro import measurement

    def missing():
        raise InputError("The package tflite-micro is not installed")

    monkeypatch.setattr(vela, "_vela_command", lambda: None)
    monkeypatch.setattr(measurement, "require_tflite_micro", missing)


def custom(path):
    """Write a file that no runtime has an operator for."""
    tensors = [writer.tensor(name, (1, 8), quantization=micro_stand_in.quantization(0.1, 0)) for name in "ab"]
    return writer.write(path, tensors, [writer.custom("Unheard", [0], [1])])


# the targets


def test_every_target_answers_with_its_figures(tmp_path, monkeypatch):
    vela_stand_in.install(tmp_path, monkeypatch)
    micro_stand_in.install_engine(monkeypatch)
    network = vela_stand_in.network(tmp_path)
    found = check_fit([network, micro_stand_in.softmax(tmp_path / "softmax.tflite")], settings=SHORT)
    assert found.targets == ("cpu", "edgetpu", "ethosu", "micro")
    assert found.host["cores"] > 0
    first, second = found.results
    assert (first.file, first.file_bytes) == (network.name, network.stat().st_size)
    assert (first.macs, first.macs_known) == (sum(vela_stand_in.MACS.values()), True)
    assert first.pointwise_macs == sum(macs for name, macs in vela_stand_in.MACS.items() if "1x1" in name)
    assert (first.ethosu.on_npu, first.ethosu.operators, first.ethosu.on_cpu) == (13, 13, 0)
    assert round(first.ethosu.us) == 132
    assert first.ethosu.sram_bytes == 8256
    assert (second.edgetpu.mapped, second.edgetpu.operators, second.edgetpu.why) == (1, 1, None)
    verdicts = [check_edgetpu(path) for path in (network, tmp_path / "softmax.tflite")]
    assert [file.edgetpu.uncertain for file in found.results] == [verdict.uncertain for verdict in verdicts]
    assert (second.micro.arena_bytes, second.micro.bit_exact) == (1328, True)
    assert second.cpu.median_us > 0
    assert second.cpu.runs > 0
    assert second.cpu.pointwise_share == 0  # a softmax alone
    assert second.missing == ()
    # The network of Vela's recorded answer has no scales: no runtime takes it.
    assert {each.target: each.label for each in first.missing} == {"cpu": "does not run", "micro": "refused"}


def test_what_vela_leaves_to_the_cpu_is_counted(tmp_path, monkeypatch):
    vela_stand_in.install(tmp_path, monkeypatch)
    monkeypatch.setattr(estimate, "estimate_ethosu", lambda path, *_, **__: EthosUResult("net", (made.estimate(),)))
    (result,) = check_fit([micro_stand_in.softmax(tmp_path / "net.tflite")], ["ethosu"]).results
    assert (result.ethosu.on_npu, result.ethosu.operators, result.ethosu.on_cpu) == (1, 2, 1)
    assert (result.ethosu.clock_hz, result.ethosu.us, result.ethosu.sram_bytes) == (500e6, 0.2, 8192)


@pytest.mark.usefixtures("without_extras")
def test_a_target_that_fails_is_no_end_of_the_others(tmp_path):
    found = check_fit(
        [custom(tmp_path / "custom.tflite"), micro_stand_in.softmax(tmp_path / "net.tflite")], settings=SHORT
    )
    first, second = found.results
    assert {each.target: each.label for each in first.missing} == {
        "cpu": "does not run", "ethosu": "needs the extra ethosu", "micro": "needs the extra micro",
    }  # fmt: skip
    assert "keras-nin[ethosu]" in first.find_missing("ethosu").reason
    assert (first.edgetpu.mapped, first.macs_known) == (0, False)
    assert "Unheard" in first.edgetpu.why or "Unheard" in first.edgetpu.failure
    assert second.cpu is not None
    assert second.edgetpu.mapped == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [({"micro": RuntimeOutcome(-6, "bad thing", {"phase": "set up"})}, "abort"), ({"needs": 5000}, "over 4.0 KiB")],
)
def test_why_no_arena_works_is_in_the_cell(tmp_path, monkeypatch, options, word):
    micro_stand_in.install_engine(monkeypatch, **options)
    path = micro_stand_in.softmax(tmp_path / "net.tflite")
    (result,) = check_fit([path], ["micro"], FitSettings(max_arena=4096)).results
    assert result.micro is None
    assert result.find_missing("micro").label == word
    assert (result.cpu, result.edgetpu, result.find_missing("cpu")) == (None, None, None)


def test_a_file_that_does_not_parse_ends_it_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "measure_files", lambda *_, **__: pytest.fail("something was measured"))
    (tmp_path / "bad.tflite").write_bytes(b"no file")
    with pytest.raises(InputError, match="bad.tflite"):
        check_fit([micro_stand_in.softmax(tmp_path / "net.tflite"), tmp_path / "bad.tflite"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one file"),
        ((["a.tflite"], ["tpu"]), "`targets` to be one of"),
        ((["a.tflite"], ["ethosu"], FitSettings(accelerator="ethos-u9")), "`accelerator`"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        check_fit(*arguments)


def test_one_warning_of_a_kind_is_kept(tmp_path, monkeypatch):
    from keras_nin.benchmark.records import BenchmarkResult

    busy = iter(["10%", "20%"])

    def measure(models, **_):
        import report_profiles

        return BenchmarkResult(
            {}, (report_profiles.profile(),), (f"the machine is busy: {next(busy)}", f"of {models[0].path.name}")
        )

    monkeypatch.setattr(benchmark, "measure_files", measure)
    paths = [micro_stand_in.softmax(tmp_path / f"{name}.tflite") for name in "ab"]
    assert check_fit(paths, ["cpu"]).warnings == ("the machine is busy: 20%", "of a.tflite", "of b.tflite")


# the table


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_tables_are_at_most_120_columns_wide(count):
    name = "a_model_with_a_name_of_some_length_{}_int8_edgetpu.tflite"
    cpu = dataclasses.replace(made.file_fit().cpu, median_us=123_456, low_us=123_000, high_us=124_000)
    wide = made.file_fit(params=99_999_999, macs=9_999_999_999, macs_known=False, cpu=cpu)
    files = [dataclasses.replace(wide, file=name.format(number)) for number in range(count)]
    text = report.format_fit(made.fit(*files))
    tables = text.partition("Whole name:")[0] if count > 1 else text.partition("\n\nCPU:")[0]
    assert max(map(len, tables.splitlines())) <= 120
    assert tables.count("parameters") == 2 * -(-count // report.MAX_FILES)  # of the file, and on the Edge TPU
    for each in files:
        assert each.file.removesuffix(".tflite") in text


def test_uncertain_verdicts_are_counted():
    certain = made.file_fit()
    doubtful = made.file_fit(edgetpu=dataclasses.replace(certain.edgetpu, uncertain=3))
    line = "uncertain: 3 of 13 operators, see keras-nin edgetpu"
    assert [line in report.format_fit(made.fit(file)) for file in (certain, doubtful)] == [False, True]


def test_a_table_has_what_was_asked_and_is_known_alone():
    only = made.file_fit(cpu=None, ethosu=None, micro=None)
    text = report.format_fit(made.fit(only, targets=("edgetpu",), host=None, warnings=()))
    lines = [line.split("  ")[0].strip() for line in text.splitlines()[2:]]
    assert lines[: lines.index("")] == [
        "size", "parameters", "MACs", "MACs in 1x1", "Edge TPU", "Edge TPU operators", "Edge TPU parameters",
        "Edge TPU memory",
    ]  # fmt: skip
    assert "CPU" not in text.replace("Edge TPU", "")


def test_cells_and_reasons():
    text = report.format_fit(made.fit())
    rows = {line[:20].strip(): line[20:].split("   ") for line in text.splitlines()}
    cells = {label: [cell.strip() for cell in row if cell.strip()] for label, row in rows.items()}
    assert cells["this CPU, 1 thread"] == ["1.250 ms", "does not run"]
    assert cells["CPU 95% interval"] == ["1.24 to 1.27 ms"]
    assert cells["CPU time in 1x1"] == ["25.0%"]
    assert cells["Edge TPU"] == ["all mapped", "Model not quantized"]
    assert cells["Ethos-U operators"] == ["13 of 13", "0 of 13"]
    assert cells["TFLite Micro arena"] == ["11.7 KiB", "needs the extra micro"]
    assert "Edge TPU, net_float32.tflite: does not compile: Model not quantized: it computes with float32" in text
    assert "CPU: measured, median at batch 1 on 1 thread; Test CPU, 2 cores" in text
    assert "Ethos-U: estimated by Vela 5.2.0 (Ethos_U55_High_End_Embedded, Shared_Sram)" in text


def test_a_reason_that_all_files_share_is_said_once():
    missing = (MissingFigures("micro", "needs the extra micro", "Expected tflite-micro"),)
    files = [made.file_fit(name, micro=None, missing=missing) for name in ("a.tflite", "b.tflite", "c.tflite")]
    assert (
        report.format_fit(made.fit(*files)).count("TFLite Micro, all: needs the extra micro: Expected tflite-micro")
        == 1
    )
    files[2] = made.file_fit("c.tflite")
    assert "TFLite Micro, a.tflite, b.tflite: needs" in report.format_fit(made.fit(*files))


def test_files_of_one_name_are_told_apart_and_hostile_names_are_escaped():
    hostile = dataclasses.replace(made.float_fit(), file="\x1b[31m\u202e.tflite")
    files = [made.file_fit("net.tflite"), made.file_fit("net.tflite"), hostile]
    text = report.format_fit(made.fit(*files, host={"cpu": "\x1b[2J"}))
    assert "1 net" in text
    assert "2 net" in text
    assert all(escape_unprintable(line) == line for line in text.splitlines())


# limits


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("cpu=1.25ms,cpu=1249us", [True, False]),
        ("edgetpu=full,edgetpu=95%", [True, True]),
        ("ethosu=132us,ethosu=0.1ms", [True, False]),
        ("sram=8KiB,sram=8320B", [False, True]),
        ("arena=12000B,arena=11999B", [True, False]),
        ("flash=70kB", [True]),
    ],
)
def test_limits(text, passed):
    checks = check_fit_limits(made.fit(made.file_fit()), parse_fit_limits(text))
    assert [check.passed for check in checks] == passed
    assert str(checks[0]).startswith("net_int8.tflite: ")
    result = made.fit(made.file_fit(), checks=checks)
    assert result.passed == all(passed)
    assert [check["passed"] for check in result.to_json()["checks"]] == passed


def test_a_limit_on_what_is_unknown_does_not_pass():
    checks = check_fit_limits(made.fit(made.float_fit()), parse_fit_limits("cpu=1s,edgetpu=1%,ethosu=1s,arena=1GiB"))
    assert [check.passed for check in checks] == [False] * 4
    assert [check.reason for check in checks] == [
        "does not run: Expected it to run. Received: a crash",
        "no operator runs on the Edge TPU",
        "no operator runs on the NPU",
        "needs the extra micro: Expected the package tflite-micro",
    ]


@pytest.mark.parametrize("text", ["ethosu=1s", "sram=1MiB", "sram=0B", "edgetpu=0%", "edgetpu=..50%"])
def test_a_limit_where_nothing_runs_fails(text):
    (check,) = check_fit_limits(made.fit(made.float_fit()), parse_fit_limits(text))
    assert (check.passed, check.value) == (False, None)
    assert "FAIL, nothing runs (no operator runs on the " in str(check)
    partly = dataclasses.replace(made.float_fit(), ethosu=dataclasses.replace(made.float_fit().ethosu, on_npu=1))
    (check,) = check_fit_limits(made.fit(partly), parse_fit_limits("ethosu=1s"))
    assert check.reason == "12 of 13 operators on the CPU, whose time is unknown"


@pytest.mark.parametrize("text", ["tpu=5ms", "cpu", "cpu=5", "cpu=nan", "cpu=full", "edgetpu=101%", "edgetpu=sram",
                                  "arena=256", "", "cpu=5ms,"])  # fmt: skip
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(InputError, match="Expected `require`"):
        parse_fit_limits(text)


def test_targets_and_their_limits():
    assert parse_targets([" cpu", "micro", "cpu "]) == ("cpu", "micro")
    with pytest.raises(InputError, match="`targets` to be one of cpu, edgetpu, ethosu, micro"):
        parse_targets(["gpu"])
    assert len(parse_fit_limits("cpu=1s,flash=1MiB", ["cpu"])) == 2
    with pytest.raises(InputError, match="`require` limits arena, which needs micro among `targets`"):
        parse_fit_limits("arena=1MiB", ["cpu"])


def test_a_result_in_a_notebook():
    result = made.fit()
    assert repr(result) == "<FitResult: 2 files on this CPU, Edge TPU, Ethos-U, TFLite Micro>"
    assert list(result.to_dataframe()["cpu_us"].fillna(0)) == [1250.0, 0]


def test_a_file_without_an_audit_has_its_size_and_no_counts():
    bare = FileFit("net.tflite", "00", 1000, None, None, None, False)
    text = report.format_fit(made.fit(bare, targets=(), host=None))
    assert "unknown" in text
    assert "parameters" not in text
