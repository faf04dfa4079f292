"""Dropout and noise: the identity at inference."""

from .kind import CHANNELS_LAST, KINDS, Kind
from .validators import REQUIRED, Setting, fraction, number


class _Regularization(Kind):
    settings = {"rate": Setting(REQUIRED, fraction)}
    any_order = True


class Dropout(_Regularization):
    only = {"noise_shape": (None,)}


class SpatialDropout2D(_Regularization):
    only = CHANNELS_LAST
    ranks = (3,)


class AlphaDropout(_Regularization):
    only = {"noise_shape": (None,)}


class GaussianDropout(_Regularization):
    pass


class GaussianNoise(_Regularization):
    settings = {"stddev": Setting(REQUIRED, number)}


def is_regularization(class_name: str) -> bool:
    """Tells whether layers of a class are the identity at inference."""
    return isinstance(KINDS.get(class_name), _Regularization)
