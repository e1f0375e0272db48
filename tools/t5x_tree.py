"""A table of what T5X's own gin files come to: `python tools/t5x_tree.py TREE [--json]`, where TREE holds `t5x/`.

Each of the core's files (configs/, examples/t5, decoder_only, scalable_t5) is taken as T5X ships it. What makes it a
run is put around it: a model's file before a run's, a run's after a model's, and both before one that overrides some
of their bindings. Macros that a user must give are given, and named in the table.
"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from t5x_like.errors import UserError
from t5x_like.frontends.gin.calls import PAGE, MissingMacroError
from t5x_like.frontends.gin.load import load

FOLDERS = ("configs", "examples/t5", "examples/decoder_only", "examples/scalable_t5")
MODEL = "t5x/examples/t5/t5_1_1/small.gin"
RUN = "t5x/configs/runs/pretrain.gin"
# What a user must give, in gin's spelling; FILES are those of a decoder, whose features are others.
MACROS = {
    "MODEL_DIR": "'/tmp/run'",
    "MIXTURE_OR_TASK_NAME": "'task'",
    "TRAIN_EVAL_MIXTURE_OR_TASK_NAME": "'other_task'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 512, 'targets': 114}",
    "FEATURE_LENGTHS": "{'inputs': 512, 'targets': 114}",
    "TRAIN_STEPS": "1000",
    "DROPOUT_RATE": "0.0",
    "INITIAL_CHECKPOINT_PATH": "'/tmp/checkpoint_1000000'",
    "CHECKPOINT_PATH": "'/tmp/checkpoint_1000000'",
    "EVAL_OUTPUT_DIR": "'/tmp/eval'",
    "INFER_OUTPUT_DIR": "'/tmp/infer'",
    "MODEL_OUTPUT_DIR": "'/tmp/export'",
    "MODEL_NAME": "'model'",
    "OUTPUT_FEATURES": "None",
    "TF_EXAMPLE_FILE_PATHS": "['/tmp/texts.tfrecord']",
    "TF_EXAMPLE_FILE_TYPE": "'tfrecord'",
    "VOCAB_SIZE": "256384",
}
DECODER_LENGTHS = "{'targets': 512}"
_MODES = {"eval_script.evaluate": "eval", "infer_script.infer": "infer", "export_lib.save": "export"}


class Row(NamedTuple):
    """One file of the tree: what it came to, the macros that were given, and the sentence of its error."""

    file: str
    result: str
    given: tuple[str, ...] = ()
    error: str = ""


def core(tree: Path) -> list[str]:
    """The core's gin files, as paths below the tree."""
    return sorted(
        path.relative_to(tree).as_posix() for folder in FOLDERS for path in (tree / "t5x" / folder).rglob("*.gin")
    )


def resolve(tree: Path, file: str) -> Row:
    """Resolves one file to an experiment."""
    text = _whole(tree, file)
    mode = next((mode for name, mode in _MODES.items() if name in text), "train")
    mode = "precompile" if "train_script.precompile" in text else mode
    has_run = mode != "train" or "model = %MODEL" in text
    has_model = re.search(r"^MODEL = ", text, re.MULTILINE) is not None
    files = [*([] if has_model else [MODEL]), *([] if has_run else [RUN]), file]
    files = [file, RUN] if has_model and not has_run else files
    given: dict[str, str] = {}
    while True:
        flags = [f"{name} = {value}" for name, value in given.items()]
        try:
            load(files, flags, [str(tree)], mode).experiment  # noqa: B018  the property builds it
            return Row(file, "resolved", tuple(given))
        except MissingMacroError as error:
            if error.name not in MACROS or error.name in given:
                return Row(file, "error", tuple(given), str(error))
            decoder = "DecoderOnlyModel" in text and error.name == "TASK_FEATURE_LENGTHS"
            given[error.name] = DECODER_LENGTHS if decoder else MACROS[error.name]
        except UserError as error:
            return Row(file, "error", tuple(given), str(error))
        except Exception as error:
            return Row(file, "traceback", tuple(given), f"{type(error).__name__}: {error}")


def _whole(tree: Path, file: str) -> str:
    """The text of a file with those that it includes, where they are there."""
    path = tree / file
    if not path.is_file():
        return ""
    text = path.read_text()
    included = re.findall(r"^include ['\"](.*)['\"]", text, re.MULTILINE)
    return "".join(_whole(tree, name) for name in included) + text


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; the exit status is 1 where a file ends in a traceback or in an error that names no line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, metavar="TREE", help="a copy of google-research/t5x")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    rows = [resolve(options.tree, file) for file in core(options.tree)]
    counts: Any = Counter(row.result for row in rows)
    if options.json:
        print(json.dumps({"counts": counts, "files": [row._asdict() for row in rows]}, indent=2))
    else:
        for row in rows:
            print(f"{row.result:10} {row.file}")
            print(f"{'':10} given: {', '.join(row.given) or 'nothing'}")
            if row.error:
                print(f"{'':10} {row.error}")
        print(f"{len(rows)} files: " + ", ".join(f"{count} {result}" for result, count in counts.most_common()))
    named = all(PAGE in row.error for row in rows if row.result == "error")
    return 0 if named and not counts["traceback"] else 1


if __name__ == "__main__":
    sys.exit(main())
