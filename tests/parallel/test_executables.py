"""Where compiled programs are kept; executables that are saved are in `preflight/test_save_and_search.py`."""

import errno
import os
import tempfile

import jax
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from t5x_like.parallel import executables


@pytest.fixture
def configured(monkeypatch):
    """JAX as a user's process finds it, without the tests' own cache; gives what it is then told."""
    names = (
        "jax_compilation_cache_dir",
        "jax_enable_compilation_cache",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_enable_xla_caches",
    )
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield lambda: (jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache)
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.parametrize(
    ("where", "backend", "expected"),
    [
        ("auto", "cpu", (None, True)),
        ("auto", "tpu", ("/workdir/compiled", True)),
        ("auto", "gpu", ("/workdir/compiled", True)),
        ("/shared/cache", "cpu", ("/shared/cache", True)),
        ("gs://bucket/cache", "tpu", ("gs://bucket/cache", True)),
        ("off", "tpu", (None, False)),
    ],
)
def test_where_compiled_programs_are_kept(configured, monkeypatch, where, backend, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert executables.keep_compiled(where, epath.Path("/workdir/compiled")) == ""
    assert configured() == expected
    assert ("none" in jax.config.jax_persistent_cache_enable_xla_caches) == where.startswith("gs:")


def test_a_users_variable_wins(configured, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/of/the/user")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    executables.keep_compiled("/elsewhere", epath.Path("/workdir/compiled"))
    assert configured() == (None, True)  # as JAX had read it


def test_what_is_compiled_is_there_afterwards(configured, tmp_path):
    place = tmp_path / "cache"
    executables.keep_compiled(str(place), epath.Path("/workdir/compiled"))
    jax.jit(lambda x: x * 3.25 + 1.5).lower(2.0).compile()
    assert [file for file in place.iterdir() if file.name.endswith("-cache")]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("FILE", "FILE is a file and no directory"),
        ("FILE/cache", "FILE is a file and no directory"),
        ("~nobody-of-this-name/cache", "~nobody-of-this-name/cache is below a home directory, and this user has none"),
    ],
)
def test_a_cache_that_cannot_be_is_not_used(configured, tmp_path, where, why):
    (tmp_path / "file").write_text("")
    where, why = (text.replace("FILE", str(tmp_path / "file")) for text in (where, why))
    sentence = executables.keep_compiled(where, epath.Path("/workdir/compiled"))
    assert sentence == f"compiled programs are not kept: {why}" and configured()[1] is False
    jax.jit(lambda x: x * 5.25 + 1.5).lower(2.0).compile()


def test_a_cache_of_the_user_s_variable_that_cannot_be_is_not_used_either(configured, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file"))
    sentence = executables.keep_compiled("auto", epath.Path("/workdir/compiled"))
    assert sentence == f"compiled programs are not kept: {tmp_path / 'file'} is a file and no directory"
    assert configured()[1] is False


def test_a_cache_that_cannot_be_written_is_read_without_a_warning(configured, monkeypatch, tmp_path):
    def compiled():
        jax.clear_caches()
        return jax.jit(lambda x: x * 7.25 + 1.5).lower(2.0).compile()

    place = tmp_path / "cache"
    executables.keep_compiled(str(place), epath.Path("/workdir/compiled"))
    compiled()
    kept = {file.name for file in place.iterdir()}
    monkeypatch.setattr(tempfile, "TemporaryFile", _refused)
    sentence = executables.keep_compiled(str(place), epath.Path("/workdir/compiled"))
    assert sentence == f"compiled programs are not kept: {place} cannot be written (Read-only file system)"
    assert configured() == (str(place), True)
    compiled()
    assert {file.name for file in place.iterdir() if "atime" not in file.name} == {n for n in kept if "atime" not in n}


def _refused(dir):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), dir)
