"""Measure the latency of .tflite files and of each of their layers: the same as `keras-nin benchmark`."""

from keras_nin.cli import benchmark, main

if __name__ == "__main__":
    main.main(command=benchmark.benchmark_command, prog_name="benchmark.py")
