"""A real corpus of some hundred megabytes from Debian's documentation packages, for trying data at scale.

    .venv/bin/python tools/debian_corpus.py --output=corpus/debian

Downloads the packages with `apt-get download` (or takes the .deb files in `--packages=DIR`), turns their pages into
text, and writes one `PACKAGE.jsonl.zst` each, with `manifest.json`: versions and SHA-256 of the packages and of what
was written. The same packages give the same files.
"""

import argparse
import base64
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import zstandard

from t5x_like.data.sources.html import page_text

PACKAGES = ("dict-gcide", "openjdk-17-doc", "linux-doc-6.1", "cppreference-doc-en-html", "python3.11-doc")
TEXTS = (".txt", ".rst", ".txt.gz", ".rst.gz")
ENTRIES = 32  # of a dictionary in one document; one alone is a line or two
SHORTEST = 200  # characters; what is below is an index or a redirection


def main() -> None:
    """Writes the corpus and says how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--packages", type=Path, help="a directory with the .deb files; downloaded if not given")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        place = options.packages or Path(scratch)
        if not options.packages:
            subprocess.run(["apt-get", "download", *PACKAGES], cwd=place, check=True)
        files = [next(place.glob(f"{name}_*.deb")) for name in PACKAGES]
        with ProcessPoolExecutor() as workers:
            found = list(workers.map(convert, files, [options.output] * len(files)))
    (options.output / "manifest.json").write_text(json.dumps(found, indent=2) + "\n")
    for part in found:
        print(
            f"{part['package']:26} {part['version']:24} {part['documents']:7,} documents {part['bytes'] / 1e6:7.1f} MB"
        )
    print(f"{sum(part['bytes'] for part in found) / 1e6:.1f} MB of text in {options.output}")


def convert(package: Path, output: Path) -> dict[str, str | int]:
    """One package as JSON lines; its row of the manifest."""
    name, version, _ = package.stem.split("_")
    target = output / f"{name}.jsonl.zst"
    documents = size = 0
    with target.open("wb") as raw, zstandard.ZstdCompressor(level=9).stream_writer(raw) as lines:
        for source, text in pages(package):
            documents, size = documents + 1, size + len(text.encode())
            lines.write(json.dumps({"text": text, "source": source}, ensure_ascii=False).encode() + b"\n")
    return {
        "package": name,
        "version": version.replace("%3a", ":"),
        "package_sha256": hashlib.sha256(package.read_bytes()).hexdigest(),
        "documents": documents,
        "bytes": size,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
    }


def pages(package: Path) -> Iterator[tuple[str, str]]:
    """(where it is in the package, text) of every page that is long enough, sorted by where."""
    content = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {member.name: member for member in archive.getmembers() if member.isfile()}

        def read(name: str) -> bytes:
            stream = archive.extractfile(members[name])
            assert stream is not None
            return stream.read()

        for name in sorted(members):
            if name.endswith(".dict.dz"):
                yield from dictionary(name, gzip.decompress(read(name)), read(name.removesuffix("dict.dz") + "index"))
                continue
            if name.endswith((".html", ".htm")):
                text = page_text(read(name))
            elif name.endswith(TEXTS):
                raw = read(name)
                text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode("utf-8", "replace")
            else:
                continue
            if len(text) >= SHORTEST:
                yield name, text


def dictionary(name: str, content: bytes, index: bytes) -> Iterator[tuple[str, str]]:
    """The entries of a dictionary in dictd's format, a few to a document, in the order of the text."""
    places = set()
    for line in index.splitlines():
        headword, offset, length = line.split(b"\t")
        if not headword.startswith(b"00database"):
            places.add((number(offset), number(length)))
    entries = [
        content[offset : offset + length].decode("utf-8", "replace").strip() for offset, length in sorted(places)
    ]
    for start in range(0, len(entries), ENTRIES):
        yield f"{name}#{start}", "\n\n".join(entries[start : start + ENTRIES])


def number(digits: bytes) -> int:
    """A number in dictd's base 64, whose digits are base64's alphabet, the most significant first."""
    value = 0
    for digit in base64.b64decode(digits.rjust(-(-len(digits) // 4) * 4, b"A")):
        value = value << 8 | digit
    return value


if __name__ == "__main__":
    main()
