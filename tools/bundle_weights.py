"""Bundle the weights of a finished training run with the package, in half precision, and the record of the run.

python tools/bundle_weights.py runs/inception_digits
"""

from __future__ import annotations

import argparse
import pathlib

import h5py
import numpy as np

from keras_nin import data, files, models
from keras_nin.data.preprocessing import Preprocessing
from keras_nin.metrics import top_k_accuracy

FOLDER = pathlib.Path(models.__file__).parent / "weights"


def store_half_precision(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a .weights.h5 with its float32 arrays in float16, compressed."""
    with files.replace_file(target) as path, h5py.File(source) as read, h5py.File(path, "w") as write:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                new = write.require_group(name)
            else:
                values = item[()]
                packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if values.size > 512 else {}
                stored = values.astype(np.float16) if values.dtype == np.float32 else values
                new = write.create_dataset(name, data=stored, **packed)
            new.attrs.update(item.attrs)

        read.visititems(copy)
        write.attrs.update(read.attrs)


def main() -> None:
    """Write the weights and their record, with the accuracy that they have in half precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="folder that `keras-nin train` wrote")
    (path,) = parser.parse_args().run.glob("*.weights.h5")
    record = files.read_json(path.with_name(path.name.replace(".weights.h5", ".json")))
    name = f"{record['model']}.{record['dataset']}"
    target = FOLDER / f"{name}.weights.h5"
    store_half_precision(path, target)
    model = models.build_model(record["model"], weights=target)
    dataset = data.open_dataset(record["dataset"])
    height, width, channels = record["input_shape"]
    preprocessing = Preprocessing.from_json(record["preprocessing"])
    test = dataset.select("test")
    scores = np.asarray(model(dataset.load(test, (height, width), channels, preprocessing), training=False))
    accuracy = top_k_accuracy(scores, dataset.labels_of(test), 1)
    record |= {"test_top1": accuracy, "float32_test_top1": record["test_top1"]}
    record["weights_precision"] = "stored in float16, trained in float32"
    files.write_file(FOLDER / f"{name}.json", files.dump_json(record))
    print(f"{name}: test {accuracy:.2%}, in float32 {record['float32_test_top1']:.2%}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
