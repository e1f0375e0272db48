"""`t5x_like data train-tokenizer`: a SentencePiece vocabulary from a corpus."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.checks import real, whole
from t5x_like.commands import common
from t5x_like.commands.data import corpus


def add_parser(actions: Any) -> None:
    """Describes the command's flags."""
    parser = actions.add_parser(
        "train-tokenizer",
        help="train a SentencePiece vocabulary on a corpus",
        description="Train a SentencePiece vocabulary with byte fallback on one split of a corpus, and write its .model"
        " file. The same corpus and flags give the same file.",
        epilog="example: t5x_like data train-tokenizer --input='corpus/*.jsonl.zst' --output=corpus/vocabulary.model",
        allow_abbrev=False,
    )
    corpus.add_flags(parser)
    parser.add_argument("--split", default="train", help="the split to train on (default train)")
    parser.add_argument(
        "--vocab-size", type=whole("--vocab-size", 1), default=4096, metavar="N", help="pieces in all (default 4096)"
    )
    parser.add_argument("--model-type", choices=("unigram", "bpe"), default="unigram", help="default unigram")
    parser.add_argument(
        "--character-coverage",
        type=real("--character-coverage", 0, 1),
        default=0.9995,
        metavar="SHARE",
        help="of all characters; the rarest kinds are spelled in bytes (default 0.9995)",
    )
    parser.add_argument(
        "--sentinels",
        type=whole("--sentinels", 0),
        default=0,
        metavar="N",
        help="of the pieces, to mark dropped spans: <extra_id_0> is the last, and T5 has 100 (default 0)",
    )
    parser.add_argument(
        "--sample-mb",
        type=real("--sample-mb", 0),
        default=50.0,
        metavar="MB",
        help="of a larger split, fit to sentences of about so many million bytes, drawn evenly; 0 for all (default 50)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the .model file to write")
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    from etils import epath

    from t5x_like.data import tokenizer
    from t5x_like.data.sentencepiece_vocabulary import SentencePieceVocabulary
    from t5x_like.errors import UserError

    output = epath.Path(options.output).expanduser()
    if output.exists():
        raise UserError(f"--output: there is a file {output} already; choose another name")
    if not options.character_coverage:
        raise UserError("--character-coverage is 0; it must be above 0 and at most 1")
    task = corpus.task(options, rest, "data train-tokenizer")
    model = tokenizer.train(
        task.texts(options.split),
        share=tokenizer.share_of_bytes(task.texts(options.split), int(options.sample_mb * 1e6)),
        size=options.vocab_size,
        model_type=options.model_type,
        character_coverage=options.character_coverage,
        sentinels=options.sentinels,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(model)
    vocabulary = SentencePieceVocabulary(model)
    found = {"vocabulary": str(output), "pieces": vocabulary.size, "sentinels": vocabulary.sentinels}
    found["sha256"] = vocabulary.digest
    found |= _measure(task.texts(options.split), vocabulary)
    if options.json:
        common.print_json(found)
    else:
        print(
            f"{output}: {found['pieces']:,} pieces, for {found['documents']:,} documents of {found['bytes']:,}"
            f" bytes, which take {found['bytes_per_token']:.3f} bytes a token"
        )
    return 0


def _measure(texts: Any, vocabulary: Any) -> dict[str, Any]:
    """Sizes of the texts in documents, bytes and tokens."""
    from t5x_like.data.tasks import tokenize

    documents = tokenize(texts, vocabulary)
    size, tokens = int(documents.byte_lengths.sum()), len(documents.tokens) - len(documents)
    return {"documents": len(documents), "bytes": size, "tokens": tokens, "bytes_per_token": size / max(tokens, 1)}
