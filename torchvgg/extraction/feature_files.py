"""The files of an extraction: finished rows in a folder of parts, which survives a kill, and the file that joins them."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from ..optional_imports import require

if TYPE_CHECKING:
    import pyarrow

CHUNK = 1024  # rows joined at once


class Rows(NamedTuple):
    """The rows of some images: path, vector and error, which is "" for a good image."""

    path: list[str]
    vector: np.ndarray  # (n, size), float32; NaN for a bad image
    error: list[str]


def to_table(rows: Rows) -> pyarrow.Table:
    """Converts rows to Parquet's columns: a bad image has no vector, a good one no error."""
    require("pyarrow")
    import pyarrow

    bad = pyarrow.array([bool(error) for error in rows.error], pyarrow.bool_())
    values = pyarrow.array(rows.vector.ravel(), pyarrow.float32())
    columns = [
        pyarrow.array(rows.path, pyarrow.string()),
        pyarrow.FixedSizeListArray.from_arrays(values, rows.vector.shape[1], mask=bad),
        pyarrow.array([error or None for error in rows.error], pyarrow.string()),
    ]
    return pyarrow.table(columns, names=Rows._fields)


def to_rows(table: pyarrow.Table) -> Rows:
    """Converts Parquet's columns to rows."""
    table = table.combine_chunks()
    names, vectors, errors = (table[name].chunk(0) for name in Rows._fields)
    values = vectors.values.to_numpy(zero_copy_only=False)  # NaN for missing vectors
    return Rows(names.to_pylist(), values.reshape(len(table), -1), [error or "" for error in errors.to_pylist()])


class Parquet:
    """Parquet files with columns `path`, `vector` (a list of float32) and `error`."""

    def __init__(self) -> None:
        require("pyarrow")
        import pyarrow.parquet

        self._parquet = pyarrow.parquet

    def write(self, path: Path, chunks: Iterator[Rows]) -> None:
        first = to_table(next(chunks))
        # Python opens the files: Arrow takes only names in UTF-8.
        with open(path, "wb") as stream, self._parquet.ParquetWriter(stream, first.schema) as writer:
            writer.write_table(first)
            for rows in chunks:
                writer.write_table(to_table(rows))

    def paths(self, path: Path) -> list[str]:
        with open(path, "rb") as stream:
            return self._parquet.read_table(stream, columns=["path"])["path"].to_pylist()

    def read(self, path: Path) -> Rows:
        with open(path, "rb") as stream:
            return to_rows(self._parquet.read_table(stream))


class Npz:
    """`.npz` files with arrays `path`, `vector`, `(n, size)` float32, NaN for a bad image, and `error`, "" for a good one."""

    def write(self, path: Path, chunks: Iterator[Rows]) -> None:
        """Writes all chunks, held in memory together."""
        columns = zip(Rows._fields, zip(*chunks, strict=True), strict=True)
        arrays: Any = {name: np.concatenate(column) for name, column in columns}
        with open(path, "wb") as stream:
            np.savez(stream, **arrays)

    def paths(self, path: Path) -> list[str]:
        with np.load(path) as file:
            return file["path"].tolist()

    def read(self, path: Path) -> Rows:
        with np.load(path) as file:
            return Rows(file["path"].tolist(), file["vector"], file["error"].tolist())


FORMATS: dict[str, type[Parquet | Npz]] = {".parquet": Parquet, ".npz": Npz}


