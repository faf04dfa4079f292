"""What extractions are tested with: the size of the images, and a reader of either kind of file."""

from pathlib import Path

import numpy as np
import pyarrow.parquet

SIZE = 64  # of the images that the models here take


def table(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Paths, vectors (NaN where there is none) and errors ("" where there is none) of either kind of file."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return file["path"].tolist(), file["vector"], file["error"].tolist()
    columns = pyarrow.parquet.read_table(path)
    assert columns.column_names == ["path", "vector", "error"]
    known = [vector for vector in columns["vector"].to_pylist() if vector]
    nothing = np.full(len(known[0]) if known else 0, np.nan)
    vectors = [nothing if vector is None else vector for vector in columns["vector"].to_pylist()]
    return columns["path"].to_pylist(), np.array(vectors, np.float32), [e or "" for e in columns["error"].to_pylist()]
