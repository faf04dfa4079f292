"""The conversion's command line, called in this process; and what the others need in theirs."""

import signal

from torchvgg.convert import command_line


def run(*arguments: object) -> int:
    """The exit status; a refusal of the command line itself raises SystemExit."""
    return command_line.main([str(argument) for argument in arguments])


def heed() -> None:
    """SIGINT as in a terminal: what runs in the background inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
