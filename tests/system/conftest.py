import pytest
from runs import Program


@pytest.fixture
def program(tmp_path, hasty_environment):
    """The program, started in an empty directory and compiled in haste."""
    return Program(tmp_path, hasty_environment)
