"""`python -m keras_nin`: the same as `keras-nin`."""

from keras_nin.cli.main import main

if __name__ == "__main__":
    main()
