"""`t5x_like generate`: continue texts with a checkpoint."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.checks import real, whole
from t5x_like.commands import common


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "generate",
        help="continue a text with a checkpoint",
        description="Continue each prompt with the model of a checkpoint.",
        epilog='example: t5x_like generate --checkpoint=runs/a --prompt="Fellow citizens" --temperature=0.8',
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or one step inside it")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="a text to continue; may be repeated")
    parser.add_argument(
        "--tokens", type=whole("--tokens", 1), default=100, metavar="N", help="new tokens at most (default 100)"
    )
    parser.add_argument(
        "--temperature",
        type=real("--temperature", 0),
        default=0.8,
        metavar="T",
        help="divides the logits; 0 is greedy (default 0.8)",
    )
    parser.add_argument(
        "--top-k", type=whole("--top-k", 0), default=0, metavar="K", help="keep the K likeliest tokens; 0 keeps all"
    )
    parser.add_argument(
        "--top-p",
        type=real("--top-p", 0, 1),
        default=0.95,
        metavar="P",
        help="keep the likeliest P of probability (default 0.95)",
    )
    parser.add_argument(
        "--seed", type=whole("--seed"), default=0, metavar="N", help="of the random choices (default 0)"
    )
    common.add_modules(parser)
    common.add_json(parser)
    common.add_processes(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "generate")
    return common.run_processes(
        options,
        lambda: run_generate(
            options.checkpoint,
            options.prompt or [""],
            tokens=options.tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            json_output=options.json,
            modules=options.module,
        ),
    )


def run_generate(
    checkpoint: str,
    prompts: Sequence[str],
    *,
    tokens: int = 100,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    seed: int = 0,
    json_output: bool = False,
    modules: Sequence[str] = (),
) -> int:
    """Restores the parameters, continues every prompt and prints the texts."""
    common.import_modules(modules)
    from t5x_like.distributed.processes import is_first
    from t5x_like.evaluation.restored import Restored

    common.require_given("--checkpoint", checkpoint)
    restored = Restored(checkpoint)
    texts = restored.generate(prompts, tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if not is_first():
        return 0
    if json_output:
        samples = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
        common.print_json({"checkpoint": str(restored.path), "step": restored.step, "samples": samples})
        return 0
    print("\n\n".join(prompt + text for prompt, text in zip(prompts, texts, strict=True)))
    return 0
