"""What is known of each file or network, gathered: its audit, how it was made, how long it takes."""

import dataclasses

from keras_nin.audit.records import Audit
from keras_nin.benchmark.records import Benchmark, Profile
from keras_nin.report.documents import Audited, Sidecar


@dataclasses.dataclass(frozen=True)
class Subject:
    """A file or network of a report; what is not known of it is None or empty.

    Attributes:
        title: the file's name, or the model's.
        sha256, bytes: of the file.
        audit: `keras_nin.audit.Audit`.
        sidecar: `keras_nin.report.documents.Sidecar` of its export.
        profiles: `keras_nin.benchmark.Profile`s, one for each measurement.
    """

    title: str
    sha256: str | None = None
    bytes: int | None = None
    audit: Audit | None = None
    sidecar: Sidecar | None = None
    profiles: tuple[Profile, ...] = ()

    @property
    def labels(self):
        """What a reader must know before any number: what was random, and what the measurement itself notes."""
        notes = []
        if self.sidecar is not None:
            if self.sidecar.weights.startswith("random"):
                notes.append(f"weights: {self.sidecar.weights}")
            calibration = self.sidecar.calibration
            if calibration is not None and (calibration.latency_only or calibration.source == "random"):
                notes.append("random calibration: good for latency, and nothing else")
        return tuple(dict.fromkeys([*notes, *(note for profile in self.profiles for note in profile.notes)]))


def gather(found):
    """Return the `Subject`s of what `documents.read` found, in the order of their first mention.

    What has the hash of a file's content belongs to that file, whatever it is called; an audit of a model stands alone.
    """
    subjects = {}
    for number, item in enumerate(found):
        if isinstance(item, Benchmark):
            for profile in item.profiles:
                _add(subjects, profile.sha256, profile.file, bytes=profile.file_bytes, profiles=(profile,))
        elif isinstance(item, Sidecar):
            _add(subjects, item.sha256, item.file, bytes=item.bytes, sidecar=item)
        elif isinstance(item, Audited):
            key = (number, item.name) if item.sha256 is None else item.sha256
            _add(subjects, key, item.name, bytes=item.bytes, audit=item.audit)
    return tuple(subjects.values())


def _add(subjects, key, title, *, profiles=(), **known):
    before = subjects.get(key) or Subject(title, key if isinstance(key, str) else None)
    fresh = [profile for profile in profiles if profile not in before.profiles]
    missing = {name: value for name, value in known.items() if getattr(before, name) is None}
    subjects[key] = dataclasses.replace(before, profiles=(*before.profiles, *fresh), **missing)
