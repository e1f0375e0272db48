"""Reading of vocabularies from their files: SentencePiece models and Hugging Face tokenizers, and bytes without one."""

from t5x_like.data import byte_vocabulary, sources
from t5x_like.data.vocabulary import Vocabulary

BYTES = "bytes"  # how an experiment spells the vocabulary that needs no file


def load(path: str, where: str = "data.task.tokenizer", extra_ids: int = 0) -> Vocabulary:
    """The vocabulary at a path, on a disk, an object store or in the package, or the one called `bytes`.

    Args:
      path: a SentencePiece model (`package:sotu/vocabulary.model`), a Hugging Face `tokenizer.json`, or `bytes`.
      where: the field of the experiment that names it, for errors.
      extra_ids: sentinels to put on top of it.

    Raises:
      ExperimentError: at `where`, when it is missing or is no vocabulary.
    """
    if path == BYTES:
        return byte_vocabulary.ByteVocabulary(extra_ids)
    return read(sources.read_bytes(path, where), where, path, extra_ids)


def read(content: bytes, where: str, path: str, extra_ids: int = 0) -> Vocabulary:
    """The vocabulary in a file, whose kind the content tells; see `load`."""
    if not content.lstrip().startswith(b"{"):
        from t5x_like.data.sentencepiece_vocabulary import SentencePieceVocabulary

        return SentencePieceVocabulary(content, where, path, extra_ids)
    if (vocabulary := byte_vocabulary.read(content, where, path, extra_ids)) is not None:
        return vocabulary
    from t5x_like.data.huggingface_vocabulary import HuggingFaceVocabulary

    return HuggingFaceVocabulary(content, where, path, extra_ids)
