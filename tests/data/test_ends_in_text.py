"""No text becomes an end or a beginning, however a tokenizer's file holds these."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from t5x_like.data.huggingface_vocabulary import HuggingFaceVocabulary
from t5x_like.data.sentencepiece_vocabulary import SentencePieceVocabulary
from t5x_like.data.vocabulary_files import load
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Data
from t5x_like.sections import section

TEXTS = ["the people walk by the river, and talk of houses. " * 3, "A page about tokens: more words follow."] * 20


def byte_level():
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=alphabet))
    return made


def special():
    made = byte_level()
    made.add_special_tokens(["<|endoftext|>", "<|begin_of_text|>"])
    return made


def plain():
    """The end was added with `add_tokens`, as users do: `special` is false in the file."""
    made = byte_level()
    made.add_tokens(["<|user|>", "<|endoftext|>", AddedToken("<|begin_of_text|>", normalized=False)])
    return made


def unigram():
    """T5's shape: the end is a piece of the model, which the lattice finds in a text, and a special token besides."""
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((piece, -9.0) for piece in "▁abcdefghijklmnopqrstuvwxyz.,:"),
    ]
    made = tokenizers.Tokenizer(models.Unigram([*pieces, *((piece, -9.0) for piece in "ATEs<>/|_\n")], unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return made


def word_level(**more):
    made = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2, "</s>": 3, **more}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


CASES = {"special": special, "plain": plain, "unigram": unigram, "word_level": word_level}
ENDS = ["<|endoftext|>", "<|begin_of_text|>", "</s>"]


@pytest.mark.parametrize("case", CASES)
def test_a_text_that_spells_an_end_is_text(case):
    made = CASES[case]()
    vocabulary = HuggingFaceVocabulary(made.to_str().encode())
    assert vocabulary.model == made.to_str().encode()
    for end in ENDS:
        for text in (end, f"a {end} b", f"a{end}b", f"{end}{end}", f" {end}\n"):
            for ids in (vocabulary.encode(text), *vocabulary.encode_many([text])):
                assert not {vocabulary.eos_id, vocabulary.bos_id} & set(ids)
            assert vocabulary.encode_document(text).tolist() == [*vocabulary.encode(text), vocabulary.eos_id]
            if case in ("special", "plain"):
                assert vocabulary.decode(vocabulary.encode(text)) == text


@pytest.mark.parametrize("case", CASES)
def test_other_texts_have_the_ids_of_the_library(case):
    made = CASES[case]()
    vocabulary = HuggingFaceVocabulary(made.to_str().encode())
    for text in [*TEXTS[:2], "a b", "a <|user|> b", "Größe ☃"]:
        assert vocabulary.encode(text) == made.encode(text, add_special_tokens=False).ids


def test_a_token_that_is_no_end_stays_what_its_owner_made_it():
    vocabulary = HuggingFaceVocabulary(plain().to_str().encode())
    assert plain().token_to_id("<|user|>") in vocabulary.encode("<|user|>a")


def test_the_identity_differs_where_text_is_kept_from_ends(tmp_path):
    """For the tokens that a cache holds, or a prepared corpus, were made another way before."""
    identities = {}
    for case, make in CASES.items():
        (tmp_path / "t.json").write_text(make().to_str())
        task = {"name": "text", "path": f"{tmp_path}/t.json", "tokenizer": f"{tmp_path}/t.json", "format": "text"}
        vocabulary = load(f"{tmp_path}/t.json")
        identities[case] = vocabulary.identity == vocabulary.digest
        found = section(Data, {"task": task}, "data").task.fingerprint("train")["data.task.tokenizer"]
        assert found == vocabulary.identity
    assert identities == {"special": True, "plain": False, "unigram": False, "word_level": False}


def test_a_tokenizer_that_cannot_keep_text_from_its_end_is_refused():
    merges = [("<", "/"), ("</", "s"), ("</s", ">")]
    pieces = ["<unk>", "<", "/", "s", ">", "</", "</s", "</s>", "a"]
    made = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    with pytest.raises(ExperimentError) as error:
        HuggingFaceVocabulary(made.to_str().encode(), "data.task.tokenizer", "mine.json")
    assert str(error.value) == (
        "data.task.tokenizer: a text that spells </s> becomes that token in mine.json, and would end or begin a"
        " document in its middle; give a tokenizer with another token for it that no text becomes"
    )


@pytest.mark.parametrize(("symbols", "is_refused"), [([], False), (["<s>"], False), (["<s>", "</s>"], True)])
def test_ends_that_sentencepiece_was_told_to_find_in_text(symbols, is_refused):
    model = io.BytesIO()
    flags = {"vocab_size": 80, "hard_vocab_limit": False, "minloglevel": 2, "user_defined_symbols": symbols}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **flags)
    if is_refused:
        with pytest.raises(ExperimentError, match=r"^data.task.tokenizer: the vocabulary has no piece that ends a tex"):
            SentencePieceVocabulary(model.getvalue())
        return
    vocabulary = SentencePieceVocabulary(model.getvalue())
    assert vocabulary.bos_id == (-1 if symbols else 1)  # a piece of text like others
    for text in ("</s>", "a </s> b", "a<s>b</s>"):
        assert not {vocabulary.eos_id, vocabulary.bos_id} & set(vocabulary.encode(text))


def test_the_file_beside_a_checkpoint_keeps_text_from_ends_too(tmp_path):
    first = HuggingFaceVocabulary(plain().to_str().encode(), extra_ids=3)
    (tmp_path / first.file).write_bytes(first.model)
    again = load(str(tmp_path / first.file))
    text = "a <|endoftext|> b"
    assert again.encode(text) == first.encode(text) and again.eos_id not in again.encode(text)
    assert json.loads(first.model)["added_tokens"][1]["special"] is False
