"""The token cache: kept whole, made again when damaged, done without where it cannot be written."""

import json
import os
import pwd

import numpy as np
import pytest

from t5x_like.__main__ import main
from t5x_like.data import cache, local_cache
from t5x_like.data.documents import Documents


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Maker:
    """Makes the same documents and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return Documents.collect([(np.arange(5), 9), (np.arange(3), 4)], np.dtype(np.uint16))


def same(a, b):
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("tokens", "offsets", "byte_lengths"))


def test_made_once_and_memory_mapped():
    make = Maker()
    first, second = cache.cached("key", make), cache.cached("key", make)
    assert make.calls == 1
    assert same(first, make())
    assert same(second, make())
    assert not second.tokens.flags.owndata
    assert second.tokens.dtype == np.uint16
    cache.cached("other key", make)
    assert make.calls == 4


def test_nothing_else_is_left_behind():
    cache.cached("key", Maker())
    assert [path.name for path in cache.directory().iterdir()] == ["1-key"]


@pytest.mark.parametrize("file", ["tokens.npy", "offsets.npy", "byte_lengths.npy", "sha256"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "empty"])
def test_damage_is_noticed_and_mended(file, damage):
    make = Maker()
    cache.cached("key", make)
    path = cache.directory() / "1-key" / file
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[:-1] if damage == "cut" else b"")
    assert same(cache.cached("key", make), Maker()())
    assert make.calls == 2
    cache.cached("key", make)
    assert make.calls == 2


@pytest.fixture
def settled():
    """An entry whose files were written long ago, and that one start has compared with their digest."""
    cache.cached("key", Maker())
    place = cache.directory() / "1-key"
    for file in place.iterdir():
        os.utime(file, (1e9, 1e9))
    monkey = pytest.MonkeyPatch()
    monkey.setattr(local_cache, "_SETTLED", -1.0)  # as if the change to their times were long ago, too
    cache.cached("key", Maker())
    monkey.undo()
    assert (place / "stamp").exists()
    return place


def read_files(monkeypatch):
    """The entries that are read through for their digests from here on."""
    seen, digest = [], cache._digest
    monkeypatch.setattr(cache, "_digest", lambda place: seen.append(place.name) or digest(place))
    return seen


def test_a_start_reads_no_file_whose_state_is_known(settled, monkeypatch):
    seen = read_files(monkeypatch)
    assert same(cache.cached("key", Maker()), Maker()())
    assert seen == []
    os.utime(settled / "tokens.npy", (2e9, 2e9))
    cache.cached("key", Maker())
    assert seen == ["1-key"]


@pytest.mark.parametrize("file", ["tokens.npy", "offsets.npy", "byte_lengths.npy", "sha256", "stamp"])
def test_what_was_changed_since_is_read_and_made_again(settled, file):
    content = bytearray((settled / file).read_bytes())
    content[-1] ^= 1
    (settled / file).write_bytes(content)
    make = Maker()
    assert same(cache.cached("key", make), Maker()())
    assert make.calls == (0 if file == "stamp" else 1)


def test_an_entry_of_an_earlier_program_is_read_once_and_stamped(settled, monkeypatch):
    (settled / "stamp").unlink()
    monkeypatch.setattr(local_cache, "_SETTLED", -1.0)
    seen = read_files(monkeypatch)
    for _ in range(3):
        cache.cached("key", Maker())
    assert seen == ["1-key"]


def test_a_bit_that_flipped_on_the_disk_is_found_by_verify(settled, capfd):
    assert main(["data", "verify", "--cache", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["entries"] == 1
    times = os.stat(settled / "tokens.npy")
    content = bytearray((settled / "tokens.npy").read_bytes())
    content[-1] ^= 1
    (settled / "tokens.npy").write_bytes(content)
    os.utime(settled / "tokens.npy", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert main(["data", "verify", "--cache"]) == 2
    assert capfd.readouterr().err == f"error: {settled} is damaged; remove it, and it is made again\n"


def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])  # a user without a name, as in a container
    assert cache.directory() is None
    make = Maker()
    assert same(cache.cached("key", make), Maker()()) and make.calls == 1
    cache.write_note("key", "a")
    assert cache.read_note("key") is None and list(cache.verify()) == []


def test_directory_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    make = Maker()
    assert same(cache.cached("key", make), Maker()())
    cache.cached("key", make)
    assert make.calls == 2


def test_full_disk_is_done_without(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert same(cache.cached("key", Maker()), Maker()())
    assert list(cache.directory().iterdir()) == []


def test_another_process_may_be_first(monkeypatch):
    def make_and_lose_the_race():
        cache._save(cache.directory() / "1-key", Maker()())
        return Maker()()

    assert same(cache.cached("key", make_and_lose_the_race), Maker()())
    assert [path.name for path in cache.directory().iterdir()] == ["1-key"]


def test_a_failure_to_make_is_not_kept():
    with pytest.raises(ZeroDivisionError):
        cache.cached("key", lambda: 1 // 0)
    assert not cache.directory().exists()
