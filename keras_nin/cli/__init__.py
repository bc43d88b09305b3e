"""The command line: one file a command. Nothing here imports Keras or TensorFlow until a command needs them."""
