"""`t5x_like serve`: an HTTP server of OpenAI's completions and chat endpoints, from a checkpoint."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "serve",
        help="answer requests over HTTP with a checkpoint",
        description="Serve OpenAI's completions and chat endpoints with a checkpoint's model, until it is stopped.",
        epilog="example: t5x_like serve --checkpoint=runs/a --port=8000",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or one step inside it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument(
        "--port", type=whole("--port", 0, 65535), default=8000, metavar="N", help="0 takes one that is free"
    )
    parser.add_argument("--name", default="", help="of the model in answers (default: the checkpoint's directory)")
    parser.add_argument(
        "--rows", type=whole("--rows", 1, 4096), default=16, metavar="N", help="texts written at once (default 16)"
    )
    parser.add_argument(
        "--queue", type=whole("--queue", 1), default=1024, metavar="N", help="texts that may wait (default 1024)"
    )
    parser.add_argument(
        "--context",
        type=whole("--context", 1),
        default=2048,
        metavar="N",
        help="tokens of a prompt with its continuation, at most the model's (default 2048)",
    )
    add_chat_template(parser)
    common.add_quantize(parser)
    common.add_modules(parser)


def add_chat_template(parser: argparse.ArgumentParser) -> None:
    """Adds `--chat-template`."""
    parser.add_argument(
        "--chat-template",
        default="",
        metavar="FILE",
        help="a tokenizer_config.json with a chat_template, or a file that is one (default: a line of ROLE: TEXT)",
    )


def template_of(path: str) -> Any:
    """The template that `--chat-template` names."""
    from t5x_like.data.sources import read_bytes
    from t5x_like.inference import chat

    return chat.from_file(read_bytes(path, "--chat-template").decode(), path) if path else chat.ChatTemplate()


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "serve")
    common.require_given("--checkpoint", options.checkpoint)
    try:
        import starlette as starlette
        import uvicorn as uvicorn
    except ModuleNotFoundError as error:
        raise UserError(f"serve needs {error.name}; pip install 't5x_like[serve]'") from None
    from t5x_like.inference.serving import app

    bound = app.listen(options.host, options.port)
    with bound:
        common.import_modules(options.module)
        from t5x_like.evaluation.restored import Restored

        template = template_of(options.chat_template)
        restored = Restored(options.checkpoint, quantize=options.quantize)
        chosen = app.ServerOptions(
            host=options.host,
            port=options.port,
            model=options.name or restored.path.parent.parent.name or "model",
            rows=options.rows,
            queue=options.queue,
            context=options.context,
        )
        service = app.Service(restored.text_generator(), restored.state, template, chosen)
        app.warm_up(service)
        app.serve(service, bound)
    return 0