@contextmanager
def open_parts(output: Path, job: dict[str, Any], force: bool) -> Iterator[Parts]:
    """Opens the parts of an extraction for this process alone. Finished rows stay until all are joined.

    Args:
        output: the file that the parts are joined into; its suffix says its format.
        job: everything that the rows depend on, as JSON has it: rows from a different job are not reused.
        force: overwrite `output`, and delete the rows of a different job.

    Raises:
        ValueError: `output` has another suffix, or there are rows of a different job.
        OSError: `output` exists, its folder can't be written to, other users can write to the parts, or another process is
            writing them.
    """
    from ..convert.atomic_files import check_output, is_own, lock, open_own

    check_output(output, list(FORMATS), force)
    parts = Parts(output)
    parts.folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        parts.folder.mkdir(mode=0o700)
    if not is_own(parts.folder):
        raise OSError(
            f"{parts.folder}: expected a folder of yours that nobody else can write to, and no link; delete it, or name "
            "another output"
        )
    with open(parts.folder / "claim", "ab", opener=open_own) as claim:
        if lock(claim) is False:
            raise OSError(f"{output}: another extraction is writing it")
        try:
            parts.begin(job, force)
            yield parts
        finally:
            claim.close()  # Windows removes no open file
            if not parts.files():
                shutil.rmtree(parts.folder, ignore_errors=True)


class Parts:
    """The folder `OUTPUT.parts` with the finished rows of an extraction, a file for each batch or a few."""

    def __init__(self, output: Path) -> None:
        self.output, self.format = output, FORMATS[output.suffix]()
        self.folder = output.with_name(f"{output.name}.parts")

    def begin(self, job: dict[str, Any], force: bool) -> None:
        """Records the job. Rows of a different one are deleted with `force`, else a ValueError."""
        path = self.folder / "job.json"
        known = (
            json.loads(path.read_text("utf-8")) if path.exists() else None
        )  # parts without a job are no extraction's
        if self.files() and known != job:
            if known and not force:
                raise ValueError(
                    f"{self.folder}: an unfinished extraction with other weights or settings; delete the folder, or pass "
                    "force=True, or --force"
                )
            for part in self.files():
                part.unlink()
        self._write(path, lambda unfinished: unfinished.write_text(json.dumps(job), "utf-8"))

    def files(self) -> list[Path]:
        from ..convert.atomic_files import is_own

        return sorted(path for path in self.folder.glob(f"*{self.output.suffix}") if is_own(path, others=0))

    def places(self) -> dict[str, tuple[Path, int]]:
        """Finds the part and the row in it of each finished path. Parts that a killed writer left damaged are deleted."""
        found = {}
        for part in self.files():
            try:
                found.update({path: (part, row) for row, path in enumerate(self.format.paths(part))})
            except (ValueError, EOFError, BadZipFile):
                part.unlink()
        return found

    def unfinished(self, paths: Mapping[str, str]) -> list[str]:
        """Returns the paths, given by their escaped names, that have no row yet: an interrupted extraction does only these."""
        done = self.places()
        return [path for name, path in paths.items() if name not in done]

    def add(self, rows: Rows) -> None:
        """Writes some rows, all or none."""
        name = f"{secrets.token_hex(8)}{self.output.suffix}"
        self._write(self.folder / name, lambda unfinished: self.format.write(unfinished, iter([rows])))

    def join(self, paths: Sequence[str]) -> int:
        """Writes the rows of `paths`, in this order, to `output`, deletes the parts, and returns the number of bad images."""
        places, read, bad = self.places(), lru_cache(8)(self.format.read), 0
        if lost := [path for path in paths if path not in places]:
            raise OSError(f"{self.folder}: the rows of {len(lost)} images are lost; run the same command again")

        def chunks() -> Iterator[Rows]:
            nonlocal bad
            for start in range(0, len(paths), CHUNK):
                chunk = list(paths[start : start + CHUNK])
                vectors, errors = [], []
                for part, group in groupby((places[path] for path in chunk), key=lambda place: place[0]):
                    rows, own = read(part), [row for _, row in group]
                    vectors.append(rows.vector[own])
                    errors += [rows.error[row] for row in own]
                bad += sum(map(bool, errors))
                yield Rows(chunk, np.concatenate(vectors), errors)

        self._write(self.output, lambda unfinished: self.format.write(unfinished, chunks()))
        for part in self.files():
            part.unlink()
        return bad

    def _write(self, path: Path, write: Callable[[Path], Any]) -> None:
        """Calls `write` with a temporary name and renames the finished file to `path`."""
        unfinished = self.folder / f"unfinished-{secrets.token_hex(8)}"
        write(unfinished)
        unfinished.replace(path)
