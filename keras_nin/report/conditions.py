"""The line without which no latency is shown: how often it was measured, and on what."""

from keras_nin.benchmark.records import PROFILER, SINGLE_OPERATORS

_METHODS = {
    PROFILER: "by the runtime's own profiler, inside the delegate: the mean over those runs nearest the median",
    SINGLE_OPERATORS: "each operator cut out of the file and run alone, its weights out of the caches: the median",
}
_APIS = {"compiled_model": "LiteRT's compiled model", "interpreter": "the TensorFlow Lite interpreter"}


def conditions(profile):
    """Return runs, threads, batch and host of a `keras_nin.benchmark.Profile` in one line."""
    threads = f"{profile.threads} thread{'' if profile.threads == 1 else 's'}"
    return f"Median of {profile.runs:,} runs on {threads}, batch 1; {machine(profile.host)}"


def machine(host):
    """Return a host in one line: processor, cores, system, runtime; what it does not say is left out."""
    cores = host.get("cores")
    parts = [
        host.get("cpu"),
        cores and f"{cores} core{'' if cores == 1 else 's'}",
        host.get("system"),
        host.get("litert") and f"LiteRT {host['litert']}",
    ]
    return ", ".join(str(part) for part in parts if part) or "a machine that is not named"


def sides(comparison):
    """Yield the machines of a `RunComparison`, a line for both where they are alike; none where they are not known."""
    hosts = {"Before": comparison.before_host, "After": comparison.after_host}
    lines = {when: machine(host) for when, host in hosts.items() if host is not None}
    if len(lines) == 2 and len(set(lines.values())) == 1:
        lines = {"Before and after": lines["Before"]}
    yield from (f"{when}: batch 1; {line}" for when, line in lines.items())


def method(profile):
    """Return how the times of the layers of `profile` were taken, in one sentence."""
    how = _METHODS.get(profile.method, profile.method)
    api = _APIS.get(profile.api, profile.api)
    return f"Times of layers: {how}; {profile.profiled_runs:,} runs. Whole runs: with {api}, without that."
