"""How long the commands that need no framework take to start, against Python alone in the same run.

python benchmarks/startup.py [RUNS]
"""

import statistics
import subprocess
import sys
import time

LIMIT_SECONDS = 0.3
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import keras_nin": ["-c", "import keras_nin"],
    "keras-nin --help": ["-m", "keras_nin", "--help"],
    "keras-nin export --help": ["-m", "keras_nin", "export", "--help"],
    "keras-nin list": ["-m", "keras_nin", "list"],
}


def main(runs=15):
    """Print the median of each command over interleaved runs, and its ratio to Python alone."""
    times = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    reference = statistics.median(times["python -c pass"])
    for name, found in times.items():
        median = statistics.median(found)
        note = f"  over {LIMIT_SECONDS} s" if "--help" in name and median > LIMIT_SECONDS else ""
        print(f"{name:26} {1000 * median:7.1f} ms  {median / reference:5.1f} x python{note}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
