"""Parameter counts of every size of every model family, from the library that published them.

    python tools/golden_counts.py            # writes tests/golden/parameter_counts.json
    python tools/golden_counts.py bert t5    # counts these families anew and leaves the others

A count is that of the class that `config.json` names, built on PyTorch's meta device, so that nothing is allocated. It
needs the packages of the extra `parity`. `tests/models/families/test_parameter_counts.py` compares the models here.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from t5x_like import registry
from t5x_like.commands.models import architectures
from t5x_like.models.hugging_face import write_model

TABLE = Path(__file__).resolve().parents[1] / "tests" / "golden" / "parameter_counts.json"


def counted(config: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the library's model of a `config.json`, and which class of which version it is."""
    import torch
    import transformers

    kind = getattr(transformers, config["architectures"][0])
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(config))
        options = transformers.AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = kind(options)
    model.tie_weights()
    total = sum(parameter.numel() for parameter in model.parameters())
    inputs, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    # The library ties the head of every T5 until a file has another one.
    if config.get("tie_word_embeddings") is False and head is not None and head.weight is inputs:
        total += inputs.numel()
    return {"parameters": total, "source": f"transformers {transformers.__version__}, {kind.__name__}"}


def main() -> int:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    chosen = parser.parse_args().families
    table = json.loads(TABLE.read_text()) if TABLE.exists() and chosen else {}
    for family in chosen or registry.names("model"):
        preset = registry.load("model", family)
        if not isinstance(preset, registry.Preset) or preset.hugging_face is None:
            continue
        for model in architectures(family):
            table[f"{family} {model.size}"] = counted(write_model(model))
            print(f"{family} {model.size}: {table[f'{family} {model.size}']['parameters']:,}")
    TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
