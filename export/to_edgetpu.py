"""Convert a model to full-integer files for the Edge TPU: `keras-nin export` of int8, and the verdict on each file."""

from keras_nin.cli import edge, main

if __name__ == "__main__":
    main.main(command=edge.export_edgetpu_command(), prog_name="to_edgetpu.py")
