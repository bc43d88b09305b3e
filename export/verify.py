"""Compare a .tflite file with its model: the same as `keras-nin verify`."""

from keras_nin.cli import export, main

if __name__ == "__main__":
    main.main(command=export.verify_command, prog_name="verify.py")
