"""Where compiled programs are kept; executables that are saved are in `preflight/test_save_and_search.py`."""

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
    executables.keep_compiled(where, epath.Path("/workdir/compiled"))
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
