"""1x1 layers that are linear where they stand: on one channel, one after the other, and before an average."""

from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit import count
from keras_nin.audit.classify import CONVOLUTIONS, kind_of
from keras_nin.audit.findings import cost
from keras_nin.audit.findings.network import (
    channels_in,
    channels_out,
    is_identity,
    normalizes_channels,
    paths,
    positions,
)
from keras_nin.audit.records import Finding

_AVERAGES = frozenset(f"{which}AveragePooling{rank}D" for which in ("Global", "") for rank in (1, 2)) | {
    "AdaptiveAveragePooling2D"
}


@dataclass(frozen=True)
class Run:
    """1x1 layers with nothing non-linear between them.

    `parts` are the layers from the first to the last, with the normalisations and identities between, in order.
    """

    parts: tuple

    @property
    def layers(self):
        """The 1x1 layers."""
        return tuple(part for part in self.parts if kind_of(part) == "pointwise")

    @property
    def use_bias(self):
        """Whether the one layer that they collapse into needs a bias."""
        return _brings_bias(self.parts)

    @property
    def saved(self):
        """`Cost` of the layers less that of the one that they collapse into."""
        collapsed = _one_layer(self.parts[0], self.parts[-1], self.use_bias)
        return cost.total(cost.of(part) for part in self.parts) - collapsed

    @property
    def finding(self):
        """`Finding` that says so."""
        first, last, saved = self.parts[0], self.parts[-1], self.saved
        message = (
            f"{len(self.layers)} 1x1 layers with nothing non-linear between are one linear map: a single 1x1 layer "
            f"from {channels_in(first)} to {channels_out(last)} channels gives the same and saves {_figures(saved)}."
        )
        return Finding("collapsible-pointwise", paths(self.layers), message, saved.saves)


@dataclass(frozen=True)
class Average:
    """A linear 1x1 layer, normalisations and identities, and the average pooling: `parts`, in order."""

    parts: tuple

    @property
    def saved_macs(self):
        """MACs saved where the pooling comes first, so that the layer works on the pooled map."""
        layer, pool = self.parts[0], self.parts[-1]
        return channels_in(layer) * channels_out(layer) * (positions(pool.inputs[0]) - positions(pool.outputs[0]))

    @property
    def finding(self):
        """`Finding` that says so."""
        layer, pool = self.parts[0], self.parts[-1]
        message = (
            f"Linear 1x1 layer before an average pooling: the two commute exactly, and after the pooling it works on "
            f"{positions(pool.outputs[0])} instead of {positions(pool.inputs[0])} places and saves "
            f"{self.saved_macs:,} of {count.macs(layer):,} MACs."
        )
        saves = cost.Cost(macs=self.saved_macs).saves
        return Finding("pointwise-before-average-pool", paths((layer, pool)), message, saves)


def one_channel(network):
    """1x1 layers on a single channel: before its activation, every output is that channel times a constant."""
    for layer in network.layers:
        if kind_of(layer) == "pointwise" and channels_in(layer) == 1 and cost.owns_weights(layer):
            width = channels_out(layer)
            before = "" if layer.is_linear else ", before the activation,"
            outputs = f"all {width} outputs{before} are" if width > 1 else f"its output{before} is"
            readers, freed = _freed(network, layer)
            after = f", and {len(readers)} after it read 1 channel instead of {width}" if freed.params else ""
            saved = cost.of(layer) + freed
            message = (
                f"1x1 layer on one channel: {outputs} that channel times a constant plus a bias (rank 1), where a "
                f"k x k kernel would see a neighbourhood; leaving it out saves {_figures(saved)}{after}."
            )
            yield Finding("pointwise-on-one-channel", (layer.path,), message, saved.saves)


def _freed(network, layer):
    """The convolutions that read `layer`, and the `Cost` of the input channels that they would not need without it."""
    readers = network.readers_behind(layer)
    if network.leaves(layer) or not all(_is_free(network, reader) for reader in readers):
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
    return [run.finding for run in runs(network)]


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
    found, parts, standing, use_bias = [], [layer], cost.of(layer), layer.use_bias
    while id(layer) in following:
        between, reader = following[id(layer)]
        more = (*between, reader)
        one = _one_layer(parts[0], reader, use_bias or _brings_bias(more))
        gain = standing + cost.total(map(cost.of, more)) - one
        if gain.params >= 0 and gain.macs >= 0 and (gain.params or gain.macs):
            parts += more
            standing, use_bias = one, use_bias or _brings_bias(more)
        else:
            found.append(Run(tuple(parts)))
            parts, standing, use_bias = [reader], cost.of(reader), reader.use_bias
        taken.add(id(layer))
        layer = reader
    return [run for run in (*found, Run(tuple(parts))) if len(run.parts) > 1]


def _one_layer(first, last, use_bias):
    """`Cost` of the one layer that the layers from `first` to `last` collapse into."""
    places, sizes = positions(last.outputs[0]), cost.item_sizes(first)
    return cost.convolution(channels_in(first), channels_out(last), places, sizes, use_bias=use_bias)


def _brings_bias(parts):
    return any(part.use_bias or normalizes_channels(part) for part in parts)


def before_average(network):
    """Linear 1x1 layers before an average pooling: the two commute, and after it there are fewer places to work on."""
    return [site.finding for site in averages(network)]


def averages(network):
    """Return the `Average`s of `network` that save MACs.

    The mean of W x + b is W times the mean of x, plus b; a border that the pooling pads takes no part in its mean.
    """
    found = []
    for layer in network.layers:
        if _is_free_pointwise(network, layer) and layer.is_linear and layer.strides == (1, 1):
            between, reader = _linear_path(network, layer)
            if reader is not None and reader.op in _AVERAGES:
                site = Average((layer, *between, reader))
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
    return kind_of(layer) == "pointwise" and _is_free(network, layer)


def _is_free(network, layer):
    """Whether `layer` mixes all channels with weights that are its own, so that it can be changed here alone."""
    mixes = layer.op == "Dense" or (layer.op in CONVOLUTIONS and layer.groups == 1)
    return mixes and cost.owns_weights(layer) and not network.is_shared(layer)


def _figures(saved):
    parts = [f"{saved.params:,} params" if saved.params else "", f"{saved.macs:,} MACs" if saved.macs else ""]
    return " and ".join(part for part in parts if part)
