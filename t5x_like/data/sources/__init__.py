"""Corpora of every usual format as texts: on a disk or an object store, record by record, without TensorFlow.

paths     where files are, and their digests
formats   which format a file has; jsonl, text, parquet, warc, array_record and tfds read them
base      a shard is a file; its reader restarts at any record, and says what it skipped
corpus    the shards that a path names, as one
faults    what can be wrong, by kind
"""

from t5x_like.data.sources.base import POLICIES, UNITS, Options, ShardReader, Stamp, TextShard
from t5x_like.data.sources.corpus import TextCorpus, open_corpus, read_texts
from t5x_like.data.sources.paths import SHIPPED, digest, file_digest, find, is_glob, outline, read_bytes, resolve

__all__ = [
    "POLICIES",
    "SHIPPED",
    "UNITS",
    "Options",
    "ShardReader",
    "Stamp",
    "TextCorpus",
    "TextShard",
    "digest",
    "file_digest",
    "find",
    "is_glob",
    "open_corpus",
    "outline",
    "read_bytes",
    "read_texts",
    "resolve",
]
