"""Optional packages: an error that names all that are missing, with the command to install them; bars of tqdm."""

from importlib.util import find_spec
from typing import Any

EXTRAS = {"PIL": "images", "tqdm": "images", "matplotlib": "plot", "pyarrow": "parquet", "ray": "ray"}  # in setup.cfg
_NAMES = {"PIL": "Pillow"}


def require(*packages: str) -> None:
    """Raises an ImportError that names all packages, out of `EXTRAS`, that aren't installed."""
    if missing := [package for package in packages if find_spec(package) is None]:
        names = [_NAMES.get(package, package) for package in missing]
        extras = ",".join(sorted({EXTRAS[package] for package in missing}))
        named = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        verb = "is" if len(names) == 1 else "are"
        raise ImportError(f"{named} {verb} missing; pip install 'torchvgg[{extras}]'", name=missing[0])


def progress_bar(total: int, done: int, unit: str, is_wanted: bool) -> Any:
    """Makes a bar of tqdm, hidden unless it `is_wanted` and standard error is a terminal or a notebook's."""
    from .convert.progress import is_shown

    require("tqdm")
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, unit=unit, disable=not (is_wanted and is_shown()))
