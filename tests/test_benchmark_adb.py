"""An Android device: files in the formats of benchmark_model, and a stand-in for adb that runs its scripts here."""

import os

import pytest
from tflite_writer import operator, tensor, write

from keras_nin.benchmark import measure_files, open_device
from keras_nin.benchmark.adb import ToolLog, parse_kernels, parse_log
from keras_nin.errors import InputError

LOG = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [4]
INFO: Loaded model /data/local/tmp/net.tflite
INFO: Initialized session in 12.345ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=2100 curr=1000 min=990 max=2100 avg=1030.5 std=80 p5=991 median=1001 p95=1200

INFO: Running benchmark for at least 10 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=1021 first=1000 curr=975 min=960 max=1500 avg=9.8e+02 std=12 p5=965 median=978 p95=1010

INFO: Inference timings in us: Init: 12345, First inference: 2100, Warmup (avg): 1030.5, Inference (avg): 980.25
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
INFO: Memory footprint delta from the start of the tool (MB): init=2.5 overall=4.25
"""
HEADER = "node type, start, first, avg_ms, %, cdf%, mem KB, times called, name"
# A table for the start, one of the regular runs (kernels of XNNPACK beside operators), and what follows it.
CSV = f"""\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
{HEADER}
ModifyGraphWithDelegate, 0, 14.842, 14.842, 99.317%, 99.317%, 3428, 1, ModifyGraphWithDelegate/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
{HEADER}
Convolution (NHWC, QC8) IGEMM, 0.002, 0.2, 0.25, 50%, 50%, 0, 1, Delegate/Convolution (NHWC, QC8) IGEMM:0
Fully Connected (NC, QS8, QC8W) GEMM, 0.3, 0.1, 0.1255, 25%, 75%, 0, 2, Delegate/Fully Connected (NC, QS8, QC8W) GEMM:1
TfLiteXNNPackDelegate, 0, 0.5, 0.501, 100%, 175%, 0, 1, [odd, name:0]:12
SOFTMAX, 0.6, 0.01, 1.5e-05, 0.01%, 100%, 0, 1, [StatefulPartitionedCall:0]:11

============================== Top by Computation Time ==============================
{HEADER}
Convolution (NHWC, QC8) IGEMM, 0.002, 0.2, 0.25, 50%, 50%, 0, 1, Delegate/Convolution (NHWC, QC8) IGEMM:0

Number of nodes executed: 4
============================== Summary by node type ==============================
node type, count, avg_ms, avg %, cdf %, mem KB, times called
Convolution (NHWC, QC8) IGEMM, 1, 0.25, 50%, 50%, 0, 1

