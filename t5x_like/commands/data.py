"""`t5x_like data`: what is done to a corpus before training."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "data", help="prepare a corpus", description="Prepare a corpus for training.", allow_abbrev=False
    )
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    _add_train_tokenizer(actions)
    _add_clean(actions)


def _add_train_tokenizer(actions: Any) -> None:
    parser = actions.add_parser(
        "train-tokenizer",
        help="train a SentencePiece vocabulary on a corpus",
        description="Train a SentencePiece vocabulary with byte fallback on one split of a corpus, and write its .model"
        " file. The same corpus and flags give the same file.",
        epilog="example: t5x_like data train-tokenizer --input='corpus/*.jsonl.zst' --output=corpus/vocabulary.model",
        allow_abbrev=False,
    )
    corpus = parser.add_mutually_exclusive_group(required=True)
    corpus.add_argument("--input", metavar="PATH", help="a file or a glob of files in any format that data.task reads")
    corpus.add_argument("--task", metavar="NAME", help="a task that ships with the program, such as sotu")
    corpus.add_argument(
        "--config",
        metavar="FILE[:ARGUMENT]",
        help="an experiment whose data.task to read; --config.FIELD=VALUE overrides any of its fields",
    )
    parser.add_argument("--field", default="text", help="with --input: the key or column of the text (default text)")
    parser.add_argument("--split", default="train", help="the split to train on (default train)")
    parser.add_argument("--vocab-size", type=int, default=4096, metavar="N", help="pieces in all (default 4096)")
    parser.add_argument("--model-type", choices=("unigram", "bpe"), default="unigram", help="default unigram")
    parser.add_argument(
        "--character-coverage",
        type=float,
        default=0.9995,
        metavar="SHARE",
        help="of all characters; the rarest kinds are spelled in bytes (default 0.9995)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the .model file to write")
    common.add_modules(parser)
    common.add_json(parser)


def _add_clean(actions: Any) -> None:
    parser = actions.add_parser(
        "clean",
        help="drop and edit documents by rules, and count what each rule did",
        description="Clean a corpus by stages, one after the other, and count what each rule dropped and edited."
        " Stopped, it goes on where it was when it is started again. The result does not depend on --processes.",
        epilog="example: t5x_like data clean --input='corpus/*.jsonl.zst' --stages=c4,exact_duplicates --output=clean",
        allow_abbrev=False,
    )
    parser.add_argument("--input", required=True, metavar="PATH", help="a file or a glob of JSON lines")
    parser.add_argument("--field", default="text", help="the key of the text (default text)")
    parser.add_argument(
        "--stages",
        required=True,
        metavar="NAMES|FILE",
        help="names of stages with commas between them, or a .json file with a list of names and of objects with a"
        " name and options",
    )
    parser.add_argument("--output", required=True, metavar="DIRECTORY", help="where the documents and the counts go")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that work at the same time (default 1)")
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.import_modules(options.module)
    return _clean(options, rest) if options.action == "clean" else _train_tokenizer(options, rest)


def _clean(options: argparse.Namespace, rest: Sequence[str]) -> int:
    common.refuse(rest, "data clean")
    from pathlib import Path

    from t5x_like.data.cleaning.corpus import Corpus, clean_corpus
    from t5x_like.errors import UserError

    if options.processes < 1:
        raise UserError(f"--processes is {options.processes}; it must be at least 1")
    corpus = Corpus(path=options.input, field=options.field)
    counts = clean_corpus(corpus, _cleaner(options.stages), Path(options.output).expanduser(), options.processes)
    if options.json:
        common.print_json(counts.to_dict())
        return 0
    for stage in counts.stages:
        print(
            f"{stage.stage}: {stage.given.documents:,} of {stage.taken.documents:,} documents and"
            f" {stage.given.bytes:,} of {stage.taken.bytes:,} bytes are left"
        )
        for rule, amount in sorted(stage.dropped.items()):
            print(f"  dropped by {rule}: {amount.documents:,} ({amount.bytes:,} bytes)")
        for rule, edits in sorted(stage.edited.items()):
            print(f"  taken out by {rule}: {edits.pieces:,} (documents: {edits.documents:,})")
    print(f"{options.output}: the documents that are left, and counts.json")
    return 0


def _cleaner(stages: str) -> Any:
    """The stages that a flag gives by names or in a file.

    Raises:
      UserError: when there is no such file or stage, or an option cannot be.
    """
    import json

    from t5x_like.data import sources
    from t5x_like.data.cleaning.cleaner import Cleaner
    from t5x_like.errors import UserError

    if not stages.endswith(".json"):
        return Cleaner.of([name.strip() for name in stages.split(",")], "")
    try:
        values = json.loads(sources.read_bytes(stages, "--stages"))
    except ValueError as error:
        raise UserError(f"--stages: {stages} is not JSON: {error}") from None
    if not isinstance(values, list):
        raise UserError(f"--stages: {stages} holds {type(values).__name__}; it must be a list of stages")
    return Cleaner.of(values, "")


def _train_tokenizer(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from etils import epath

    from t5x_like.data import tokenizer
    from t5x_like.data.vocabulary import Vocabulary
    from t5x_like.errors import UserError

    output = epath.Path(options.output).expanduser()
    if output.exists():
        raise UserError(f"--output: there is a file {output} already; choose another name")
    if not 0 < options.character_coverage <= 1:
        raise UserError(f"--character-coverage is {options.character_coverage}; it must be above 0 and at most 1")
    task = _task(options, rest)
    model = tokenizer.train(
        task.texts(options.split),
        size=options.vocab_size,
        model_type=options.model_type,
        character_coverage=options.character_coverage,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(model)
    vocabulary = Vocabulary(model)
    found = {"vocabulary": str(output), "pieces": vocabulary.size, "sha256": vocabulary.digest}
    found |= _measure(task.texts(options.split), vocabulary)
    if options.json:
        common.print_json(found)
    else:
        print(
            f"{output}: {found['pieces']:,} pieces, trained on {found['documents']:,} documents of {found['bytes']:,}"
            f" bytes, which take {found['bytes_per_token']:.3f} bytes a token"
        )
    return 0


def _task(options: argparse.Namespace, rest: Sequence[str]) -> Any:
    """The task whose texts to read.

    Raises:
      UserError: when it is not a corpus of text.
    """
    from t5x_like.data.tasks import TextTask
    from t5x_like.errors import UserError
    from t5x_like.experiment import Data, section

    if options.config:
        from t5x_like.frontends import configdict

        task = configdict.load(options.config, rest).data.task
    else:
        common.refuse(rest, "data train-tokenizer")
        corpus = {"name": options.task} if options.task else {"path": options.input, "field": options.field}
        task = section(Data, {"task": {"name": "text", **corpus}}, "data").task
    if not isinstance(task, TextTask):
        raise UserError(f"data.task: {task.name!r} is no corpus of text; give --input=PATH")
    return task


def _measure(texts: Any, vocabulary: Any) -> dict[str, Any]:
    """How long the texts are in documents, bytes and tokens."""
    from t5x_like.data.tasks import tokenize

    documents = tokenize(texts, vocabulary)
    size, tokens = int(documents.byte_lengths.sum()), len(documents.tokens) - len(documents)
    return {"documents": len(documents), "bytes": size, "tokens": tokens, "bytes_per_token": size / max(tokens, 1)}
