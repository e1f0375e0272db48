"""Where shipped files are found: in a checkout, and in an installed wheel."""

import pytest

from t5x_like.errors import UserError
from t5x_like.frontends import shipped


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package as a wheel lays it out, in a site-packages that also holds somebody else's configs/."""
    package = tmp_path / "site-packages" / "t5x_like"
    for directory in (package / "_shipped", package.parent):
        (directory / "configs").mkdir(parents=True)
        (directory / "configs" / "a.py").write_text(f"where = {directory.name!r}")
    (package.parent / "configs" / "foreign.py").write_text("")
    (package / "_shipped" / "gin" / "runs").mkdir(parents=True)
    (package / "_shipped" / "gin" / "runs" / "b.gin").write_text("")
    monkeypatch.setattr(shipped, "_PACKAGE", package)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return package


def test_a_wheel_finds_its_own_files_and_no_foreign_ones(installed):
    assert shipped.find("configs/a.py") == installed / "_shipped" / "configs" / "a.py"
    assert shipped.listing("configs", ".py") == ["configs/a.py"]
    assert shipped.listing("gin", ".gin") == ["gin/runs/b.gin"]
    with pytest.raises(UserError) as caught:
        shipped.find("configs/foreign.py")
    assert str(caught.value) == "there is no experiment file 'configs/foreign.py'; did you mean 'configs/a.py'?"


def test_a_checkout_comes_first(installed):
    (installed.parent / "pyproject.toml").write_text("")
    assert shipped.find("configs/a.py") == installed.parent / "configs" / "a.py"


def test_directories_given_come_before_the_shipped(installed, tmp_path):
    (tmp_path / "mine" / "configs").mkdir(parents=True)
    (tmp_path / "mine" / "configs" / "a.py").write_text("")
    assert shipped.locate("configs/a.py", [tmp_path / "mine"]) == tmp_path / "mine" / "configs" / "a.py"


def test_absolute_paths_stand_for_themselves(installed, tmp_path):
    (tmp_path / "x.py").write_text("")
    assert shipped.find(str(tmp_path / "x.py")) == tmp_path / "x.py"
    assert shipped.locate(str(tmp_path / "y.py")) is None