Timings (microseconds): count=50 first=501 curr=500 min=490 max=520 avg=501 std=3
Memory (bytes): count=0
4 nodes observed
"""


def test_the_profile():
    assert [(each["kind"], each["name"], each["index"], each["us"]["typical"]) for each in parse_kernels(CSV)] == [
        ("delegate", "Convolution (NHWC, QC8) IGEMM", 0, pytest.approx(250)),
        ("delegate", "Fully Connected (NC, QS8, QC8W) GEMM", 1, pytest.approx(2 * 125.5)),
        ("operator", "SOFTMAX", 11, pytest.approx(0.015)),
    ]


def test_later_versions_have_no_start_and_tabs_for_commas():
    lines = [
        "Operator-wise Profiling Info for Regular Benchmark Runs:",
        "============================== Run Order ==============================",
        "node type,first,avg_ms,%,cdf%,mem KB,times called,name",
        "Convolution (NHWC, F32) IGEMM,0.16,0.1999,11.4405%,11.4405%,0,1,Delegate/Convolution (NHWC\t F32) IGEMM:0",
        "HardSwish (NC),0.016,0.0656,3.75436%,15.1949%,0,1,Delegate/HardSwish (NC):1",
    ]
    kernels = parse_kernels("\n".join(lines))
    assert [(each["name"], each["index"], each["us"]["mean"]) for each in kernels] == [
        ("Convolution (NHWC, F32) IGEMM", 0, pytest.approx(199.9)),
        ("HardSwish (NC)", 1, pytest.approx(65.6)),
    ]


def test_without_a_delegates_kernels_its_operator_stays():
    text = "\n".join(line for line in CSV.splitlines() if "Delegate/" not in line)
    assert [each["name"] for each in parse_kernels(text)] == ["TfLiteXNNPackDelegate", "SOFTMAX"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one without 'Operator-wise Profiling Info"),
        ("<html>", "one without 'Operator-wise Profiling Info"),
        (CSV.replace("avg_ms", "mean_ms"), "the columns of benchmark_model's profile"),
        (CSV.replace("SOFTMAX, 0.6", "SOFTMAX, x"), "rows of benchmark_model's profile. Received: 'SOFTMAX, x"),
        (CSV.split("Convolution (NHWC", 1)[0], "one without operators"),
    ],
)
def test_other_files(text, says):
    with pytest.raises(InputError) as caught:
        parse_kernels(text)
    assert says in str(caught.value)


def test_the_log():
    assert parse_log(LOG) == ToolLog(1021, 978, 980, 960, 12345, 2100, round(4.25 * 2**20))
    statistics = "count=1021 first=1000 curr=975 min=960 max=1500 avg=9.8e+02 std=12 p5=965 median=978 p95=1010"
    only = parse_log(LOG.replace(statistics, "count=1 curr=975"))  # one run has no statistics
    assert (only.runs, only.median_us, only.min_us) == (1, 975, 975)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the log of benchmark_model. Received: 'nothing'"),
        ("Segmentation fault\n", "Received: 'Segmentation fault'"),
        (LOG.replace(" p5=965 median=978 p95=1010", ""), "does not print the median"),
    ],
)
def test_other_logs(text, says):
    with pytest.raises(InputError) as caught:
        parse_log(text)
    assert says in str(caught.value)


class Android:
    """A stand-in for adb and the device behind it: a folder, in which `adb shell` runs its script with sh."""

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "root"
        self.root.mkdir()
        self._script(folder / "adb", ADB)
        self.tool = self.root / "benchmark_model"
        self.answer(LOG, CSV)

    def _script(self, path, text):
        text = text.replace("FOLDER", str(self.folder))
        path.write_text(
            f"#!/bin/sh\n{{ printf {path.name}; printf '\\037%s' \"$@\"; echo; }} >> {self.folder}/calls\n{text}"
        )
        path.chmod(0o755)

    def answer(self, log, csv="", status=0):
        """Let benchmark_model print a log, write a profile where it is asked for one, and end with a status."""
        (self.folder / "log").write_text(log)
        (self.folder / "csv").write_text(csv)
        self._script(self.tool, TOOL.replace("STATUS", str(status)))

    def commands(self):
        """Return what was run, in order."""
        return [line.split("\037") for line in (self.folder / "calls").read_text().splitlines()]


ADB = """
there() { printf %s "$1" | sed 's#/data/local/tmp#FOLDER/root#g; s#getprop ro.product.model#echo Pixel 9#'; }
case "$*" in
  "-s emulator-5554 "*) shift 2 ;;
  "-s new "*) echo "error: device unauthorized." >&2; exit 1 ;;
  -s*) echo "adb: device '$2' not found" >&2; exit 1 ;;
esac
command=$1; shift
case $command in
  push) cp "$1" "$(there "$2")" ;;
  shell) sh -c "$(there "$*")" ;;
esac
"""
TOOL = """
count=1021
for word; do
  case $word in
    --num_runs=1) ;;
    --num_runs=*) count=${word#*=} ;;
    --profiling_output_csv_file=*) cp FOLDER/csv "${word#*=}" ;;
    --graph=*) [ -e "${word#*=}" ] || { echo "ERROR: no such file" >&2; exit 1; } ;;
  esac
