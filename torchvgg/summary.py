"""Keras 3's summary table of a model, with the same characters and width."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap

from torch import Tensor

COLUMNS = ("Layer (type)", "Output Shape", "Param #")
WIDTHS = (36, 27, 15)  # of the columns' text, in Keras's default width of 88


def summary_table(title: str, rows: Sequence[Sequence[str]], weights: Sequence[Tensor]) -> Iterator[str]:
    """Yields the lines of the summary; a row's texts that are too long for their column are wrapped as in Keras."""

    def rule(left: str, line: str, joint: str, right: str) -> str:
        return left + joint.join(line * (width + 2) for width in WIDTHS) + right

    def lines(edge: str, texts: Sequence[str]) -> Iterator[str]:
        columns = [wrap(text, width) for text, width in zip(texts, WIDTHS, strict=True)]
        for name, shape, params in zip_longest(*columns, fillvalue=""):
            yield f"{edge} {name:<{WIDTHS[0]}} {edge} {shape:<{WIDTHS[1]}} {edge} {params:>{WIDTHS[2]}} {edge}"

    yield f'Model: "{title}"'
    yield rule("┏", "━", "┳", "┓")
    yield from lines("┃", COLUMNS)
    yield rule("┡", "━", "╇", "┩")
    for number, row in enumerate(rows):
        if number:
            yield rule("├", "─", "┼", "┤")
        yield from lines("│", row)
    yield rule("└", "─", "┴", "┘")
    for label, counted in (("Total", (True, False)), ("Trainable", (True,)), ("Non-trainable", (False,))):
        group = [weight for weight in weights if weight.requires_grad in counted]
        count, size = sum(weight.numel() for weight in group), sum(weight.nbytes for weight in group)
        yield f" {label} params: {count:,} ({_memory(size)})"


def _memory(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TB"
