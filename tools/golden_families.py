"""Golden logits, losses and gradients of model families, from the library that published them.

    python tools/golden_families.py              # writes all of tests/golden/families/
    python tools/golden_families.py llama t5     # two of them

It needs the packages of the extra `parity`, which `make .venv/installed-parity` installs. A new family begins as a file
`tests/golden/families/NAME.json` with a tiny `config` and a `length`; tests/models/families/cases.py says what else is
in it. `tests/models/families/test_families.py` compares the models here with what is written.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def _cases() -> Any:
    spec = importlib.util.spec_from_file_location("cases", ROOT / "tests/models/families/cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = _cases()


def library(case: dict[str, Any]) -> dict[str, Any]:
    """A case with what the library gives for it: `names`, `middle` and `expected`."""
    import torch

    torch.set_num_threads(1)
    model, names = built(case)
    lengths, rows = cases.rows(case)
    logits = forward(model, case["config"], rows, lengths)
    targets = torch.from_numpy(rows["targets"]).long()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    loss.backward()
    parameters = dict(model.named_parameters())
    table = model.get_input_embeddings().weight
    matrices = [
        name
        for name in names
        if name in parameters and parameters[name].ndim == 2 and min(parameters[name].shape) > 8
        if parameters[name] is not table and parameters[name].grad is not None and ".weight" in name
    ]
    middle = matrices[len(matrices) // 2]
    more = {"streams": _streams(model, rows)} if case["config"]["model_type"] == "xlnet" else {}
    expected = more | cases.summary(
        logits.detach().numpy(), loss.detach(), table.grad.numpy(), parameters[middle].grad.numpy(), lengths
    )
    return {**case, "names": names, "middle": middle, "expected": expected}


def built(case: dict[str, Any]) -> tuple[Any, list[str]]:
    """The library's model of a `config.json`, with the weights of `cases.weights`, and the keys of its files."""
    import safetensors.torch
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config, more = case["config"], case.get("more", {})
    kind = getattr(transformers, config["architectures"][0])
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(config))
        options = transformers.AutoConfig.from_pretrained(directory, attn_implementation="eager")
        # Saved once, so that names and shapes are those of files, which the library may join in memory.
        kind(options).save_pretrained(directory)
        file = Path(directory) / "model.safetensors"
        shapes = {key: tensor.shape for key, tensor in safetensors.torch.load_file(file).items()} | more
        values = {key: torch.from_numpy(cases.weights(key, tuple(shape))) for key, shape in shapes.items()}
        safetensors.torch.save_file(values, file, metadata={"format": "pt"})
        (Path(directory) / "config.json").write_text(json.dumps(config))
        model = kind.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32)
    # The library overwrites this of a T5, and umT5 then divides the logits of a head of its own.
    model.config.tie_word_embeddings = config.get("tie_word_embeddings", model.config.tie_word_embeddings)
    return model.eval(), sorted(shapes)


def forward(model: Any, config: dict[str, Any], rows: dict[str, Any], lengths: list[int]) -> Any:
    """The library's logits [rows, length, vocabulary] of padded rows."""
    import torch

    inputs = {name: torch.from_numpy(array).long() for name, array in rows.items()}
    mask = (inputs["targets"] >= 0).long()
    types = {"token_type_ids": inputs["types"]} if "types" in inputs else {}
    if "inputs" not in inputs:
        return _scores(model(input_ids=inputs["tokens"], attention_mask=mask, **types, use_cache=False))
    return model(
        input_ids=inputs["inputs"],
        attention_mask=(inputs["inputs"] > 0).long(),
        decoder_input_ids=inputs["tokens"],
        decoder_attention_mask=mask,
        use_cache=False,
    ).logits


def _scores(output: Any) -> Any:
    """Logits [rows, length, classes]: beside those of tokens those of the row's text, where there are both."""
    import torch

    for name in ("seq_relationship_logits", "sop_logits"):
        if name in output:
            pairs, tokens = output[name][:, None], output.prediction_logits
            return torch.cat([tokens, pairs.expand(-1, tokens.shape[1], -1)], -1)
    if output.logits.ndim == 2:  # ELECTRA: the one of a token for having been replaced
        return torch.stack([torch.zeros_like(output.logits), output.logits], -1)
    return output.logits


def _streams(model: Any, rows: dict[str, Any]) -> dict[str, Any]:
    """Of XLNet's first row: logits of its second stream, and of its second half with a memory of the first."""
    import torch

    tokens = torch.from_numpy(rows["tokens"][:1]).long()
    order = torch.from_numpy(cases.order(tokens.shape[1]))
    hidden = (order[:, None] <= order[None, :]).float()[None]  # of another row's token, and a token's own
    with torch.no_grad():
        queries = model(input_ids=tokens, perm_mask=hidden, target_mapping=torch.eye(tokens.shape[1])[None]).logits
        half = tokens.shape[1] // 2
        first = model(input_ids=tokens[:, :half], use_mems=True)
        second = model(input_ids=tokens[:, half:], mems=first.mems, use_mems=True).logits
    return {
        name: array[0, :, :5].numpy().astype(float).tolist()
        for name, array in (("queries", queries), ("memory", second))
    }


def main() -> int:
    """Writes the files that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    for name in parser.parse_args().names or cases.names():
        written = library(cases.read(name))
        (cases.DIRECTORY / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
        print(f"{name}: {len(written['names'])} tensors, loss {written['expected']['loss']:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
