"""Compare a .tflite file with its model: the same as `keras-nin verify`."""

from keras_nin.cli import main, options

if __name__ == "__main__":
    main.main(command=options.load_command("verify"), prog_name="verify.py")
