"""What a model card says: the measurement record of a network (``keras_nin.card/1``), and how two measurements differ.

A record lies in ``models/NAME/card.json``. Counts, license and texts are made anew whenever the cards are; what was
measured stays until it is measured again.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keras_nin import files, schemas
from keras_nin.audit.records import AuditTotal
from keras_nin.benchmark.records import BUSY_SHARE
from keras_nin.edge.fit import EdgeTPUFigures, EthosUFigures, MicroFigures, MissingFigures
from keras_nin.errors import InputError
from keras_nin.export.schemes import SCHEMES
from keras_nin.formatting import format_percent
from keras_nin.schemas import record_from_json

CARD_FILE, AUDIT_FILE = "card.json", "audit.json"
# Two measurements agree within these; what is not here has to be equal.
SCORE_TOLERANCE = 0.001  # of top-1 and top-5, or one image: float kernels round differently on other processors
TRAINED_TOLERANCE = 0.01  # of files that are trained before the conversion, which no two machines do alike
SIZE_TOLERANCE = 0.01  # of bytes, arena, Ethos-U time and SRAM, in other versions of the tools
LATENCY_FACTOR = 1.5  # of the median on the same host; on other hosts it is not compared
_Z = 1.959964  # of a normal distribution, 95% of which lie within so many standard deviations


@dataclasses.dataclass(frozen=True)
class Score:
    """Correct answers among images."""

    correct: int
    images: int

    @property
    def share(self) -> float:
        """Correct answers as a share, 0 to 1."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson score interval of the share (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927, 209-212)."""
        share, weight = self.share, _Z**2 / self.images
        center = (share + weight / 2) / (1 + weight)
        reach = _Z / (1 + weight) * math.sqrt(share * (1 - share) / self.images + weight / (4 * self.images))
        return max(center - reach, 0.0), min(center + reach, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Return the score with its share and interval."""
        low, high = self.interval
        shares = {"share": self.share, "low": low, "high": high}
        return dataclasses.asdict(self) | {name: round(value, 5) for name, value in shares.items()}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{format_percent(self.share, 2)} ({format_percent(low)} to {format_percent(high)})"


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5; the latter is None with 5 classes or fewer."""

    top1: Score
    top5: Score | None


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images by the SHA-256 over their pixels, in order."""

    name: str
    images: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class FileMeasurement:
    """An exported file, tested on the images of the measurement, or on a sample of them.

    Attributes:
        top1_match, snr_db, passed: of the parity with the model; `passed` is whether all its checks passed.
        training: what was trained before the conversion, where the scheme trains.
        date, versions: when it was measured, and the packages that converted and ran it.
    """

    scheme: str
    sha256: str
    bytes: int
    accuracy: Accuracy
    top1_match: float | None
    snr_db: float | None
    passed: bool
    training: dict[str, Any] | None
    date: str
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class LatencyRow:
    """Median latency of a file on one host.

    Attributes:
        host: what `keras_nin.tflite.host.describe_host` returns.
        converged, others_share: whether the median is known to 1%, and the share of the processor time that other
            processes took, as in `keras_nin.benchmark.Profile`.
    """

    scheme: str
    file_sha256: str
    median_us: float
    p90_us: float | None
    runs: int
    threads: int
    host: dict[str, Any]
    date: str
    versions: dict[str, str]
    converged: bool = True
    others_share: float | None = None

    @property
    def machine(self) -> tuple[Any, ...]:
        """What two rows of one host share: processor, cores and the version of LiteRT."""
        return tuple(str(self.host.get(name)) for name in ("cpu", "cores", "litert"))

    @property
    def conditions(self) -> str:
        """What made the measurement worse, empty where nothing did."""
        busy = self.others_share is not None and self.others_share >= BUSY_SHARE
        texts = [f"other processes took {format_percent(self.others_share, 0)} of the machine"] if busy else []
        return "; ".join([*texts, *([] if self.converged else ["the median is not known to 1%"])])

    @property
    def key(self) -> tuple[Any, ...]:
        """What a later row replaces."""
        return self.scheme, self.threads, self.machine


@dataclasses.dataclass(frozen=True)
class TargetFigures:
    """The int8 file on the Edge TPU, an Ethos-U and TFLite Micro; `missing` says why one of them has no figures."""

    file_sha256: str
    date: str
    edgetpu: EdgeTPUFigures | None
    ethosu: EthosUFigures | None
    micro: MicroFigures | None
    missing: tuple[MissingFigures, ...] = ()


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured of a network with trained weights.

    Attributes:
        weights, weights_file_sha256: name of the weights, and hash of their file.
        weights_sha256: hash of their values, as `keras_nin.models.hash_weights` takes it.
        preprocessing: how pixels become input, in words; None for arrays that are fed as they are.
        test, calibration: the images; no image is in both.
        model: accuracy of the Keras model on all test images.
        latencies: rows of several hosts.
    """

    weights: str
    weights_file_sha256: str
    weights_sha256: str
    preprocessing: str | None
    test: ImageSet
    calibration: ImageSet | None
    model: Accuracy
    files: tuple[FileMeasurement, ...]
    latencies: tuple[LatencyRow, ...]
    targets: TargetFigures | None

    def file(self, scheme: str) -> FileMeasurement | None:
        """Return the file of a scheme, or None."""
        return next((file for file in self.files if file.scheme == scheme), None)

    def extend(self, newer: Measurement) -> Measurement:
        """Return a newer measurement with what it does not measure again.

        Files stay where weights and images are the same. Latencies of other hosts always stay.
        """
        rows = {row.key: row for row in (*self.latencies, *newer.latencies)}
        newer = dataclasses.replace(newer, latencies=tuple(rows.values()))
        calibrations = [self.calibration, newer.calibration]
        same_calibration = None in calibrations or calibrations[0] == calibrations[1]
        if self.weights_sha256 != newer.weights_sha256 or self.test != newer.test or not same_calibration:
            return newer
        by_scheme = {file.scheme: file for file in (*self.files, *newer.files)}
        int8 = by_scheme.get("int8")
        targets = newer.targets or self.targets
        if targets is not None and (int8 is None or targets.file_sha256 != int8.sha256):
            targets = None
        return dataclasses.replace(
            newer,
            calibration=newer.calibration or self.calibration,
            files=tuple(by_scheme[scheme] for scheme in SCHEMES if scheme in by_scheme),
            targets=_keep_figures(self.targets, targets),
        )


def _keep_figures(older: TargetFigures | None, newer: TargetFigures | None) -> TargetFigures | None:
    """Return newer figures; those of targets that are not installed are the older ones of the same file."""
    if older is None or newer is None or older.file_sha256 != newer.file_sha256:
        return newer
    kept = {name: getattr(newer, name) or getattr(older, name) for name in ("edgetpu", "ethosu", "micro")}
    missing = tuple(entry for entry in newer.missing if kept[entry.target] is None)
    return dataclasses.replace(newer, **kept, missing=missing)


@dataclasses.dataclass(frozen=True)
class BundledWeights:
    """Weights in the package: their name, their file, and the record of their training."""

    name: str
    file_sha256: str
    bytes: int
    training: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class CardRecord:
    """Everything that the card of a network says; `measurement` is None for a network without trained weights."""

    model: str
    license: str
    intended_use: str
    limitations: tuple[str, ...]
    counts: AuditTotal
    weights: tuple[BundledWeights, ...] = ()
    measurement: Measurement | None = None

    @property
    def outdated(self) -> bool:
        """Whether the weights that were measured have been replaced since."""
        measured = self.measurement
        hashes = {weights.name: weights.file_sha256 for weights in self.weights}
        return measured is not None and hashes.get(measured.weights) not in (None, measured.weights_file_sha256)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON-ready dictionary (schema ``keras_nin.card/1``)."""
        return {"schema": schemas.CARD, **{field.name: _to_json(getattr(self, field.name)) for field in _FIELDS}}


_FIELDS = dataclasses.fields(CardRecord)


def _to_json(value: Any) -> Any:
    if isinstance(value, Score):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return list(map(_to_json, value)) if isinstance(value, tuple) else value


def read_card(path: pathlib.Path) -> CardRecord | None:
    """Return the record in a file; None where there is no such file, `InputError` where it is none."""
    if not path.is_file():
        return None
    document = files.read_json(path)
    if not isinstance(document, dict) or document.get("schema") != schemas.CARD:
        raise InputError(f"Expected a record of schema {schemas.CARD}. Received: another file {str(path)!r}", path=path)
    card = record_from_json(CardRecord, document)
    scores = [card.measurement.model, *(file.accuracy for file in card.measurement.files)] if card.measurement else []
    for score in (score for accuracy in scores for score in (accuracy.top1, accuracy.top5) if score):
        if not 0 <= score.correct <= score.images or not score.images:
            received = f"{score.correct} of {score.images}"
            raise InputError(f"Expected correct answers among images in {str(path)!r}. Received: {received}", path=path)
    return card


@dataclasses.dataclass(frozen=True)
class CardDifference:
    """A figure of a record that was measured again and came out differently."""

    model: str
    item: str
    recorded: str
    measured: str
    tolerance: str

    def __str__(self) -> str:
        return f"{self.model}: {self.item}: {self.recorded} recorded, {self.measured} measured ({self.tolerance})"


def compare_cards(recorded: CardRecord, measured: CardRecord) -> list[CardDifference]:
    """Return where a new measurement leaves the tolerances of a record.

    Files and targets that one of them lacks are not compared, and latencies only on the same host.
    """
    name = recorded.model
    differences = _compare_equal(name, vars(recorded.counts), vars(measured.counts))
    if recorded.measurement is not None and measured.measurement is not None:
        differences += _compare_measurements(name, recorded.measurement, measured.measurement)
    return differences


def _compare_equal(model: str, recorded: Mapping[str, Any], measured: Mapping[str, Any]) -> list[CardDifference]:
    return [
        CardDifference(model, item.replace("_", " "), _shown(value), _shown(measured[item]), "has to be equal")
        for item, value in recorded.items()
        if measured[item] != value
    ]


def _shown(value: Any) -> str:
    if isinstance(value, ImageSet):
        return f"{value.images:,} of {value.name} ({value.sha256[:12]})"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _compare_measurements(model: str, recorded: Measurement, measured: Measurement) -> list[CardDifference]:
    inputs = ["weights_sha256", "preprocessing", "test"]
    inputs += ["calibration"] if recorded.calibration and measured.calibration else []
    recorded_inputs, measured_inputs = ({name: getattr(side, name) for name in inputs} for side in (recorded, measured))
    differences = _compare_equal(model, recorded_inputs, measured_inputs)
    if differences:  # of other weights or images every figure is another one
        return differences
    differences += _compare_accuracy(model, "Keras model", recorded.model, measured.model, SCORE_TOLERANCE)
    for old, new in _pairs(recorded.files, measured.files, "scheme"):
        trained = SCHEMES[old.scheme].trained
        tolerance = TRAINED_TOLERANCE if trained else SCORE_TOLERANCE
        differences += _compare_accuracy(model, old.scheme, old.accuracy, new.accuracy, tolerance)
        differences += _compare_equal(model, {f"{old.scheme} parity passed": old.passed},
                                      {f"{old.scheme} parity passed": new.passed})  # fmt: skip
        differences += _compare_sizes(model, {f"{old.scheme} bytes": (old.bytes, new.bytes)})
    for old, new in _pairs(recorded.latencies, measured.latencies, "key"):
        ratio = new.median_us / old.median_us
        if not 1 / LATENCY_FACTOR <= ratio <= LATENCY_FACTOR:
            texts = f"{old.median_us:,.1f} us", f"{new.median_us:,.1f} us"
            differences.append(CardDifference(model, f"{old.scheme} latency", *texts, f"within {LATENCY_FACTOR:g} x"))
    if recorded.targets and measured.targets:
        differences += _compare_targets(model, recorded.targets, measured.targets)
    return differences


def _pairs(recorded: Iterable[Any], measured: Iterable[Any], field: str) -> Iterator[tuple[Any, Any]]:
    newer = {getattr(item, field): item for item in measured}
    return ((item, newer[getattr(item, field)]) for item in recorded if getattr(item, field) in newer)


def _compare_accuracy(
    model: str, what: str, recorded: Accuracy, measured: Accuracy, tolerance: float
) -> Iterator[CardDifference]:
    for name, old, new in (("top-1", recorded.top1, measured.top1), ("top-5", recorded.top5, measured.top5)):
        if old is None or new is None:
            if old is not new:
                yield CardDifference(model, f"{what} {name}", str(old), str(new), "has to be equal")
            continue
        if old.images != new.images:
            recorded_on, measured_on = f"on {old.images:,} images", f"on {new.images:,} images"
            yield CardDifference(model, f"{what} {name}", recorded_on, measured_on, "has to be equal")
        elif abs(old.correct - new.correct) > max(1, tolerance * old.images):
            before, after = format_percent(old.share, 2), format_percent(new.share, 2)
            within = f"within {100 * tolerance:g} points, or one image"
            yield CardDifference(model, f"{what} {name}", before, after, within)


def _compare_sizes(model: str, values: Mapping[str, tuple[float, float]]) -> Iterator[CardDifference]:
    for item, (old, new) in values.items():
        if abs(new - old) > SIZE_TOLERANCE * old:
            tolerance = f"within {format_percent(SIZE_TOLERANCE)}"
            yield CardDifference(model, item, f"{old:,.10g}", f"{new:,.10g}", tolerance)


def _compare_targets(model: str, recorded: TargetFigures, measured: TargetFigures) -> Iterator[CardDifference]:
    for target, equal, sizes in (
        ("edgetpu", ("compiles", "failure", "mapped", "operators", "uncertain"), ()),
        ("ethosu", ("accelerator", "system_config", "memory_mode", "on_npu", "operators"), ("us", "sram_bytes")),
        ("micro", ("bit_exact",), ("arena_bytes",)),
    ):
        old, new = getattr(recorded, target), getattr(measured, target)
        if old is None or new is None:
            continue
        values = {f"{target} {name}": (getattr(old, name), getattr(new, name)) for name in equal}
        yield from _compare_equal(model, *({name: pair[side] for name, pair in values.items()} for side in (0, 1)))
        sized = {f"{target} {name}": (getattr(old, name), getattr(new, name)) for name in sizes}
        yield from _compare_sizes(model, sized)
