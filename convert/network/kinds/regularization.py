"""Dropout and noise: the identity at inference."""

from .kind import Kind
from .validators import REQUIRED, Setting, fraction, number


class Regularization(Kind):
    settings = {"rate": Setting(REQUIRED, fraction)}
    any_order = True


class Dropout(Regularization):
    pass


class SpatialDropout1D(Regularization):
    ranks = (2,)


class SpatialDropout2D(Regularization):
    ranks = (3,)


class AlphaDropout(Regularization):
    pass


class GaussianDropout(Regularization):
    pass


class GaussianNoise(Regularization):
    settings = {"stddev": Setting(REQUIRED, number)}
