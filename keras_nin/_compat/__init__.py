"""Private parts of Keras, TensorFlow, tf_keras, tensorflow-model-optimization and LiteRT that keras-nin relies on.

Every trick stands in one function here, with the versions that it was verified on. `setup.py` bounds those packages to
the same versions, and the tests of each caller fail where an update changes what they rely on. These modules import
their framework inside the functions.
"""
