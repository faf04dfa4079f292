"""Keras 3's summary table of a model, with the same characters and width."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from textwrap import wrap

from torch import Tensor

COLUMNS = ("Layer (type)", "Output Shape", "Param #", "Connected to")
# Of the columns' text: three for a chain, in Keras's default width of 88, and four for another graph, in 108.
WIDTHS = {3: (36, 27, 15), 4: (29, 25, 15, 26)}
_ASCII = str.maketrans("┏━┳┓┃┡╇┩│├─┼┤└┴┘", "+--+||+|||-+|+-+")


def summary_table(title: str, rows: Sequence[Sequence[str]], weights: Sequence[Tensor]) -> Iterator[str]:
    """Yields the lines of the summary; a row's texts that are too long for their column are wrapped as in Keras.

    A row has a layer's name and type, its output shape, its number of weights and, but for a chain, what it is connected to.
    """
    widths = WIDTHS[len(rows[0])]

    def rule(left: str, line: str, joint: str, right: str) -> str:
        return left + joint.join(line * (width + 2) for width in widths) + right

    def lines(edge: str, texts: Sequence[str]) -> Iterator[str]:
        columns = [_wrapped(text, width) for text, width in zip(texts, widths, strict=True)]
        for cells in zip_longest(*columns, fillvalue=""):
            aligned = [f"{cell:{'>' if n == 2 else '<'}{widths[n]}}" for n, cell in enumerate(cells)]
            yield f"{edge} {f' {edge} '.join(aligned)} {edge}"

    yield f'Model: "{title}"'
    yield rule("┏", "━", "┳", "┓")
    yield from lines("┃", COLUMNS[: len(widths)])
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


def for_encoding(line: str, encoding: str | None) -> str:
    """Replaces what an output can't show in a line, the frame by ASCII as rich draws it for Keras."""
    if encoding is None or encoding.lower().startswith("utf"):
        return line
    return line.translate(_ASCII).encode(encoding, "replace").decode(encoding)


def _wrapped(text: str, width: int) -> list[str]:
    lines = wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def in_keras_order(fed_by: Mapping[str, Sequence[str]], owners: Mapping[str, str], outputs: Sequence[str]) -> list[str]:
    """Sorts a model's layers and inputs as Keras lists them: by their distance from the outputs, the longest first.

    `fed_by` has for each call of a layer, and for each input, the calls that feed it, in the order of computation; `owners` the
    layer of each call. At one distance it is the order in which they are met from the outputs backwards.
    """
    depths: dict[str, int] = {}
    for name in reversed(list(fed_by)):
        for before in fed_by[name]:
            depths[before] = max(depths.get(before, 0), depths.get(name, 0) + 1)
    met: dict[str, int] = {}
    left = list(outputs)[::-1]
    while left:
        name = left.pop()
        if name not in met:
            met[name] = len(met)
            left += reversed(fed_by[name])
    layers: dict[str, tuple[int, int]] = {}
    for name in fed_by:
        own, place = owners[name], (-depths.get(name, 0), met.get(name, len(met)))
        known = layers.get(own, place)
        layers[own] = min(known[0], place[0]), min(known[1], place[1])
    return sorted(layers, key=layers.__getitem__)


def _memory(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TB"
