"""Every family against the library that published it: logits, loss, gradients, names, caches and `config.json`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from models.families import cases
from models.families.here import Family

from t5x_like.models.hugging_face import described, read_model, write_model

TOLERANCE = 1e-4  # relative, in float32
LIVE = 20  # random configurations of each family


@pytest.mark.parametrize("name", cases.names())
def test_equals_the_library(name):
    case = cases.read(name)
    family = Family(case["config"])
    unread = [key for key in case["names"] if key not in family.tensors]
    assert not [key for key in unread if not family.options.names().is_ignored(key)]
    assert {*family.tensors} <= {*case["names"]}
    assert cases.error(family.summary(case), case["expected"]) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in cases.names() if read_model(cases.read(name)["config"]).causal])
def test_reads_from_caches_what_it_reads_at_once(name):
    case = cases.read(name)
    logits = Family(case["config"]).from_caches(case)[0]
    theirs = np.array(case["expected"]["logits"][1])
    lengths, _ = cases.rows(case)
    every = max(1, sum(lengths) // 8)
    ours = logits[::every, :5]
    np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=1e-3, atol=TOLERANCE * np.abs(theirs).max())


@pytest.mark.parametrize("name", cases.names())
def test_config_there_and_back(name):
    options = read_model(cases.read(name)["config"])
    assert described(read_model(write_model(options))) == described(options)


def test_no_cap_is_null_there():
    """The library divides by a cap of 0, and all logits are zero then."""
    config = {key: value for key, value in cases.read("gemma3")["config"].items() if "softcapping" not in key}
    written = write_model(read_model(config))
    assert written["final_logit_softcapping"] is None and written["attn_logit_softcapping"] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.names())
def test_equals_the_live_library_on_random_configurations(name):
    case, tool = cases.read(name), _tool()
    rng = np.random.default_rng(5)
    for _ in range(LIVE if case.get("variations") else 0):
        changes = [group[rng.integers(len(group))] for group in case["variations"]]
        config = {**case["config"], **{key: value for change in changes for key, value in change.items()}}
        length = int(rng.integers(8, case["length"] + 12))
        live = tool.library({**case, "config": config, "length": length})
        assert cases.error(Family(config).summary(live), live["expected"]) < TOLERANCE, config


def _tool():
    pytest.importorskip("transformers")
    path = Path(__file__).parents[3] / "tools" / "golden_families.py"
    spec = importlib.util.spec_from_file_location("golden_families", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
