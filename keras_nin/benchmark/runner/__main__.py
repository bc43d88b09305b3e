"""``python -m keras_nin.benchmark.runner``."""

import sys

from keras_nin.benchmark.runner.main import main

sys.exit(main())
