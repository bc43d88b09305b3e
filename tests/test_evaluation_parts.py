"""Evaluation in parts: worker processes, and partial results that a later call continues from."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from test_cli_verify import classifier

from keras_nin import InputError
from keras_nin.heads import (
    TASKS,
    Head,
    Information,
    describe_guessing,
    describe_guessing_of_parts,
    describe_missing_information,
)
from keras_nin.workflows import evaluation_parts
from keras_nin.workflows.evaluation import evaluate_model

IMAGES = 150  # five batches


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("net") / "net.tflite", 10)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images whose names start with their class."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = random.integers(0, 256, (9, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number % 10}_{number:03}.png")
    return folder


def without_speed(ran):
    assert ran.status == 0, ran.err
    return {key: value for key, value in ran.json.items() if key != "speed"}


HEADS = {
    "classification": ((7,), lambda random, n: random.integers(0, 7, n)),
    "binary": ((1,), lambda random, n: random.integers(0, 2, n)),
    "multilabel": ((3,), lambda random, n: random.integers(0, 2, (n, 3))),
    "regression": ((4, 3, 2), lambda random, n: random.normal(size=(n, 4, 3, 2))),
    "segmentation": ((4, 3, 5), lambda random, n: random.choice([0, 1, 2, 3, 255], (n, 4, 3))),
}


@pytest.mark.parametrize("task", TASKS)
def test_scores_of_parts_are_those_of_all_to_the_last_bit(task):
    random = np.random.default_rng(0)
    shape, draw = HEADS[task]
    head = Head(None, task, shape)
    outputs, targets = random.random((50, *shape), np.float32), draw(random, 50)
    outputs[::2] = outputs[::2].round(1)  # ties
    outputs[7] = np.nan
    for size in (50, 16, 1):
        parts = [slice(start, start + size) for start in range(0, 50, size)]
        summaries = [head.summarize(outputs[part], targets[part]) for part in parts]
        assert head.scores_of_parts(summaries, targets) == head.scores(outputs, targets)
        information = [Information.of(outputs[part]) for part in parts]
        guessing = describe_guessing_of_parts(head, summaries, information, targets)
        assert guessing == describe_guessing(head, outputs, targets)
        assert (guessing is None) == (task == "regression")
        assert all(array.size <= max(size, 3 * 5) for summary in summaries for array in summary.values())


@pytest.mark.parametrize(("task", "shape"), [("classification", (None,)), ("segmentation", (4, 3, None))])
def test_parts_of_class_indices_may_know_of_few_classes(task, shape):
    random = np.random.default_rng(0)
    head = Head(None, task, shape, is_index=True)
    decided = np.sort(random.integers(0, 9, (50, *shape[:-1])), axis=0)
    targets = np.where(random.random(decided.shape) < 0.7, decided, random.integers(0, 9, decided.shape))
    summaries = [head.summarize(decided[part], targets[part]) for part in (slice(0, 20), slice(20, 50))]
    scores = head.scores_of_parts(summaries, targets)
    assert scores == head.scores(decided, targets)
    right = float(np.mean(decided == targets))
    assert right in scores.values()
    if task == "segmentation":
        shares = [np.sum((decided == c) & (targets == c)) / np.sum((decided == c) | (targets == c)) for c in range(9)]
        assert scores["mean_iou"] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (np.full((6, 3), np.nan), "it is NaN for all 6 images"),
        (np.full((6, 3), np.inf), "it is NaN or infinite for all 6 images"),
        (np.ones((6, 3)), "it is the same for all 6 images"),
        (np.repeat([[1.0, 2.0], [1.0, 3.0]], 3, axis=0), None),  # each part is the same
        (np.array([[1.0], [1.0], [1.0], [np.nan], [1.0], [1.0]]), None),
        (np.array([[1e-9], [2e-9], [1e-9], [1.0], [1.0], [1.0]]), None),
    ],
)
def test_information_of_parts_is_that_of_all(outputs, expected):
    assert describe_missing_information(outputs) == expected
    for size in (1, 3):
        parts = [Information.of(outputs[start : start + size]) for start in range(0, len(outputs), size)]
        assert describe_missing_information(parts) == expected


def test_workers_and_partial_results_change_no_figure(cli, file, photos, tmp_path):
    words = ["evaluate", file, "--data", photos, "--json"]
    alone = cli(*words)
    together = cli(*words, "--workers", 2, "--partial", "part.jsonl")
    assert without_speed(together) == without_speed(alone)
    speeds = alone.json["speed"], together.json["speed"]
    assert [(speed["workers"], speed["runs"]) for speed in speeds] == [(1, IMAGES), (2, IMAGES)]
    # A process that was killed may leave half a line.
    kept = (tmp_path / "part.jsonl").read_bytes().splitlines(keepends=True)
    assert len(kept) == 1 + 5
    (tmp_path / "part.jsonl").write_bytes(b"".join(kept[:3]) + kept[3][:50])
    done = {json.loads(line)["number"] for line in kept[1:3]}
    again = cli(*words, "--partial", "part.jsonl")
    assert without_speed(again) == without_speed(alone)
    assert again.json["speed"]["runs"] == sum(22 if number == 4 else 32 for number in set(range(5)) - done)
    finished = cli(*words, "--partial", "part.jsonl", "--workers", 2)
    assert without_speed(finished) == without_speed(alone)
    assert finished.json["speed"] is None
    (tmp_path / "part.jsonl").write_bytes(kept[0][:20])
    assert cli(*words, "--partial", "part.jsonl").json["speed"]["runs"] == IMAGES


@pytest.mark.slow
def test_partial_results_of_something_else_are_refused(cli, file, photos, tmp_path):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (40, 8, 8, 1), np.uint8), np.arange(40) % 10
    np.savez("set.npz", images=images, labels=labels)
    words = ["--data", "set.npz", "--partial", "part.jsonl"]
    assert cli("evaluate", file, *words).status == 0
    other = classifier(tmp_path / "other.tflite", 10, dense=random.normal(0, 1, (10, 64)))
    cases = [
        (("evaluate", other, *words), "an evaluation with other file"),
        (("evaluate", file, *words, "--preprocessing", "raw"), "an evaluation with other preprocessing"),
        (("evaluate", file, *words, "--test-count", 20), "an evaluation with other images, data"),
        (("evaluate", file, "--data", photos, "--partial", "part.jsonl"), "an evaluation with other images, data"),
        (("evaluate", file, "--data", "set.npz", "--partial", "set.npz"), "with something else"),
        (
            ("evaluate", file, "--data", "set.npz", "--partial", "."),
            "can be written to. Received: '.' (Is a directory)",
        ),
        (("evaluate", "nin_digits", "--partial", "x"), "--partial keeps the results of a .tflite file"),
        (
            ("evaluate", "nin_digits", "--workers", 2),
            "Expected --workers for a .tflite file on this machine, and images by",
        ),
    ]
    before = (tmp_path / "part.jsonl").read_bytes(), (tmp_path / "set.npz").read_bytes()
    for command, message in cases:
        ran = cli(*command)
        assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), ran
        assert message in ran.err
    assert before == ((tmp_path / "part.jsonl").read_bytes(), (tmp_path / "set.npz").read_bytes())
    images[35, 0, 0] ^= 1
    np.savez("set.npz", images=images, labels=labels)
    assert "with other data. Delete the file or name another" in cli("evaluate", file, *words).err
    images[35, 0, 0] ^= 1
    np.savez("set.npz", images=images, labels=labels[::-1])
    assert "with other data" in cli("evaluate", file, *words).err
    with evaluation_parts.PartialResults("new.jsonl", {}), pytest.raises(InputError, match="no other process uses"):
        evaluate_model(str(file), "set.npz", partial="new.jsonl")
    with pytest.raises(InputError, match="images by name or path"):
        evaluate_model(str(file), (images, labels), workers=2)


@pytest.mark.slow
def test_what_a_worker_meets_is_one_line(cli, file, photos, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in sorted(photos.iterdir())[:70]:
        (broken / path.name).write_bytes(path.read_bytes())
    damaged = sorted(broken.iterdir())[40]
    damaged.write_bytes(b"no image")
    ran = cli("evaluate", file, "--data", broken, "--workers", 2)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert f"Expected a readable image. Received: '{damaged}'" in ran.err
    crash = [sys.executable, "-c", "import os, sys; print('out of memory', file=sys.stderr); os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(evaluation_parts, "python_command", lambda _: (crash, dict(os.environ)))
    ran = cli("evaluate", file, "--data", photos, "--workers", 2)
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "Received: one killed by SIGKILL (out of memory)" in ran.err


@pytest.mark.slow
def test_a_killed_evaluation_continues(cli, photos, tmp_path):
    heavy = classifier(tmp_path / "net.tflite", 10)
    alone = cli("evaluate", heavy, "--data", photos, "--json")
    words = ["evaluate", str(heavy), "--data", str(photos), "--workers", "2", "--partial", "part.jsonl", "--json"]
    code = (
        "import sys, time\n"
        "from keras_nin.cli import main\n"
        "from keras_nin.workflows.evaluation_parts import PartialResults\n"
        "add = PartialResults.add\n"
        "PartialResults.add = lambda self, part: (add(self, part), time.sleep(0.5))\n"
        f"sys.exit(main.run({words!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, start_new_session=True)
    part = tmp_path / "part.jsonl"
    while not part.exists() or part.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.05)
    workers = [
        int(line) for line in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    assert len(workers) == 3  # with the process in which the command itself opened the file
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(pathlib.Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived the command"
        time.sleep(0.05)
    again = cli(*words)
    assert without_speed(again) == without_speed(alone)
    assert 0 < again.json["speed"]["runs"] < IMAGES
