"""The files of an extraction: finished rows in a folder of parts, which survives a kill, and the file that joins them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..optional_imports import require

if TYPE_CHECKING:
    import pyarrow

CHUNK = 1 << 22  # numbers joined at once, 16 MB; a Parquet list holds fewer than 2**31

_UNFINISHED = "unfinished-"  # how the names of temporary files among the parts begin


class Rows(NamedTuple):
    """The rows of some images: path, vector and error, which is "" for a good image."""

    path: list[str]
    vector: np.ndarray  # (n, size), float32; NaN for a bad image
    error: list[str]


def to_table(rows: Rows) -> pyarrow.Table:
    """Converts rows to Parquet's columns: a bad image has no vector, a good one no error."""
    require("pyarrow")
    import pyarrow

    good = np.array([not error for error in rows.error], bool)
    ends = np.append(0, np.cumsum(good)) * rows.vector.shape[1]
    columns = [
        pyarrow.array(rows.path, pyarrow.string()),
        # Not a FixedSizeListArray: pyarrow before 26 reads none with missing vectors.
        pyarrow.ListArray.from_arrays(
            pyarrow.array(ends, pyarrow.int32(), mask=np.append(~good, False)),
            pyarrow.array(rows.vector[good].ravel(), pyarrow.float32()),
        ),
        pyarrow.array([error or None for error in rows.error], pyarrow.string()),
    ]
    return pyarrow.table(columns, names=Rows._fields)


def to_rows(table: pyarrow.Table, size: int) -> Rows:
    """Converts Parquet's columns to rows, with vectors of `size`. Raises a ValueError if they have another."""
    import pyarrow.compute

    vector = table["vector"].combine_chunks()
    if pyarrow.compute.list_value_length(vector).drop_null().unique().to_pylist() not in ([], [size]):
        raise ValueError(f"expected vectors of {size:,} numbers")
    vectors = np.full((len(table), size), np.nan, np.float32)
    vectors[np.array(vector.is_valid(), bool)] = vector.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    return Rows(table["path"].to_pylist(), vectors, [error or "" for error in table["error"].to_pylist()])


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

    def read(self, path: Path, size: int) -> Rows:
        with open(path, "rb") as stream:
            return to_rows(self._parquet.read_table(stream), size)


class Npz:
    """`.npz` files with arrays `path`, `vector`, `(n, size)` float32, NaN for a bad image, and `error`, "" for a good one."""

    def write(self, path: Path, chunks: Iterator[Rows]) -> None:
        """Writes all chunks, held in memory together."""
        columns = zip(Rows._fields, zip(*chunks, strict=True), strict=True)
        arrays: Any = {name: np.concatenate(column) for name, column in columns}
        with open(path, "wb") as stream:
            np.savez(stream, **arrays)

    def read(self, path: Path, size: int) -> Rows:
        with np.load(path) as file:
            rows = Rows(file["path"].tolist(), file["vector"], file["error"].tolist())
        if rows.vector.shape != (len(rows.path), size) or rows.vector.dtype != np.float32:
            raise ValueError(f"expected vectors of {size:,} numbers")
        return rows


FORMATS: dict[str, type[Parquet | Npz]] = {".parquet": Parquet, ".npz": Npz}


@contextmanager
def open_parts(output: Path, size: int, job: dict[str, Any], force: bool) -> Iterator[Parts]:
    """Opens the parts of an extraction for this process alone. Finished rows stay until all are joined.

    Args:
        output: the file that the parts are joined into; its suffix says its format.
        size: length of a vector.
        job: everything that the rows depend on, as JSON has it: rows from a different job are not reused.
        force: overwrite `output`, and delete the rows of a different job.

    Raises:
        ValueError: `output` has another suffix, or there are rows of a different job.
        OSError: `output` exists, its folder can't be written to, other users can write to the parts, or another process is
            writing them.
    """
    from ..convert.atomic_files import check_output, is_own, lock, open_own

    check_output(output, list(FORMATS), force)
    parts = Parts(output, size)
    parts.folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        parts.folder.mkdir(mode=0o700)
    if not is_own(parts.folder):
        raise OSError(
            f"{parts.folder}: expected a folder of yours that nobody else can write to, and no link; delete it, or name "
            "another output"
        )
    with open(parts.folder / "claim", "ab", opener=open_own) as claim:
        is_alone = lock(claim)
        if is_alone is False:
            raise OSError(f"{output}: another extraction is writing it")
        for left in parts.folder.glob(f"{_UNFINISHED}*") if is_alone else ():  # by a killed process
            left.unlink(missing_ok=True)
        try:
            parts.begin(job, force)
            yield parts
        finally:
            claim.close()  # Windows removes no open file
            if not parts.files():
                shutil.rmtree(parts.folder, ignore_errors=True)


