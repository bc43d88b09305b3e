"""Convert a model to .tflite files and verify them against it: the same as `keras-nin export`."""

from keras_nin.cli import export, main

if __name__ == "__main__":
    main.main(command=export.export_command, prog_name="to_tflite.py")
