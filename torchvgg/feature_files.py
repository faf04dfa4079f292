"""The rows of an extraction: on their way, in a folder of parts that outlives a kill; and in the file that they end in."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .extras import extra

if TYPE_CHECKING:
    import pyarrow


class Rows(NamedTuple):
    """Some images: each one's path, its vector, `(n, size)` float32, and what was wrong with it, "" where nothing was."""

    paths: list[str]
    vectors: np.ndarray  # NaN throughout where an image was bad
    errors: list[str]


class Run(NamedTuple):
    """Rows that follow each other in a part as they do in the result."""

    position: int  # of the first, in the result
    part: Path
    row: int
    length: int


def to_table(rows: Rows) -> pyarrow.Table:
    """Rows as they stand in a Parquet file: no vector where there is an error, and no error where there is a vector."""
    with extra("ray"):
        import pyarrow
    count, size = rows.vectors.shape
    bad = pyarrow.array([bool(error) for error in rows.errors], pyarrow.bool_())
    values = pyarrow.array(rows.vectors.ravel(), pyarrow.float32())
    vectors = pyarrow.FixedSizeListArray.from_arrays(values, size, mask=bad) if count else []
    columns = [
        pyarrow.array(rows.paths, pyarrow.string()),
        pyarrow.array(vectors, pyarrow.list_(pyarrow.float32(), size)),
        pyarrow.array([error or None for error in rows.errors], pyarrow.string()),
    ]
    return pyarrow.table(columns, names=["path", "vector", "error"])


def _written(table: pyarrow.Table, writer: Any) -> int:
    writer.write_table(table)
    bad: int = len(table) - table["error"].null_count
    return bad


class Parquet:
    """Columns `path`, `vector` (a list of float32) and `error`."""

    def __init__(self) -> None:
        with extra("ray"):
            import pyarrow.parquet
        self._parquet = pyarrow.parquet
        self._read = lru_cache(8)(pyarrow.parquet.read_table)

    def write(self, path: Path, rows: Rows) -> None:
        self._parquet.write_table(to_table(rows), path)

    def paths(self, part: Path) -> list[str]:
        return self._parquet.read_table(part, columns=["path"])["path"].to_pylist()

    def join(self, runs: Sequence[Run], output: Path) -> int:
        """Writes the rows to `output`; returns how many are of bad images."""
        schema = self._parquet.read_schema(runs[0].part)
        with self._parquet.ParquetWriter(output, schema) as writer:
            tables = (self._read(run.part).slice(run.row, run.length) for run in runs)
            return sum(_written(table, writer) for table in tables)


class Npz:
    """Arrays `path`, `vector`, `(n, size)` float32, NaN where an image was bad, and `error`, "" where none was."""

    def __init__(self) -> None:
        self._read = lru_cache(8)(self._load)

    def write(self, path: Path, rows: Rows) -> None:
        with open(path, "wb") as stream:
            np.savez(stream, path=np.array(rows.paths, str), vector=rows.vectors, error=np.array(rows.errors, str))

    def paths(self, part: Path) -> list[str]:
        with np.load(part) as file:
            return file["path"].tolist()

    def join(self, runs: Sequence[Run], output: Path) -> int:
        """As Parquet's; all of it is held in memory once."""
        slices = [(self._read(run.part), slice(run.row, run.row + run.length)) for run in runs]
        columns = {name: np.concatenate([part[name][rows] for part, rows in slices]) for name in Rows._fields}
        self.write(output, Rows(columns["paths"].tolist(), columns["vectors"], columns["errors"].tolist()))
        return int((columns["errors"] != "").sum())

    def _load(self, part: Path) -> dict[str, np.ndarray]:
        with np.load(part) as file:
            return {"paths": file["path"], "vectors": file["vector"], "errors": file["error"]}


FORMATS: dict[str, type[Parquet | Npz]] = {".parquet": Parquet, ".npz": Npz}


class Parts:
    """The folder `OUTPUT.parts`, where the rows of an unfinished extraction lie, a file for each batch or a few.

    Args:
        output: the file that they end in; its suffix says what it is.
        job: what the rows depend on, as JSON has it: the rows of another job aren't gone on with.
        force: overwrite `output`, and forget the parts of another job.

    Raises:
        ValueError: the suffix is another, or there are parts of another job.
        OSError: `output` exists, or its folder can't be written to.
    """

    def __init__(self, output: Path, job: dict[str, Any], force: bool) -> None:
        if output.suffix not in FORMATS:
            raise ValueError(f"output: expected a name that ends in {' or '.join(FORMATS)}. Received: {output}")
        if output.is_dir():
            raise IsADirectoryError(f"{output} is a folder; name a file in it")
        if output.exists() and not force:
            raise FileExistsError(f"{output} exists and is kept; --force overwrites it")
        self.output, self.format = output, FORMATS[output.suffix]()
        self.folder = output.with_name(f"{output.name}.parts")
        self._job = self.folder / "job.json"
        if self._job.exists() and json.loads(self._job.read_text()) != job:
            if not force:
                raise ValueError(
                    f"{self.folder}: an extraction that isn't finished, with other weights or settings; "
                    "delete the folder, or let --force do it"
                )
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(self._job, lambda path: path.write_text(json.dumps(job)))

    def done(self) -> set[str]:
        """The paths whose rows are there. What isn't whole, since its writer was killed, is cleared away."""
        return {path for part in self._files() for path in self._paths(part)}

    def add(self, rows: Rows) -> None:
        """Writes some rows, wholly or not at all."""
        name = f"{secrets.token_hex(8)}{self.output.suffix}"
        self._write(self.folder / name, lambda path: self.format.write(path, rows))

    def join(self, paths: Sequence[str]) -> int:
        """Makes `output` of the rows of `paths`, in this order, clears the parts away, returns how many images were bad."""
        position = {path: number for number, path in enumerate(paths)}
        runs = sorted(run for part in self._files() for run in self._runs(part, position))
        # Neither the rows of images that are gone nor those of one image twice.
        runs = [run for before, run in pairwise([Run(-1, self.folder, 0, 0), *runs]) if run.position > before.position]
        bad: int = self._write(self.output, lambda path: self.format.join(runs, path))
        shutil.rmtree(self.folder)
        return bad

    def _runs(self, part: Path, position: dict[str, int]) -> Iterator[Run]:
        positions = [position.get(path, -2) for path in self._paths(part)]  # of an image that is gone: no neighbour's
        starts = [0, *(row for row in range(1, len(positions)) if positions[row] != positions[row - 1] + 1)]
        for start, end in pairwise([*starts, len(positions)]):
            yield Run(positions[start], part, start, end - start)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{self.output.suffix}"))

    def _paths(self, part: Path) -> list[str]:
        try:
            return self.format.paths(part)
        except (ValueError, OSError):
            part.unlink()
            return []

    def _write(self, path: Path, write: Callable[[Path], Any]) -> Any:
        """Lets `write` make a file that gets its name when it is whole; returns what that returns."""
        unfinished = self.folder / f"unfinished-{secrets.token_hex(8)}"
        result = write(unfinished)
        unfinished.replace(path)
        return result
