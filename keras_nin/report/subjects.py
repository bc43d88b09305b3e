"""What is known of each file or network, gathered: its audit, how it was made, how long it takes, where it fits."""

import dataclasses

from keras_nin.audit.records import Audit
from keras_nin.benchmark.records import Benchmark, Profile
from keras_nin.edge.ethosu.records import Sweep as EthosU
from keras_nin.edge.micro.records import Micro
from keras_nin.report.documents import Audited, Sidecar
from keras_nin.report.edge_documents import Predicted


@dataclasses.dataclass(frozen=True)
class Subject:
    """A file or network of a report; what is not known of it is None or empty.

    Attributes:
        title: the file's name, or the model's.
        sha256, bytes: of the file.
        audit: `keras_nin.audit.Audit`.
        sidecar: `keras_nin.report.documents.Sidecar` of its export.
        profiles: `keras_nin.benchmark.Profile`s, one for each measurement.
        edgetpu: `keras_nin.report.edge_documents.Predicted`.
        ethosu: `keras_nin.edge.ethosu.Sweep`s, one for each run of Vela's command.
        micro: `keras_nin.edge.micro.Micro`.
    """

    title: str
    sha256: str | None = None
    bytes: int | None = None
    audit: Audit | None = None
    sidecar: Sidecar | None = None
    profiles: tuple[Profile, ...] = ()
    edgetpu: Predicted | None = None
    ethosu: tuple[EthosU, ...] = ()
    micro: Micro | None = None

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
        elif isinstance(item, Predicted):
            _add(subjects, item.sha256 or (number, item.name), item.name, edgetpu=item)
        elif isinstance(item, EthosU):
            about = item.estimates[0]
            _add(subjects, about.sha256, item.file, bytes=about.file_bytes, ethosu=(item,))
        elif isinstance(item, Micro):
            _add(subjects, item.sha256, item.file, bytes=item.file_bytes, micro=item)
    return tuple(subjects.values())


def _add(subjects, key, title, **known):
    """Add what is known to a subject: to a tuple what is not in it, of anything else the first that was found."""
    before = subjects.get(key) or Subject(title, key if isinstance(key, str) else None)
    changes = {}
    for name, value in known.items():
        old = getattr(before, name)
        if isinstance(old, tuple):
            changes[name] = (*old, *(each for each in value if each not in old))
        elif old is None:
            changes[name] = value
    subjects[key] = dataclasses.replace(before, **changes)
