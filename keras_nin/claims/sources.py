"""The articles that the claims are from."""

from keras_nin.models.articles import CONVNET as PAPERSPACE  # noqa: F401 - one name for the article everywhere

DEMYSTIFIED = '"1x1 convolution, demystified"'
ROBAITA = '"1x1 convolutions explained"'
LECUN = "Y. LeCun's remark on fully connected layers"
TRANSWIKIA = "question on a 1x1 layer after a 28x28x1 input"
NIN = "Network in Network, arXiv:1312.4400"
SQUEEZENET = "SqueezeNet, arXiv:1602.07360"
