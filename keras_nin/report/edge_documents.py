"""JSON of the commands for edge targets: `edgetpu`, `ethosu`, `micro` and `fit`, as the records that they are of."""

import dataclasses
from dataclasses import dataclass

from keras_nin.edge.edgetpu.records import SCHEMA as EDGETPU_SCHEMA
from keras_nin.edge.edgetpu.records import Verdict
from keras_nin.edge.ethosu import accelerators
from keras_nin.edge.ethosu.records import SCHEMA as ETHOSU_SCHEMA
from keras_nin.edge.ethosu.records import Estimate, Refusal, Sweep
from keras_nin.edge.fit.records import SCHEMA as FIT_SCHEMA
from keras_nin.edge.fit.records import TARGETS, Fit
from keras_nin.edge.micro.records import SCHEMA as MICRO_SCHEMA
from keras_nin.edge.micro.records import Micro
from keras_nin.errors import InputError, one_of
from keras_nin.report.checked import base_name, record

_LONGEST_US = 1e15  # thirty years
_MOST_BYTES = 2**63


@dataclass(frozen=True)
class Predicted:
    """The Edge TPU's `Verdict` on what is called `name`; None where there is nothing to judge, with the reason.

    `sha256` is of the file that was judged, None where it is not known.
    """

    name: str
    verdict: Verdict | None
    sha256: str | None = None
    reason: str | None = None


def predicted(name, verdict, sha256=None):
    """Return the `Predicted` of a file by its name alone."""
    return Predicted(name, dataclasses.replace(verdict, model=name), sha256)


def _edgetpu(document):
    total = document.get("total")
    if not isinstance(total, dict):
        raise InputError(f"Expected the total as a JSON object. Received: {type(total).__name__}")
    memory = {
        "parameter_bytes": total.get("parameter_bytes"),
        "state": total.get("parameters"),
        "streamed_bytes": total.get("streamed_bytes"),
    }
    verdict = record(Verdict, document | {"memory": memory, "subgraphs": total.get("subgraphs")})
    return (predicted(base_name(verdict.model), verdict),)


def _ethosu(document):
    if not isinstance(document.get("results"), list) or not document["results"]:
        raise InputError("Expected results in a list, one at least. Received: none")
    estimates = tuple(map(_estimate, document["results"]))
    if not isinstance(document.get("refusals"), list):
        raise InputError(f"Expected a list of refusals. Received: {type(document.get('refusals')).__name__}")
    refusals = tuple(record(Refusal, each) for each in document["refusals"])
    if len({each.sha256 for each in estimates}) > 1:
        raise InputError("Expected results of one file. Received: of several")
    return (Sweep(estimates[0].file, estimates, refusals),)


def _estimate(document):
    found = record(Estimate, document | {"compiled": b""} if isinstance(document, dict) else document)
    accelerators.chosen([found.accelerator])
    if found.clock_hz < 1 or found.macs_per_cycle < 1 or not 0 <= found.us < _LONGEST_US:
        raise InputError(f"Expected a clock, MACs a cycle and a time above 0. Received: others, of {found.file!r:.80}")
    if any(layer.cycles < 0 for layer in found.layers) or found.cycles < 0:
        raise InputError(f"Expected no negative cycles. Received: some, of {found.file!r:.80}")
    moved = [count for layer in found.layers for each in (layer.read, layer.written) for count in each.values()]
    if not all(isinstance(count, int) and 0 <= count < _MOST_BYTES for count in moved):
        raise InputError(f"Expected numbers of bytes that are moved. Received: others, of {found.file!r:.80}")
    return found


def _micro(document):
    found = record(Micro, document)
    if found.arena is None and found.finding is None:
        raise InputError("Expected an arena, or a finding why there is none. Received: neither")
    return (found,)


def _fit(document):
    found = record(Fit, document)
    for target in (*found.targets, *(each.target for result in found.results for each in result.missing)):
        one_of("target", target, TARGETS)
    if any(result.macs and result.pointwise_macs is None for result in found.results):
        raise InputError("Expected the MACs in 1x1 layers with those of a file. Received: none")
    if any(each.edgetpu and not each.edgetpu.compiles and each.edgetpu.failure is None for each in found.results):
        raise InputError("Expected the failure of a file that does not compile. Received: none")
    return (found,)


READERS = {EDGETPU_SCHEMA: _edgetpu, ETHOSU_SCHEMA: _ethosu, MICRO_SCHEMA: _micro, FIT_SCHEMA: _fit}
