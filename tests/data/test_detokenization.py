"""The text of a continuation, at once and as a stream, in vocabularies of every shape that loses a space or a byte."""

import io
import random

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from t5x_like.data.detokenization import StreamingDecoder, continuation
from t5x_like.data.huggingface_vocabulary import HuggingFaceVocabulary
from t5x_like.data.sentencepiece_vocabulary import SentencePieceVocabulary
from t5x_like.data.sentinels import SentinelVocabulary
from t5x_like.data.vocabulary_files import load

WORDS = ["the", "a", "river", "house", "walked", "green", "slowly", "and", "under", "bridge", "people", "often", "said"]
_DRAW = random.Random(3)
TEXTS = [" ".join(_DRAW.choice(WORDS) for _ in range(60)) + "." for _ in range(200)]
NEW = " house ☃ walked über   green 日本\n\n people"


def sentencepiece_vocabulary(**flags):
    """One with the trainer's own defaults: a dummy prefix, spaces collapsed, 0 unknown and no padding."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 400, "byte_fallback": True, **flags},
    )
    return SentencePieceVocabulary(model.getvalue())


def llama_vocabulary():
    """A tokenizer.json of Llama 2's shape: a mark is prepended, and bytes stand for what has no piece."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=specials)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.train_from_iterator(TEXTS, trainer)
    return HuggingFaceVocabulary(made.to_str().encode())


def byte_level_vocabulary():
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=alphabet))
    made.add_special_tokens(["<|endoftext|>"])
    return HuggingFaceVocabulary(made.to_str().encode())


def word_piece_vocabulary():
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=150, show_progress=False, special_tokens=specials)
    )
    return HuggingFaceVocabulary(made.to_str().encode())


MAKERS = {
    "defaults": sentencepiece_vocabulary,
    "no_fallback": lambda: sentencepiece_vocabulary(vocab_size=120, byte_fallback=False),
    "keeps_spaces": lambda: sentencepiece_vocabulary(
        remove_extra_whitespaces=False, normalization_rule_name="identity", pad_id=0, eos_id=1, unk_id=2, bos_id=-1
    ),
    "llama": llama_vocabulary,
    "byte_level": byte_level_vocabulary,
    "word_piece": word_piece_vocabulary,
    "bytes": lambda: load("bytes"),
    "sentinels": lambda: SentinelVocabulary(sentencepiece_vocabulary(pad_id=3), 500, 20),
    "package": lambda: load("package:sotu/vocabulary.model"),
}


@pytest.fixture(scope="module", params=MAKERS)
def vocabulary(request):
    return MAKERS[request.param]()


def streamed(vocabulary, prompt, new, size):
    decoder = StreamingDecoder(vocabulary, prompt)
    pieces = [decoder.push(new[i : i + size]) for i in range(0, len(new), size)]
    return [*pieces, decoder.finish()]


@pytest.mark.parametrize("prompt", ["", "the river", "the river ", "people said, ☃", "a " * 50])
def test_prompt_and_continuation_join_to_the_whole_text(vocabulary, prompt):
    ids = vocabulary.encode(prompt + NEW)
    for cut in range(len(ids) + 1):
        before, new = ids[:cut], ids[cut:]
        text = continuation(vocabulary, before, new)
        shown, whole = vocabulary.decode(before), vocabulary.decode(ids)
        assert whole == (shown + text if whole.startswith(shown) else shown.rstrip("\ufffd") + text)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_stream_gives_the_same_text(vocabulary, size):
    ids = vocabulary.encode("the river and the bridge" + NEW)
    for cut in range(len(ids) + 1):
        pieces = streamed(vocabulary, ids[:cut], ids[cut:], size)
        assert "".join(pieces) == continuation(vocabulary, ids[:cut], ids[cut:])
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", ["defaults", "llama"])
def test_the_space_after_a_prompt_is_there(name):
    vocabulary = MAKERS[name]()
    prompt, whole = vocabulary.encode("the river"), vocabulary.encode("the river house")
    new = whole[len(prompt) :] if whole[: len(prompt)] == prompt else vocabulary.encode("house")
    assert vocabulary.decode(new) == "house"  # which is where it was lost
    assert continuation(vocabulary, prompt, new) == " house"
    assert streamed(vocabulary, prompt, new, 1)[0].startswith(" ")
    assert continuation(vocabulary, [], new) == "house"


@pytest.mark.parametrize("name", ["defaults", "llama", "bytes", "byte_level"])
def test_a_character_that_begins_in_the_prompt_is_given_whole(name):
    vocabulary = MAKERS[name]()
    ids = vocabulary.encode("a☃b")
    cut = next(i for i in range(len(ids)) if vocabulary.decode(ids[:i]).endswith("\ufffd"))
    assert continuation(vocabulary, ids[:cut], ids[cut:]) == "☃b"
    assert "".join(streamed(vocabulary, ids[:cut], ids[cut:], 1)) == "☃b"
    assert streamed(vocabulary, [], ids[:cut], 1)[-1] == "\ufffd"


def test_random_ids_stream_to_the_same_text(vocabulary):
    draw = random.Random(1)
    for _ in range(30):
        # Without raw bytes: of a whole run that is no UTF-8, `tokenizers` breaks the characters that were right, too.
        words = [i for i in range(3, vocabulary.size) if "\ufffd" not in vocabulary.decode([i])]
        ids = draw.choices(words, k=40)
        cut = draw.randrange(20)
        assert "".join(streamed(vocabulary, ids[:cut], ids[cut:], 1)) == continuation(vocabulary, ids[:cut], ids[cut:])


def test_an_unknown_piece_is_not_dropped():
    defaults, llama, word_piece = (MAKERS[name]() for name in ("no_fallback", "llama", "word_piece"))
    for vocabulary, unknown in ((defaults, "⁇"), (llama, "<unk>"), (word_piece, "[UNK]")):
        ids = vocabulary.encode("river house")
        assert unknown in vocabulary.decode([*ids, vocabulary.unk_id])
        assert unknown in continuation(vocabulary, ids, [vocabulary.unk_id])
        assert unknown in continuation(vocabulary, ids, [vocabulary.size + 5])
        assert unknown not in vocabulary.decode([*ids, vocabulary.eos_id])


def test_an_id_without_a_token_is_not_dropped():
    made = tokenizers.Tokenizer(models.WordLevel({"a": 1, "b": 5, "</s>": 6}, unk_token="a"))
    with_unknown = HuggingFaceVocabulary(made.to_str().encode())
    assert with_unknown.decode([1, 3, 5]) == "a a b"
    made = tokenizers.Tokenizer(models.BPE({"a": 1, "b": 5, "</s>": 6}, []))
    assert HuggingFaceVocabulary(made.to_str().encode()).decode([1, 3, 4, 5]) == "a\ufffd\ufffdb"
    assert continuation(load("bytes"), [], [load("bytes").size, 100]) == "\ufffda"


def test_a_stream_decodes_few_ids_at_a_time():
    vocabulary, seen = MAKERS["defaults"](), []

    class Counting:
        size, unk_id = vocabulary.size, vocabulary.unk_id

        def decode(self, ids):
            seen.append(len(ids))
            return vocabulary.decode(ids)

    prompt = vocabulary.encode(TEXTS[0])
    decoder = StreamingDecoder(Counting(), prompt)
    del seen[:]
    new = vocabulary.encode(" ".join(TEXTS[1:4]))
    text = "".join([*(decoder.push([i]) for i in new), decoder.finish()])
    assert text == continuation(vocabulary, prompt, new)
    assert max(seen) < 20