class Parts:
    """The folder `OUTPUT.parts` with the finished rows of an extraction, a file for each batch or a few."""

    def __init__(self, output: Path, size: int) -> None:
        self.size, self.suffix = size, output.suffix
        self.format = FORMATS[self.suffix]()
        self.output = Path(os.path.realpath(output))  # a link is followed, as by `cp`, whatever its target is called
        self.folder = self.output.with_name(f"{self.output.name}.parts")

    def begin(self, job: dict[str, Any], force: bool) -> None:
        """Records the job. Rows of a different one are deleted with `force`, else a ValueError."""
        path = self.folder / "job.json"
        known = _read_json(path)  # parts without a job are no extraction's
        if self.files() and known != job:
            if known is not None and not force:
                raise ValueError(
                    f"{self.folder}: an unfinished extraction with other weights or settings, or from another working folder; delete the "
                    "folder, or pass force=True, or --force"
                )
            self._remove()
        self._write(path, lambda unfinished: unfinished.write_text(json.dumps(job), "utf-8"))

    def files(self) -> list[Path]:
        from ..convert.atomic_files import is_own

        return sorted(path for path in self.folder.glob(f"*{self.suffix}") if is_own(path, others=0))

    def places(self) -> dict[str, tuple[Path, int]]:
        """Finds the part and the row in it of each finished path."""
        return {path: (part, row) for part in self.files() for row, path in enumerate(self._read(part).path)}

    def _read(self, part: Path) -> Rows:
        """Returns the rows of a part, of which there are none if it is damaged, as a killed writer leaves it: then it is deleted."""
        from ..convert.errors import message_of

        try:
            rows = self.format.read(part, self.size)
            if len(rows.error) != len(rows.path) or {type(text) for text in (*rows.path, *rows.error)} != {str}:
                raise ValueError("expected texts")
        except Exception as error:  # NumPy, zipfile and pyarrow raise any kind for a damaged file
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
                raise OSError(
                    f"{part}: can't be read ({message_of(error)}); delete it to have its images read again"
                ) from None
            part.unlink()
            return Rows([], np.empty((0, self.size), np.float32), [])
        return rows

    def unfinished(self, paths: Mapping[str, str]) -> list[str]:
        """Returns the paths, given by their escaped names, that have no row yet: an interrupted extraction does only these."""
        done = self.places()
        return [path for name, path in paths.items() if name not in done]

    def add(self, rows: Rows) -> None:
        """Writes some rows, all or none."""
        name = f"{secrets.token_hex(8)}{self.suffix}"
        self._write(self.folder / name, lambda unfinished: self.format.write(unfinished, iter([rows])))

    def join(self, paths: Sequence[str]) -> int:
        """Writes the rows of `paths`, in this order, to `output`, deletes the parts, and returns the number of bad images."""
        places, read, bad = self.places(), lru_cache(8)(self._read), 0
        if lost := [path for path in paths if path not in places]:
            raise OSError(f"{self.folder}: the rows of {len(lost)} images are lost; run the same command again")

        def chunks() -> Iterator[Rows]:
            nonlocal bad
            step = max(1, CHUNK // self.size)
            for start in range(0, len(paths), step):
                chunk = list(paths[start : start + step])
                vectors, errors = [], []
                for part, group in groupby((places[path] for path in chunk), key=lambda place: place[0]):
                    rows, own = read(part), [row for _, row in group]
                    vectors.append(rows.vector[own])
                    errors += [rows.error[row] for row in own]
                bad += sum(map(bool, errors))
                yield Rows(chunk, np.concatenate(vectors), errors)

        self._write(self.output, lambda unfinished: self.format.write(unfinished, chunks()))
        self._remove()
        return bad

    def _remove(self) -> None:
        for part in self.files():
            part.unlink()

    def _write(self, path: Path, write: Callable[[Path], Any]) -> None:
        """Calls `write` with a temporary name and renames the finished file to `path`. If that fails, the temporary file is deleted."""
        from ..convert.errors import FULL

        unfinished = self.folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        try:
            write(unfinished)
            unfinished.replace(path)
        except OSError as error:
            if error.errno not in FULL or error.filename:
                raise
            reason = f"{os.strerror(error.errno)}; make room there, and run the same command again to resume"
            raise OSError(error.errno, reason, str(self.folder)) from error
        finally:
            unfinished.unlink(missing_ok=True)


def _read_json(path: Path) -> Any:
    """Returns what a file holds: None if it doesn't exist, "" if it is damaged."""
    try:
        return json.loads(path.read_text("utf-8")) if path.exists() else None
    except ValueError:
        return ""
