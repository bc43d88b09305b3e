"""Measure the latency of .tflite files and of each of their layers: the same as `keras-nin benchmark`."""

from keras_nin.cli import main, options

if __name__ == "__main__":
    main.main(command=options.load_command("benchmark"), prog_name="benchmark.py")
