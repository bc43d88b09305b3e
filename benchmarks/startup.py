"""How long commands take from cold, in processes of their own, against Python and TensorFlow's Keras in the same run.

python benchmarks/startup.py [RUNS] [--file FILE.tflite] [--models M,...]

Median of RUNS (default 5) over interleaved runs; CPU seconds are user and system time of the process and its children.
Limits: --help 0.15 s and commands on a .tflite file 0.4 s on an idle machine of two cores, and as shares of `import
keras` on TensorFlow 0.25 for `audit` of a network of the zoo, 0.6 for `audit keras:InceptionV3`. Exit status 1 where a
share is above its limit; seconds depend on the machine, so that they are only marked.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

KERAS = "import keras (TensorFlow)"
SECONDS, FILE_SECONDS = 0.15, 0.4
ZOO_SHARE, APPLICATION_SHARE = 0.25, 0.6


def main():
    """Print the medians and the shares, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="?", type=int, default=5)
    parser.add_argument("--file", help="a .tflite file for the commands on files; none are timed without one")
    parser.add_argument("--models", default="nin_digits,squeezenet_v1_1,googlenet_bn,inception_v3")
    options = parser.parse_args()
    commands = list_commands(options.models.split(","), options.file)
    seconds = {name: [] for name in commands}
    cpu_seconds = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.runs):
            for name, (words, _) in commands.items():
                wall, cpu = time_process(words, folder)
                seconds[name].append(wall)
                cpu_seconds[name].append(cpu)
    keras = statistics.median(seconds[KERAS])
    failed = False
    print(f"{'median of ' + str(options.runs):46} {'s':>7} {'CPU s':>7} {'share':>6}")
    for name, (_, limits) in commands.items():
        wall, share = statistics.median(seconds[name]), statistics.median(seconds[name]) / keras
        note = "".join(
            f"  over {limit} {unit}" for unit, limit in limits.items() if (wall if unit == "s" else share) > limit
        )
        failed = failed or share > limits.get("of it", 1e9)
        print(f"{name:46} {wall:7.2f} {statistics.median(cpu_seconds[name]):7.2f} {share:6.2f}{note}")
    return int(failed)


def list_commands(models, file):
    """Return the words and the limits of each command by what it is called."""
    commands = {
        "python -c pass": (["-c", "pass"], {}),
        KERAS: (["-c", "import keras"], {}),
        "import keras_nin": (["-c", "import keras_nin"], {}),
    }

    def add(limits, *words):
        commands[f"keras-nin {' '.join(words)}"] = ["-m", "keras_nin", *words], limits

    for words in (("--help",), ("export", "--help"), ("list",)):
        add({"s": SECONDS}, *words)
    for command in ("audit", "check", "edgetpu") if file else ():
        add({"s": FILE_SECONDS}, command, os.path.abspath(file))
    for model in models:
        add({"of it": ZOO_SHARE}, "audit", model)
    add({"of it": APPLICATION_SHARE}, "audit", "keras:InceptionV3")
    add({"of it": ZOO_SHARE}, "claims", "squeezenet-fire")
    add({"of it": ZOO_SHARE}, "compare", "nin_cifar10", "nin_cifar10_bn")
    return commands


def time_process(words, folder):
    """Return the seconds and the CPU seconds of a Python process in a folder, on no backend of the user's choice."""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    if words == ["-c", "import keras"]:
        environment["KERAS_BACKEND"] = "tensorflow"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, cwd=folder, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.decode()}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
