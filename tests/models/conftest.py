import pytest

from t5x_like.sections import Choice, choose


@pytest.fixture(scope="session")
def build_architecture():
    """Plain values of the section `model` → the architecture."""
    return lambda values: choose(Choice("model", "llama", "family"), values)
