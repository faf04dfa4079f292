"""The command line: `python -m tests.benchmarks --help`."""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import __doc__ as description
from . import conversion, extraction, inference, peers
from .measuring import Scale, Table

TABLES = ("conversion", "loading", "inference", "bfloat16", "training", "head", "extraction")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=description)
    add = parser.add_argument
    add("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)}; by default all")
    add("--batch", type=int, nargs="+", default=[1, 8, 32], help="of the inference (1 8 32)")
    add("--rounds", type=int, default=7, help="how many times each is run (7)")
    add("--threads", type=int, default=torch.get_num_threads(), help="of all who compute")
    names = list(dict.fromkeys(peer.__name__ for peer in (*peers.FLOAT32, *peers.BFLOAT16, *extraction.PEERS)))
    add("--only", nargs="+", default=[], metavar="PEER", choices=names, help=f"these alone: {', '.join(names)}")
    add("--tiny", action="store_true", help="in miniature, to see that it runs: images of 32×32, 10 classes")
    add("--json", action="store_true", help="print one JSON object")
    add("--plot", type=Path, metavar="FILE", help="draw the inference table (.svg, .png), with matplotlib")
    options = parser.parse_args(arguments)
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no table {', '.join(unknown)}; expected {', '.join(TABLES)}")
    tables = options.tables or TABLES
    if options.plot and "inference" not in tables:
        parser.error("--plot draws the inference table, which isn't asked for")
    torch.set_num_threads(options.threads)
    scale = Scale(32, 10, options.rounds) if options.tiny else Scale(rounds=options.rounds)
    result = measured(tables, scale, options.batch, options.only)
    print(json.dumps(result) if options.json else as_text(result))
    if options.plot:
        from .chart import draw

        draw(result["tables"], options.plot)
    return 0


def measured(tables: Sequence[str], scale: Scale, batches: Sequence[int], only: Sequence[str]) -> dict[str, Any]:
    """The machine, the tables asked for by name, and who was left out and why."""
    found: dict[str, Table] = {}
    left_out: dict[str, str] = {}

    def chosen(all_peers: Sequence[Any]) -> list[Any]:
        return [peer for peer in all_peers if not only or peer.__name__ in only]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"conversion", "loading"} & set(tables):
            conversion.write_keras_file(folder / "keras.h5", scale)
        if "conversion" in tables:
            found["conversion"] = conversion.conversion(folder, scale)
        if "loading" in tables:
            found |= {f"loading: {title}": table for title, table in conversion.loading(folder, scale).items()}
        if "extraction" in tables:
            found["extraction"] = extraction.extraction(folder, scale, chosen(extraction.PEERS), left_out)
    for kind, all_peers in (("inference", peers.FLOAT32), ("bfloat16", peers.BFLOAT16)):
        if kind in tables:
            by_batch = inference.inference(scale, batches, chosen(all_peers), left_out)
            found |= {f"{kind}, batch {batch}": table for batch, table in by_batch.items()}
    if "training" in tables:
        found["training, batch 8"] = inference.training(scale)
    if "head" in tables:
        found["training a head, 32 images"] = inference.head(scale)
    return {"machine": machine(), "scale": scale._asdict(), "tables": found, "left_out": left_out}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def as_text(result: dict[str, Any]) -> str:
    """Each table as lines: medians, ratios to the first row, the least, rates, errors or memory."""
    lines = [", ".join(f"{key} {value}" for key, value in result["machine"].items())]
    for title, table in result["tables"].items():
        lines += ["", title]
        first = next(iter(table.values()))["ms"] if table else 0
        for name, row in table.items():
            more = f"  {row['images_s']:.1f} images/s" if "images_s" in row else ""
            more += "".join(f"  {key} {row[key]:.2g}" for key in ("error", "mb") if key in row)
            lines.append(f"  {name:50} {row['ms']:9.1f} ms {row['ms'] / first:7.2f}×  least {row['least']:9.1f}{more}")
    lines += [f"left out: {name} ({why})" for name, why in result["left_out"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
