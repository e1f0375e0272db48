"""What is checked of processes that are connected; how they end is in `system/test_multi_process.py`."""

import types

import jax
import pytest

from t5x_like.distributed import processes as distributed
from t5x_like.errors import UserError


@pytest.mark.parametrize(
    ("owners", "odd"),
    [("0011", None), ("0", None), ("001", 1), ("011", 1), ("00112", 2), ("0111122", 1), ("0022", 1)],
)
def test_a_process_with_other_devices_is_named(monkeypatch, owners, odd):
    devices = [types.SimpleNamespace(process_index=int(owner)) for owner in owners]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "process_count", lambda: int(owners[-1]) + 1)
    if odd is None:
        distributed._check_devices()
        return
    with pytest.raises(UserError, match=rf"^process {odd} has {owners.count(str(odd))} device.* and process "):
        distributed._check_devices()


def test_one_process_is_run_as_it_is():
    assert distributed.run(None, lambda: 7) == 7
