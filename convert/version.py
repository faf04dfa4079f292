"""The version of torchvgg, as it was installed."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Returns torchvgg's version, or "unknown" in a checkout that isn't installed."""
    try:
        return version("torchvgg")
    except PackageNotFoundError:
        return "unknown"
