"""Memory stays flat, whatever a file holds: measured in processes of their own."""

import functools
import gzip
import json
import random
import subprocess
import sys

import corpora
import pytest
import zstandard

# Reads what argv names; prints the documents, what was skipped, and the growth of the peak memory in MiB.
PROGRAM = """
import json, resource, sys
from t5x_like.data import sources

warm, path, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
options = sources.Options(on_error="skip", **options)
list(sources.open_corpus(warm, options).texts())  # imports, and the buffers that every reader has


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


before = peak()
corpus = sources.open_corpus(path, options)
documents = sum(1 for _ in corpus.texts())
print(json.dumps([documents, dict(corpus.skipped), peak() - before]))
"""


def measure(warm, path, **options):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(warm), str(path), json.dumps(options)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def write_long_line(path, open_file, size=1 << 30):
    """A short line, one of `size` bytes, and a short one."""
    with open_file(path) as stream:
        stream.write(b'{"text": "first"}\n')
        if str(path).endswith("jsonl"):
            stream.seek(size, 1)  # a hole: no byte is written
        else:
            for _ in range(size >> 24):
                stream.write(bytes(1 << 24))
        stream.write(b'\n{"text": "last"}\n')


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.jsonl.gz"])
def test_a_line_of_a_gigabyte_takes_no_memory(tmp_path, name):
    opener = {
        "a.jsonl": functools.partial(open, mode="wb"),
        "a.jsonl.zst": functools.partial(zstandard.open, mode="wb"),
        "a.jsonl.gz": functools.partial(gzip.open, mode="wb", compresslevel=1),
    }[name]
    size = 1 << 30 if name != "a.jsonl.gz" else 1 << 28  # gzip takes seconds to make
    write_long_line(tmp_path / name, opener, size)
    write_long_line(tmp_path / "warm.jsonl", functools.partial(open, mode="wb"), 10)
    documents, skipped, grown = measure(tmp_path / "warm.jsonl", tmp_path / name, max_line_bytes=1 << 20)
    assert documents == 2
    assert skipped == {"too_long": 1}
    assert grown < 60


@pytest.mark.parametrize("name", ["jsonl.zst", "blocks", "parquet", "wet", "array_record"])
def test_a_file_is_read_in_less_memory_than_it_has(tmp_path, name, monkeypatch):
    monkeypatch.setattr(corpora, "ROWS", 1 << 20)  # one row group: it is not memory that bounds it
    texts = [random.Random(i).randbytes(4096).hex() for i in range(24_000)]
    (tmp_path / "small").mkdir()
    small, options = corpora.write(tmp_path / "small", name, texts[:500])
    large, _ = corpora.write(tmp_path, name, texts)
    documents, skipped, grown = measure(small, large, **options)
    assert (documents, skipped) == (24_000, {})
    assert grown < 64  # of 187 MiB of text
