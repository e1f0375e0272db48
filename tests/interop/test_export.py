"""Export of what was trained here: a card from what is recorded, and the same logits in `transformers`."""

import json

import numpy as np
import pytest
from interop import folders
from models.families import cases
from models.families.here import Family
from models.families.test_families import _tool as tool

from t5x_like import variables
from t5x_like.__main__ import main
from t5x_like.commands.train import run_experiment
from t5x_like.evaluation.restored import Restored
from t5x_like.experiment import Experiment
from t5x_like.models.hugging_face import read_model
from t5x_like.sections import Choice, choose, plain


def trained(workdir, model, steps):
    """A run on the shipped corpus; `model` is plain values."""
    tree = choose(Choice("model", "llama", "family"), model)
    objective = {"name": "causal_lm"} if tree.causal else {"name": "masked_lm", "mask_id": 4096, "vocab_size": 4097}
    if tree.encoder and tree.decoder:
        objective = {"name": "span_corruption", "vocab_size": 4196}
    experiment = Experiment.from_dict(
        {
            "steps": steps,
            "model": {**model, "dropout": 0.0},
            "objective": objective,
            "data": {"task": "sotu", "sequence_length": 32, "batch_size": 8},
            "optimizer": {"name": "adamw", "learning_rate": 0.01, "schedule": "constant"},
            "telemetry": {"tensorboard": False},
        }
    )
    assert run_experiment(experiment, str(workdir)) == 0


def small(**changes):
    return {**plain(read_model({**cases.read("llama")["config"], "vocab_size": 4096})), **changes}


def exported(workdir, output, *flags):
    return main(["export", "--to=hf", f"--checkpoint={workdir}", f"--output={output}", *flags])


def test_a_card_says_what_the_run_records(tmp_path):
    trained(tmp_path / "run", small(), 2)
    flags = ["--license=apache-2.0", "--intended-use=Tests."]
    assert exported(tmp_path / "run", tmp_path / "out", *flags) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    meta = json.loads((tmp_path / "run/checkpoints/2/manifest/manifest.json").read_text())["meta"]
    assert card.startswith("---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n")
    assert "Tests." in card and "| Steps | 2 |" in card
    assert f"| Tokens | {int(meta['totals']['tokens']):,} |" in card
    assert all(fingerprint in card for fingerprint in meta["data"].values())
    assert "| Energy (kWh) | not recorded |" in card and "## Evaluation\n\nNot recorded." in card
    tensors = folders.read_folder(tmp_path / "out")
    assert {code for code, _, _ in tensors.values()} == {"F32"}
    total = sum(int(np.prod(shape)) for _, shape, _ in tensors.values())
    assert f"| Parameters | {total:,} |" in card


def test_a_card_of_what_was_imported_invents_nothing(tmp_path):
    folders.write_folder(tmp_path / "there", "gpt2", files=1)
    assert main(["import", "--from=hf", f"--path={tmp_path / 'there'}", f"--output={tmp_path / 'run'}"]) == 0
    assert exported(tmp_path / "run", tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Imported from `there` (hf)." in card and "## Training\n\nNot recorded." in card
    assert "## License\n\nNot recorded." in card and "license:" not in card


def test_an_option_without_words_there_is_named(tmp_path, capsys):
    values = small()
    trained(tmp_path / "run", {**values, "decoder": {**values["decoder"], "positions": "alibi"}}, 1)
    assert exported(tmp_path / "run", tmp_path / "out") == 2
    assert "model.decoder.positions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.names())
def test_what_was_trained_here_has_the_same_logits_there(tmp_path, name):
    """After 20 steps on the shipped corpus, with more rows in the table than the tokenizer has ids."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    case = cases.read(name)
    model = read_model({**case["config"], "vocab_size": 4224})
    trained(tmp_path / "run", plain(model), 20)
    assert exported(tmp_path / "run", tmp_path / "out") == 0
    written = json.loads((tmp_path / "out/config.json").read_text())
    kind = getattr(transformers, written["architectures"][0])
    theirs, report = kind.from_pretrained(tmp_path / "out", attn_implementation="eager", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    rows_of = {**case, "config": {**written, "vocab_size": 4096}}
    lengths, rows = cases.rows(rows_of)
    with torch.no_grad():
        expected = tool().forward(theirs.eval(), written, rows, lengths).numpy()
    restored = Restored(str(tmp_path / "run"))
    family = Family(written)
    family.tree = variables.split(restored.program.inference_model(restored.state))[1]
    for ours, row, length in zip(family.logits(rows_of), expected, lengths, strict=True):
        assert np.linalg.norm(ours - row[:length]) < 1e-4 * np.linalg.norm(row[:length])


def test_an_id_that_decides_positions_stays(tmp_path):
    """RoBERTa's first position is that of padding and one more, whatever the tokenizer's padding is."""
    values = {**plain(read_model(cases.read("roberta")["config"])), "vocab_size": 4224}
    trained(tmp_path / "run", values, 1)
    assert exported(tmp_path / "run", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["pad_token_id"] == 1
