"""Training a SentencePiece vocabulary that gives every text back as it was."""

import io
import random
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from t5x_like.data.sentencepiece_vocabulary import with_sentinels
from t5x_like.errors import UserError

MODEL_TYPES = ("unigram", "bpe")

# SentencePiece's trainer cuts off lines above `max_sentence_length` and looks for pieces line by line, so texts go in
# sentence by sentence; the space before a sentence stays with it, where a word in the middle of one has it, too.
_SENTENCE_START = re.compile(r"(?<=[.?!:;])(?=\s)")
_LONGEST_LINE = 4096  # characters


def train(
    texts: Iterable[str],
    *,
    size: int = 4096,
    model_type: str = "unigram",
    character_coverage: float = 0.9995,
    sentinels: int = 0,
    share: float = 1.0,
) -> bytes:
    """Trains a vocabulary: 0 padding, 1 end of text, 2 unknown, then 256 bytes for what no piece covers, then pieces.

    The text is taken as it is: no normalisation, no space added in front, none removed, so that decoding what was
    encoded gives the same text. (The one exception is U+2581, which SentencePiece writes spaces as.) The same texts
    give the same vocabulary.

    Args:
      texts: what it is fitted to.
      size: pieces in all, sentinels among them.
      model_type: `unigram` (Kudo 2018) or `bpe` (Sennrich et al. 2016).
      character_coverage: the share of all characters whose kinds get a piece each; the rarest are left to the bytes.
      sentinels: ids at the top for span corruption, the last being <extra_id_0>; no text becomes one.
      share: of the sentences that it is fitted to, drawn evenly: the time grows with the text, and the vocabulary of
        some tens of megabytes hardly changes with more.

    Returns:
      The content of a `.model` file.

    Raises:
      UserError: when the texts are too few for so many pieces, or the size leaves none.
    """
    if not 0 <= sentinels < size:
        raise UserError(f"--sentinels is {sentinels}; it must be at least 0 and below --vocab-size={size}")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts, share),
            model_writer=model,
            vocab_size=size - sentinels,
            model_type=model_type,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            byte_fallback=True,
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * _LONGEST_LINE + 1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(error, size, sentinels) from None
    return with_sentinels(model.getvalue(), sentinels, from_text=False)


def share_of_bytes(texts: Iterable[str], most_bytes: int) -> float:
    """The share of a corpus that is about so many bytes of UTF-8: at most 1, and that for 0 bytes too."""
    whole = sum(len(text.encode()) for text in texts) if most_bytes else 0
    return min(1.0, most_bytes / whole) if whole else 1.0


def _lines(texts: Iterable[str], share: float = 1.0) -> Iterator[str]:
    """A share of the sentences of the texts, always the same ones; what is longer than a line is cut."""
    draw = random.Random(0)
    for text in texts:
        for sentence in _SENTENCE_START.split(text):
            if share < 1 and draw.random() >= share:
                continue
            for start in range(0, len(sentence), _LONGEST_LINE):
                yield sentence[start : start + _LONGEST_LINE]


def _explained(error: RuntimeError, size: int, sentinels: int) -> UserError:
    """SentencePiece's complaint in a sentence; it knows nothing of the sentinels."""
    complaint = str(error)
    if "sentences_.empty()" in complaint:
        return UserError("a vocabulary cannot be trained on no text; give documents that are not empty")
    if found := re.search(r"too high .*value <= (\d+)", complaint):
        most = int(found[1]) + sentinels
        return UserError(f"--vocab-size: the text has too few words for {size} pieces; it must be at most {most}")
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", complaint):
        return UserError(
            f"--vocab-size: {size} pieces do not hold the text's characters; it must be at least"
            f" {int(found[1]) + sentinels}, or --character-coverage lower"
        )
    return UserError(f"a vocabulary of {size} pieces cannot be trained: {complaint}")
