"""What is written beside an exported network that classifies images: the names of its classes, and a script."""

from keras_nin.export.snippet import labels_name, snippet


def companions(made):
    """Return the content of the files that go beside an `Export`, as text by their names.

    ``<model>_<scheme>_labels.txt`` has the name of class i in line i, counted from 0; ``<model>_<scheme>.py`` prints
    the likeliest classes of an image. Both belong to one file, as its sidecar does: what else lies in the folder may be
    of another network, or of the same one with other classes.

    A network whose output is no vector of classes has neither, one on anything but images of 1 or 3 channels, or
    without a known preprocessing, no script.
    """
    main = made.graph().main
    if len(main.outputs) != 1 or not _is_classes(main.tensors[main.outputs[0]].shape):
        return {}
    source, target = main.tensors[main.inputs[0]], main.tensors[main.outputs[0]]
    known = made.classes or tuple(f"class {index}" for index in range(target.shape[1]))
    found = {labels_name(made.stem): "".join(f"{name}\n" for name in known)}
    if len(main.inputs) == 1 and made.preprocessing and _is_image(source.shape):
        found[f"{made.stem}.py"] = snippet(made.stem, made.preprocessing, source, target)
    return found


def _is_classes(shape):
    return len(shape) == 2 and shape[1] > 1


def _is_image(shape):
    return len(shape) == 4 and shape[3] in (1, 3)
