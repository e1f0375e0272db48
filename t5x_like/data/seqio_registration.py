"""Our tasks in SeqIO's registry, for programs that read through SeqIO."""

from typing import Any

from t5x_like.data import sources
from t5x_like.data.sentencepiece_vocabulary import SentencePieceVocabulary
from t5x_like.data.tasks import TextTask
from t5x_like.data.vocabulary_files import BYTES
from t5x_like.errors import UserError


def as_seqio(task: TextTask, name: str) -> Any:
    """Registers one of our tasks in `seqio.TaskRegistry`, with its splits and the one feature `targets`.

    SeqIO gets the tokens that our own path reads: its tokeniser sums scores in another order, and settles near ties
    differently. Its LM converter does not split what is longer than a row: a program that reads the task through SeqIO
    must.

    Args:
      task: the task.
      name: what SeqIO is to call it.

    Returns:
      The `seqio.Task`.

    Raises:
      UserError: when SeqIO has a task of this name.
    """
    import seqio
    import tensorflow as tf

    if name in seqio.TaskRegistry.names():
        raise UserError(f"SeqIO has a task {name!r} already; give as_seqio another name")

    def read(split: str, shuffle_files: bool = False, seed: int | None = None) -> Any:
        """The documents in corpus order; SeqIO shuffles examples, and there are no files to shuffle."""
        return tf.data.Dataset.from_generator(
            lambda: ({"targets": d.document(n)[:-1]} for d in task.open(split).shards for n in range(len(d))),
            output_signature={"targets": tf.TensorSpec((None,), tf.int32)},
        )

    vocabulary = _vocabulary_of(task)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=tuple(task.splits)),
        preprocessors=[seqio.preprocessors.append_eos],
        output_features={"targets": seqio.Feature(vocabulary, add_eos=True)},
    )


def _vocabulary_of(task: TextTask) -> Any:
    """SeqIO's own vocabulary where it has the kind, and otherwise one that passes ids through."""
    import seqio

    vocabulary = task.vocabulary()
    if task.tokenizer == BYTES:
        return seqio.ByteVocabulary(task.extra_ids)
    if isinstance(vocabulary, SentencePieceVocabulary):
        return seqio.SentencePieceVocabulary(str(sources.resolve(task.tokenizer)), task.extra_ids)
    return seqio.PassThroughVocabulary(vocabulary.size, vocabulary.eos_id)
