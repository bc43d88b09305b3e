"""Convert a model to .tflite files and verify them against it: the same as `keras-nin export`."""

from keras_nin.cli import main, options

if __name__ == "__main__":
    main.main(command=options.load_command("export"), prog_name="to_tflite.py")
