"""`t5x_like chat`: a conversation with a checkpoint in the terminal."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common
from t5x_like.commands.serve import add_chat_template, template_of
from t5x_like.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "chat",
        help="talk with a checkpoint",
        description="Answer what is typed, a line at a time, with everything that was said before it. An empty line"
        " starts anew; the end of the input ends the program.",
        epilog="example: t5x_like chat --checkpoint=runs/a",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or one step inside it")
    parser.add_argument("--system", default="", metavar="TEXT", help="what the model is told first")
    common.add_sampling(parser, tokens=256, temperature=0.7, top_p=0.95)
    add_chat_template(parser)
    common.add_quantize(parser)
    common.add_modules(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "chat")
    common.require_given("--checkpoint", options.checkpoint)
    common.import_modules(options.module)
    from t5x_like.evaluation.restored import Restored

    answer = _answerer(options, Restored(options.checkpoint, quantize=options.quantize))
    start = [{"role": "system", "content": options.system}] if options.system else []
    messages, interactive = list(start), sys.stdin.isatty()
    while True:
        if interactive:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return 0
        said = {"role": "user", "content": line.rstrip("\n")}
        if not line.strip():
            messages = list(start)
            continue
        try:
            text = answer([*messages, said])
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            continue
        print(flush=True)
        messages += [said, {"role": "assistant", "content": text}]


def _answerer(options: argparse.Namespace, restored: Any) -> Any:
    """The function from messages to an answer, which is printed while it is written."""
    import jax

    template, sampling = template_of(options.chat_template), common.sampling(options)
    generate, key = restored.text_generator(), jax.random.key(options.seed)

    def answer(messages: Sequence[dict[str, str]]) -> str:
        prompt = template(messages)
        return generate(
            restored.state,
            [prompt],
            tokens=_room(generate, prompt, options.tokens),
            sampling=sampling,
            key=key,
            stops=options.stop,
            reader=lambda _, piece: print(piece, end="", flush=True),
        )[0]

    return answer


def _room(generate: Any, prompt: str, tokens: int) -> int:
    """How many tokens an answer may have.

    Raises:
      UserError: where the conversation has filled the model's length, or is no text.
    """
    from t5x_like.inference.prompts import require_text

    require_text([prompt])
    engine = generate.engine
    if engine.encoder:
        return tokens
    room = engine.max_length + 1 - len(generate.read(list(generate.vocabulary.encode(prompt))))
    if room < 1:
        raise UserError(
            f"the conversation is longer than the model's {engine.max_length} tokens; an empty line starts anew"
        )
    return min(tokens, room)
