import pytest
from runs import Program


@pytest.fixture
def program(tmp_path, program_environment):
    """The program, started in an empty directory."""
    return Program(tmp_path, program_environment)
