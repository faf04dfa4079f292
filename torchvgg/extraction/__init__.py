"""Image files → a file with one feature vector each: `extract_features`, here or on a Ray cluster.

`features` runs the job; `decoding` reads batches of images in worker processes; `extractor` computes their vectors;
`feature_files` keeps finished rows, so that an interrupted job is resumed, and writes `.parquet` or `.npz`; `ray_job` does
the same on a cluster.
"""

from .features import Extraction, extract_features

__all__ = ["Extraction", "extract_features"]
