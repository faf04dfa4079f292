"""Image files → a file with a feature vector each: `extract_features`, on this machine or on a Ray cluster.

`features` runs the extraction; `decoding` reads batches of images in worker processes; `extractor` computes their vectors;
`feature_files` keeps finished rows, so that an interrupted extraction is resumed, and writes `.parquet` or `.npz`; `ray_job`
decodes and computes on a cluster.
"""

from .features import Extraction, extract_features

__all__ = ["Extraction", "extract_features"]
