"""Imports of optional packages, with an error that names the command to install them."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Wraps imports of packages of the extra `name` in setup.cfg; the ImportError says how to install a missing one."""
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise ImportError(f"{package} is missing; pip install 'torchvgg[{name}]'") from error