done
sed "s/count=1021/count=$count/" FOLDER/log
exit STATUS
"""


@pytest.fixture
def android(tmp_path, monkeypatch):
    android = Android(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return android


@pytest.fixture
def network(tmp_path):
    tensors = [tensor("in", [1, 8], "FLOAT32"), tensor("mid", [1, 8], "FLOAT32"), tensor("out", [1, 8], "FLOAT32")]
    return write(tmp_path / "my 'net'.tflite", tensors, [operator("RELU", [0], [1]), operator("LOGISTIC", [1], [2])])


def test_a_benchmark(android, network):
    made = measure_files([network], threads=(2,), runs=60, run=open_device("adb://emulator-5554"))
    (profile,) = made.profiles
    assert (profile.file, profile.threads, profile.api) == (network.name, 2, "benchmark_model")
    assert (profile.total.median, profile.total.min, profile.total.low, profile.total.high) == (978, 960, 978, 978)
    assert (profile.total.p10, profile.total.p99, profile.converged) == (None, None, True)
    assert (profile.load_us, profile.first_us, profile.added_bytes) == (12345, 2100, round(4.25 * 2**20))
    assert "Pixel 9" in made.host["cpu"]
    assert [layer.kernel for layer in profile.layers][:2] == [
        "Convolution (NHWC, QC8) IGEMM",
        "Fully Connected (NC, QS8, QC8W) GEMM",
    ]
    # The sum of the file's rows, and half a microsecond that the clock cuts off for each of the delegate's kernels.
    assert sum(layer.us.typical for layer in profile.layers if layer.us) == pytest.approx(501.015 + 2 * 0.5)

    calls = android.commands()
    assert all(call[1:3] == ["-s", "emulator-5554"] for call in calls if call[0] == "adb")
    runs = [call[1:] for call in calls if call[0] == "benchmark_model"]
    assert len(runs) == 7
    for words in runs[:6]:
        assert words[1:] == ["--num_threads=2", "--num_runs=10", "--min_secs=0", "--max_secs=1000000"]
    assert "--enable_op_profiling=true" in runs[6]
    assert runs[6][3].startswith("--profiling_output_csv_file=")
    assert {words[0].rpartition("/")[2] for words in runs} == {"0.tflite"}
    assert [path.name for path in android.root.iterdir()] == ["benchmark_model"]


def test_as_long_as_it_is_told(android, network):
    measure_files([network], seconds=6, layers=False, run=open_device("adb://emulator-5554"))
    runs = [call for call in android.commands() if call[0] == "benchmark_model"]
    assert [words[3:] for words in runs] == [["--num_runs=1", "--min_secs=1", "--max_secs=1"]] * 6


def test_files_take_turns_and_a_delegate_is_passed_on(android, network, tmp_path):
    other = tmp_path / "other.tflite"
    other.write_bytes(network.read_bytes())
    made = measure_files(
        [network, other], runs=12, interleave=True, delegate="/vendor/lib/tpu.so", run=open_device("adb://")
    )
    runs = [call for call in android.commands() if call[0] == "benchmark_model"]
    assert [words[1].rpartition("/")[2] for words in runs[:4]] == ["0.tflite", "1.tflite", "0.tflite", "1.tflite"]
    assert all("--external_delegate_path=/vendor/lib/tpu.so" in words for words in runs)
    assert [profile.layers for profile in made.profiles] == [(), ()]
    assert not [call for call in android.commands() if "-s" in call]


def test_a_tool_of_this_machine_is_sent_along(android, network, tmp_path):
    here = tmp_path / "my tool"
    android.tool.rename(here)
    made = measure_files([network], runs=6, run=open_device("adb://emulator-5554", benchmark_model=str(here)))
    assert made.profiles[0].total.median == 978
    assert list(android.root.iterdir()) == []


def refused(network, url="adb://emulator-5554", **options):
    with pytest.raises(InputError) as caught:
        measure_files([network], runs=6, run=open_device(url, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_wrong_with_the_device(android, network):
    assert "adb://gone: no such device is attached. See `adb devices`" in refused(network, "adb://gone")
    assert "adb://new: it does not trust this computer" in refused(network, "adb://new")
    android.tool.unlink()
    assert "it has no program '/data/local/tmp/benchmark_model'. Push LiteRT's" in refused(network)
    assert list(android.root.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "says"),
    [(1, "exit status 1: ERROR: Op code 5000 unknown"), (139, "killed by signal 11; is its memory full?")],
)
def test_a_file_that_does_not_run(android, network, status, says):
    android.answer("INFO: STARTING!\nERROR: Op code 5000 unknown\nBenchmarking failed.", status=status)
    text = refused(network)
    assert f"Received: {str(network)!r}: {says}" in text
    assert [path.name for path in android.root.iterdir()] == ["benchmark_model"]


def test_no_adb_here(network, monkeypatch):
    monkeypatch.setenv("KERAS_NIN_ADB", "/no/adb")
    assert "the program '/no/adb' of Android's platform tools cannot be started" in refused(network)


@pytest.mark.parametrize("url", ["adb://a b", "adb://a;b", "adb://x/y", "usb://x", "", "http://host", "ssh:/host"])
def test_bad_urls(url):
    with pytest.raises(InputError, match="^Expected `device` as "):
        open_device(url)


# Devices by name, and several at once


@pytest.fixture
def name_devices(tmp_path, monkeypatch):
    """A function that writes the user's devices.toml."""

    def write_toml(text):
        path = tmp_path / "devices.toml"
        path.write_text(text)
        monkeypatch.setenv("KERAS_NIN_DEVICES", str(path))

    return write_toml


