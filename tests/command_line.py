"""The conversion's command line, called in this process."""

from torchvgg.convert import __main__


def run(*arguments: object) -> int:
    """The exit status; a refusal of the command line itself raises SystemExit."""
    return __main__.main([str(argument) for argument in arguments])
