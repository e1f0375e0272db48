"""`t5x_like models`: published parameter counts, the figures behind the table, and that no device is asked for them."""

import json
import subprocess
import sys

import pytest

from t5x_like import registry
from t5x_like.__main__ import main
from t5x_like.frontends import configdict
from t5x_like.program import describe

# Of the models as they were released, or of the paper's table; BERT's without pooler and without the second task.
PUBLISHED = {
    ("bert", "large"): 335_174_458,
    ("gpt2", "124m"): 124_439_808,
    ("gpt2", "350m"): 354_823_168,
    ("gpt2", "774m"): 774_030_080,
    ("gpt2", "1.5b"): 1_557_611_200,
    ("llama", "1b"): 1_100_048_384,
    ("llama", "7b"): 6_738_415_616,
    ("llama", "13b"): 13_015_864_320,
    ("llama", "70b"): 68_976_648_192,
    ("llama3", "8b"): 8_030_261_248,
    ("llama", "405b"): 405_853_388_800,
    ("mistral", "7b"): 7_241_732_096,
    ("mixtral", "8x7b"): 46_702_792_704,
    ("t5", "small"): 60_506_624,
    ("t5", "base"): 222_903_552,
    ("t5", "large"): 737_668_096,
    ("t5", "3b"): 2_851_598_336,
    ("t5", "11b"): 11_307_321_344,
    ("t5_1_1", "small"): 76_961_152,
    ("t5_1_1", "base"): 247_577_856,
    ("t5_1_1", "large"): 783_150_080,
    ("t5_1_1", "xl"): 2_849_757_184,
    ("t5_1_1", "xxl"): 11_135_332_352,
}


def listed(capsys, *flags):
    assert main(["models", "--json", *flags]) == 0
    return {(row["family"], row["size"]): row for row in json.loads(capsys.readouterr().out)["models"]}


def test_every_size_of_every_family_is_there_with_its_published_count(capsys):
    rows = listed(capsys)
    sizes = {(family, size) for family in registry.names("model") for size in registry.load("model", family).sizes}
    assert set(rows) == sizes
    assert {key: rows[key]["parameters"] for key in PUBLISHED} == PUBLISHED
    for row in rows.values():
        assert row["parameter_bytes"] == 4 * row["parameters"]
        assert row["adamw_bytes"] == 12 * row["parameters"] + 4, "two moments, and the int32 of steps"


@pytest.mark.parametrize("name", ["llama2_7b", "gpt2_124m", "mixtral_8x7b", "bert_large"])
def test_flops_are_those_of_a_training_step(capsys, name):
    experiment = configdict.load(f"configs/{name}.py")
    model, data = experiment.model, experiment.data
    row = listed(capsys, f"--family={model.family}", f"--length={data.sequence_length}")[model.family, model.size]
    step = describe(experiment)["flops_per_step"]
    assert row["flops_per_token"] * data.batch_size * data.sequence_length == pytest.approx(step, rel=1e-12)


def test_rows_are_as_long_as_the_model_is_meant_for(capsys):
    rows = listed(capsys, "--family=llama")
    assert [*rows] == [("llama", size) for size in ("1b", "7b", "13b", "70b", "405b")]
    assert rows["llama", "7b"]["length"] == 4096 and rows["llama", "405b"]["length"] == 8192
    shorter = listed(capsys, "--family=llama", "--length=1024")
    assert all(shorter[key]["flops_per_token"] < rows[key]["flops_per_token"] for key in rows)
    too_long = listed(capsys, "--family=gpt2", "--length=1025")
    assert {row["flops_per_token"] for row in too_long.values()} == {None}


def test_a_pipe_gets_a_line_a_model_and_no_device_is_asked():
    """Sizes of models that no machine here holds, in a process of its own."""
    program = (
        "import sys\nfrom t5x_like.__main__ import main\nassert main(['models']) == 0\n"
        "from jax._src import xla_bridge\nassert not xla_bridge.backends_are_initialized()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert " ".join(first.split()) == "family size parameters length GFLOP a token GiB GiB with AdamW"
    assert len(lines) == sum(len(registry.load("model", family).sizes) for family in registry.names("model"))
    llama = next(line for line in lines if line.split()[:2] == ["llama", "7b"])
    assert llama.split()[2:] == ["6,738,415,616", "4,096", "42.86", "25.10", "75.31"]


def test_what_is_not_there_is_one_sentence(capsys):
    assert main(["models", "--family=lama"]) == 2
    assert capsys.readouterr().err == "error: --family: there is no model 'lama'; did you mean 'llama'?\n"
    assert main(["models", "--length=0"]) == 2
    assert capsys.readouterr().err.startswith("error: --length: 0 is too small")
    assert main(["models", "llama"]) == 2
    assert "does not know 'llama'" in capsys.readouterr().err


def test_a_family_of_ones_own_is_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(registry._TABLE, "model", dict(registry._TABLE["model"]))
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.meta_path", list(sys.meta_path))
    (tmp_path / "mine_for_models.py").write_text(
        "from t5x_like import registry\n"
        "from t5x_like.models.families import gpt2\n"
        "FAMILY = registry.Preset(gpt2.FAMILY.options, gpt2.FAMILY.values, {'small': gpt2.FAMILY.sizes['124m']})\n"
        "NO_SIZES = registry.Preset(gpt2.FAMILY.options, gpt2.FAMILY.values)\n"
        "registry.register('model', 'mine', 'mine_for_models:FAMILY')\n"
        "registry.register('model', 'unsized', 'mine_for_models:NO_SIZES')\n"
    )
    monkeypatch.chdir(tmp_path)
    rows = listed(capsys, "--module=mine_for_models.py")
    assert rows["mine", "small"]["parameters"] == PUBLISHED["gpt2", "124m"]
    assert not any(family == "unsized" for family, _ in rows), "its defaults make no model"
    assert main(["models", "--module=mine_for_models.py", "--family=unsized"]) == 2
    assert capsys.readouterr().err == "error: model.embed: it is not given, and has no default\n"