def test_a_device_by_name(android, network, name_devices, cli):
    here = android.folder / "my tool"
    android.tool.rename(here)
    name_devices(f'[phone]\nurl = "adb://emulator-5554"\nbenchmark_model = {str(here)!r}\n')
    ran = cli("benchmark", network, "--on", "phone", "--runs", "6", "--no-layers", "--json", "--out", "results")
    assert (ran.status, ran.json["results"][0]["total"]["us"]["median"]) == (0, 978)
    assert (android.folder / "results" / f"{network.stem}_phone.json").exists()
    listed = cli("devices", "--json").json["devices"]
    assert (listed[0]["device"], listed[0]["what"]) == ("phone", "adb://emulator-5554")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[phone", "Expected a TOML file"),
        ("phone = 1", "Expected a table of texts benchmark_model, python, url. Received: 1 as 'phone'"),
        ("[phone]\nurl = 'adb://x'\nport = '1'", "Received: {'url': 'adb://x', 'port': '1'} as 'phone'"),
        ("[phone]\npython = 'python3'", "Expected a `url` of the device 'phone'"),
        ("[phones]\nurl = 'adb://x'", "devices.toml'. Received: 'phone'. "),
        ("", "Expected --on as ssh://[user@]host[:port], adb://SERIAL, qemu://CPU, or a name in "),
    ],
)
def test_bad_names_of_devices(network, name_devices, cli, text, says):
    name_devices(text)
    for command in (["benchmark", network], ["evaluate", network, "--data", "digits"]):
        ran = cli(*command, "--on", "phone")
        assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
        assert says in ran.err


def test_several_devices_in_one_table(android, network, cli):
    words = ["benchmark", network, "--runs", "60", "--on", "adb://emulator-5554,adb://", "--on", "adb://gone"]
    ran = cli(*words, "--require", "latency=500us")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "adb://gone: no such device is attached" in ran.err
    lines = ran.out.splitlines()
    assert lines[1].split() == ["file", "threads", "adb://emulator-5554", "adb://"]
    assert lines[3].split()[-8:] == ["978.0", "(978.0", "to", "978.0)"] * 2
    assert [line.split()[-2:] for line in lines if line.startswith(" Fully Connected")] == [["251.5", "251.5"]]
    assert "adb://: my 'net'.tflite on 1 thread: latency 978.0 us, limit at most 500.0 us: FAIL, exceeded" in lines
    document = cli(*words[:-2], "--json").json
    assert [each["results"][0]["total"]["us"]["median"] for each in document["devices"].values()] == [978, 978]
    assert document["failures"] == {}
    ran = cli(*words, "--csv")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
