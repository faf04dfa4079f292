"""Imports of optional packages, with an error that names the command to install them."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Wraps imports of packages that belong to the extra `name` of setup.cfg.

    Raises:
        ImportError: a package isn't installed; the message says how to install it.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise ImportError(f"{package} is missing; pip install 'torchvgg[{name}]'") from error
