"""1x1 layers that are linear where they stand: on one channel, one after the other, and before an average."""

from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit import count
from keras_nin.audit.classify import CONVOLUTIONS, kind_of
from keras_nin.audit.findings import cost
from keras_nin.audit.findings.network import channels_in, channels_out, is_identity, normalizes_channels, positions
from keras_nin.audit.records import Finding

_AVERAGES = frozenset(f"{which}AveragePooling{rank}D" for which in ("Global", "") for rank in (1, 2)) | {
    "AdaptiveAveragePooling2D"
}


@dataclass(frozen=True)
class Run:
    """1x1 layers with nothing non-linear between, in order; `between` are the normalisations and identities there."""

    layers: tuple
    between: tuple

    @property
    def use_bias(self):
        """Whether the one layer that they collapse into needs a bias."""
        normalized = any(layer.op == "BatchNormalization" for layer in self.between)
        return normalized or any(layer.use_bias for layer in self.layers)

    @property
    def collapsed(self):
        """`Cost` of the one layer that they collapse into."""
        first, last = self.layers[0], self.layers[-1]
        sizes, places = cost.item_sizes(first), positions(last.outputs[0])
        return cost.convolution(channels_in(first), channels_out(last), places, sizes, use_bias=self.use_bias)

    @property
    def saved(self):
        """`Cost` of the layers less that of the one that they collapse into."""
        parts = (cost.of(layer) for layer in (*self.layers, *self.between))
        return cost.total(parts) - self.collapsed


@dataclass(frozen=True)
class Average:
    """A linear 1x1 layer and the average pooling after it, with the normalisations and identities between the two."""

    layer: object
    between: tuple
    pool: object

    @property
    def saved_macs(self):
        """MACs saved where the pooling comes first, so that the layer works on the pooled map."""
        places = positions(self.layer.inputs[0]) - positions(self.pool.outputs[0])
        return channels_in(self.layer) * channels_out(self.layer) * places


def one_channel(network):
    """1x1 layers on a single channel: before its activation, every output is that channel times a constant."""
    for layer in network.layers:
        if kind_of(layer) == "pointwise" and channels_in(layer) == 1 and cost.owns_weights(layer):
            width = channels_out(layer)
            before = "" if layer.is_linear else ", before the activation,"
            outputs = (
                f"all {width} outputs{before} are the one input channel" if width > 1 else "its output is its input"
            )
            readers, freed = _freed(network, layer)
            after = f", and {len(readers)} after it read 1 channel instead of {width}" if freed.params else ""
            message = (
                f"1x1 layer on one channel: {outputs} times a constant plus a bias (rank 1), so it can find no pattern "
                f"that a k x k kernel could; without it {_figures(cost.of(layer) + freed)} are saved{after}."
            )
            yield Finding("pointwise-on-one-channel", (layer.path,), message, (cost.of(layer) + freed).saves)


def _freed(network, layer):
    """The convolutions that read `layer`, and the `Cost` of the input channels that they would not need without it."""
    readers = network.readers_behind(layer)
    if not all(reader.op in CONVOLUTIONS and reader.groups == 1 and cost.owns_weights(reader) for reader in readers):
        return (), cost.Cost()
    spared = Fraction(channels_out(layer) - 1, channels_out(layer))
    freed = [
        cost.Cost(
            int(cost.kernel_weights(reader) * spared),
            int(count.macs(reader) * spared),
            cost.kernel_weights(reader) * spared * cost.item_sizes(reader).kernel,
        )
        for reader in readers
    ]
    return readers, cost.total(freed)


def collapsible(network):
    """1x1 layers with nothing non-linear between: one layer of the product of their weights does the same."""
    for run in runs(network):
        saved, first, last = run.saved, run.layers[0], run.layers[-1]
        message = (
            f"{len(run.layers)} 1x1 layers with nothing non-linear between are one linear map: a single 1x1 layer from "
            f"{channels_in(first)} to {channels_out(last)} channels gives the same and saves {_figures(saved)}."
        )
        yield Finding("collapsible-pointwise", tuple(layer.path for layer in run.layers), message, saved.saves)


def runs(network):
    """Return the `Run`s of `network` that collapse into one layer with no more params and no more MACs.

    Exact for any strides: a 1x1 layer of stride s reads every s-th place, so two of them read every s1 x s2-th. Where
    the one layer would cost more, the two are a low-rank factorisation (K -> few -> F channels) and stay.
    """
    following = {}
    for layer in network.layers:
        if _is_free_pointwise(network, layer) and layer.is_linear:
            between, reader = _linear_path(network, layer)
            if reader is not None and _is_free_pointwise(network, reader):
                following[id(layer)] = (between, reader)
    found, taken = [], set()
    for layer in network.layers:
        if id(layer) in following and id(layer) not in taken:
            found += _grown(layer, following, taken)
    return found


def _grown(layer, following, taken):
    """The runs in the longest linear sequence from `layer` on, each grown as long as growing saves."""
    run, found = Run((layer,), ()), []
    while id(layer) in following:
        between, reader = following[id(layer)]
        longer = Run((*run.layers, reader), (*run.between, *between))
        # What one more layer saves, over the run as it stands collapsed.
        gain = longer.saved - (run.saved if len(run.layers) > 1 else cost.Cost())
        if gain.params >= 0 and gain.macs >= 0 and (gain.params or gain.macs):
            run = longer
        else:
            found.append(run)
            run = Run((reader,), ())
        taken.add(id(layer))
        layer = reader
    return [run for run in (*found, run) if len(run.layers) > 1]


def before_average(network):
    """Linear 1x1 layers before an average pooling: the two commute, and after it there are fewer places to work on."""
    for site in averages(network):
        layer, places = site.layer, (positions(site.layer.inputs[0]), positions(site.pool.outputs[0]))
        message = (
            f"Linear 1x1 layer before an average pooling: the two commute exactly, and after the pooling it works on "
            f"{places[1]} instead of {places[0]} places and saves {site.saved_macs:,} of {count.macs(layer):,} MACs."
        )
        saves = cost.Cost(macs=site.saved_macs).saves
        yield Finding("pointwise-before-average-pool", (layer.path, site.pool.path), message, saves)


def averages(network):
    """Return the `Average`s of `network` that save MACs.

    The mean of W x + b is W times the mean of x, plus b; a border that the pooling pads takes no part in its mean.
    """
    found = []
    for layer in network.layers:
        if _is_free_pointwise(network, layer) and layer.is_linear and layer.strides == (1, 1):
            between, reader = _linear_path(network, layer)
            if reader is not None and reader.op in _AVERAGES:
                site = Average(layer, between, reader)
                found += [site] if site.saved_macs > 0 else []
    return found


def _linear_path(network, layer):
    """Normalisations and identities that follow `layer` without a branch, and the layer that reads the last of them."""
    between, current = [], layer
    while (reader := network.sole_reader(current)) is not None and not network.is_shared(reader):
        if not is_identity(reader) and not normalizes_channels(reader):
            return tuple(between), reader
        between.append(reader)
        current = reader
    return tuple(between), None


def _is_free_pointwise(network, layer):
    return kind_of(layer) == "pointwise" and cost.owns_weights(layer) and not network.is_shared(layer)


def _figures(saved):
    parts = [f"{saved.params:,} params" if saved.params else "", f"{saved.macs:,} MACs" if saved.macs else ""]
    return " and ".join(part for part in parts if part)
