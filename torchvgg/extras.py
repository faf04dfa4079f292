"""What isn't installed with torchvgg itself: an extra that is missing is named, with the command that installs it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports in here belong to the extra `name` of setup.cfg.

    Raises:
        ImportError: one of them isn't installed. The message says what to install.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise ImportError(f"{package} is missing; pip install 'torchvgg[{name}]' brings it") from error
