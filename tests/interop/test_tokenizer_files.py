"""Tokenizers as files of Hugging Face's and back: the same ids, whichever file they are made from."""

import itertools
import json

import pytest
import tokenizers

from t5x_like.data import vocabulary_files
from t5x_like.interop import tokenizer_files
from t5x_like.sections import Choice, choose


@pytest.fixture(scope="module")
def task():
    return choose(Choice("task", "sotu"), "sotu")


def test_a_unigram_model_has_the_same_ids_as_a_tokenizer_json(task):
    ours = task.vocabulary()
    files = tokenizer_files.folder(ours)
    assert json.loads(files["tokenizer_config.json"])["eos_token"] == "</s>"
    theirs = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
    texts = [text[:5000] for text in itertools.islice(task.texts("validation"), 5)]
    for text in [*texts, "  two  spaces \n\t and a tab", "é漢字🎉", ""]:
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == ids
        assert theirs.decode(ids) == text


def test_word_pieces_from_their_list():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "un", "##aff", "##able", "cat", ",", "."]
    content = tokenizer_files.vocabulary({"vocab.txt": "\n".join(pieces).encode()}, "here")
    vocabulary = vocabulary_files.read(content, "--path", "here")
    assert vocabulary.encode("The UNAFFABLE cat, dog.") == [5, 6, 7, 8, 9, 10, 1, 11]
    assert tokenizer_files.beginning(content) == (2,) and tokenizer_files.mask_id(content) == 4


def test_byte_pairs_from_pieces_and_merges():
    pieces = {piece: number for number, piece in enumerate(["<|endoftext|>", "a", "b", "Ġ", "ab", "Ġa"])}
    merges = b"#version: 0.2\na b\n\xc4\xa0 a\n"
    found = {"vocab.json": json.dumps(pieces).encode(), "merges.txt": merges}
    vocabulary = vocabulary_files.read(tokenizer_files.vocabulary(found, "here"), "--path", "here")
    assert vocabulary.encode("ab ab") == [4, 3, 4] and vocabulary.decode([4, 5, 2]) == "ab ab"
    assert vocabulary.eos_id == 0 and tokenizer_files.beginning(vocabulary.model) == ()


def test_bytes_are_byt5s():
    files = tokenizer_files.folder(vocabulary_files.load("bytes", extra_ids=100))
    assert json.loads(files["tokenizer_config.json"]) == {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 100}
