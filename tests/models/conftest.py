import pytest

from t5x_like.schema1_model import model_tree
from t5x_like.sections import Choice, choose


@pytest.fixture(scope="session")
def build_architecture():
    """Options of a model, by the short names of the first schema → the architecture."""
    return lambda values: choose(Choice("model", "llama", "family"), model_tree(values))
