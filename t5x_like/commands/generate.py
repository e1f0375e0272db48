"""`t5x_like generate`: texts continued with a checkpoint, many at once."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.checks import real, whole
from t5x_like.commands import common

if TYPE_CHECKING:
    from t5x_like.inference.sampling import Sampling
    from t5x_like.inference.search import BeamSearch


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "generate",
        help="continue texts with a checkpoint",
        description="Continue each prompt with the model of a checkpoint, all of them at once.",
        epilog='example: t5x_like generate --checkpoint=runs/a --prompt="Fellow citizens" --temperature=0.8',
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or one step inside it")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="a text to continue; may be repeated")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="a prompt a line: JSON lines (.jsonl: strings, or objects with the field prompt) or text; - is stdin",
    )
    common.add_sampling(parser, tokens=100, temperature=0.8, top_p=0.95)
    parser.add_argument(
        "--beams",
        type=whole("--beams", 0),
        default=0,
        metavar="N",
        help="search with N beams in place of sampling; 0 samples",
    )
    parser.add_argument(
        "--length-penalty",
        type=real("--length-penalty", 0, 10),
        default=0.6,
        metavar="A",
        help="of the beam search, the exponent of ((5 + length) / 6) (default 0.6)",
    )
    parser.add_argument(
        "--json-lines", action="store_true", help="print a JSON object a line on stdout, one for each prompt, in order"
    )
    common.add_modules(parser)
    common.add_json(parser)
    common.add_processes(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "generate")
    return common.run_processes(options, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from t5x_like.inference import prompts as files
    from t5x_like.inference.search import BeamSearch

    prompts = [*(options.prompt or ()), *(files.read(options.prompts) if options.prompts is not None else ())]
    sampling: Sampling | BeamSearch = common.sampling(options)
    if options.beams:
        sampling = BeamSearch(options.beams, options.length_penalty)
    return run_generate(
        options.checkpoint,
        prompts or [""],
        tokens=options.tokens,
        sampling=sampling,
        seed=options.seed,
        stops=options.stop,
        json_output=options.json,
        json_lines=options.json_lines,
        modules=options.module,
    )


def run_generate(
    checkpoint: str,
    prompts: Sequence[str],
    *,
    tokens: int = 100,
    sampling: "Sampling | BeamSearch | None" = None,
    seed: int = 0,
    stops: Sequence[str] = (),
    json_output: bool = False,
    json_lines: bool = False,
    modules: Sequence[str] = (),
) -> int:
    """Restores the model, continues every prompt and prints the texts.

    Args:
      checkpoint: a run's workdir, or one step inside it.
      prompts: one alone is continued on stdout while it is written.
      tokens: how many to write at most after each.
      sampling: how they are chosen, by default with temperature 0.8 and top-p 0.95, or the options of a beam search.
      seed: of the random choices.
      stops: texts that end a continuation, and are no part of it.
      json_output: prints one JSON object.
      json_lines: prints a JSON object a line.
      modules: imported first.

    Raises:
      UserError: for a prompt that is no text, before the checkpoint is read.
    """
    from t5x_like.inference.prompts import require_text
    from t5x_like.inference.sampling import Sampling

    require_text(prompts)
    common.import_modules(modules)
    from t5x_like.distributed.processes import is_first
    from t5x_like.evaluation.restored import Restored

    common.require_given("--checkpoint", checkpoint)
    restored = Restored(checkpoint)
    sampling = sampling or Sampling(temperature=0.8, top_p=0.95)
    whole = json_output or json_lines or len(prompts) > 1 or not is_first()

    def show(_: int, text: str) -> None:
        print(text, end="", flush=True)

    if not whole:
        show(0, prompts[0])
    reader = None if whole else show
    texts = restored.generate(prompts, tokens=tokens, sampling=sampling, seed=seed, stops=stops, reader=reader)
    if not is_first():
        return 0
    samples = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
    if json_lines:
        print("\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples))
    elif json_output:
        common.print_json({"checkpoint": str(restored.path), "step": restored.step, "samples": samples})
    else:
        print("\n\n".join(sample["prompt"] + sample["text"] for sample in samples) if whole else "")
    return 0
