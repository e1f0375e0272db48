"""Speed and memory of `import` and `export`, on a folder with the shapes of a large Llama.

    python tools/bench_import.py --directory=/large/disk                # 2 layers of Llama 2 7B in bfloat16
    python tools/bench_import.py --directory=/large/disk --layers=32    # all of it: 13 GB, 27 GB as a checkpoint

Each command is a process of its own. Its time is held against that of reading the folder's files to their end, and,
since a checkpoint is float32, twice as large, against reading them and writing a file of as many bytes as the
checkpoint has. Before every measurement the files are put out of the page cache, where the system allows that. The peak
of a process is its largest resident set less what it takes to start, and is told in sizes of the largest tensor.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from t5x_like.interop import tensor_file

EMBED, HIDDEN, VOCABULARY, HEADS = 4096, 11008, 32000, 32
BLOCK = 16 << 20


def main() -> int:
    """Writes a folder, imports and exports it, and prints a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", required=True, metavar="DIR", help="emptied of what is made there at the end")
    parser.add_argument("--layers", type=int, default=2, metavar="N")
    parser.add_argument("--divide", type=int, default=1, metavar="N", help="of width, hidden units and vocabulary")
    options = parser.parse_args()
    here = Path(options.directory) / "bench_import"
    source, run, back = here / "source", here / "run", here / "back"
    shutil.rmtree(here, ignore_errors=True)
    try:
        # In a process of its own: what this one has held would count as its children's.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_folder, args=(source, options.layers, options.divide)
        )
        writer.start()
        writer.join()
        largest = VOCABULARY * EMBED * 2 // options.divide**2
        idle = peak([sys.executable, "-c", "import t5x_like.interop.importing"])[1]
        for name, command, reads in (
            ("import", ["import", "--from=hf", f"--path={source}", f"--output={run}"], source),
            ("export", ["export", "--to=hf", f"--checkpoint={run}", f"--output={back}"], run),
        ):
            forget(reads)
            reading = timed(lambda reads=reads: read_all(reads))
            forget(reads)
            seconds, most, busy = peak([sys.executable, "-m", "t5x_like", *command])
            written = size(run if name == "import" else back)
            copying = reading + timed(lambda written=written: write_bytes(here / "raw", written))
            print(
                json.dumps(
                    {
                        "what": name,
                        "layers": options.layers,
                        "bytes_read": size(reads),
                        "bytes_written": written,
                        "seconds": round(seconds, 2),
                        "processor_seconds": round(busy, 2),
                        "seconds_to_read": round(reading, 2),
                        "seconds_to_read_and_write": round(copying, 2),
                        "share_of_reading_speed": round(reading / seconds, 3),
                        "share_of_reading_and_writing_speed": round(copying / seconds, 3),
                        "largest_tensor_bytes": largest,
                        "peak_bytes": most - idle,
                        "peak_in_tensors": round((most - idle) / largest, 2),
                    }
                ),
                flush=True,
            )
    finally:
        shutil.rmtree(here, ignore_errors=True)
    return 0


def write_folder(path: Path, layers: int, divide: int = 1) -> None:
    """A Llama of 7B's shapes, or of a part of them, in bfloat16."""
    embed, hidden, vocabulary = EMBED // divide, HIDDEN // divide, VOCABULARY // divide
    path.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": embed,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": min(HEADS, embed // 2),
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }
    (path / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (vocabulary, embed), "lm_head.weight": (vocabulary, embed)}
    shapes["model.norm.weight"] = (embed,)
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (embed, embed) for part in "qkvo"}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (hidden, embed) for part in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj.weight"] = (embed, hidden)
        shapes |= {f"{name}.{part}_layernorm.weight": (embed,) for part in ("input", "post_attention")}
    dtype = np.dtype(ml_dtypes.bfloat16)
    noise = np.random.default_rng(0).standard_normal(vocabulary * embed, np.float32).astype(dtype)
    described = {key: (shape, dtype) for key, shape in shapes.items()}
    parts = list(tensor_file.shards(described))
    index = {}
    for number, part in enumerate(parts):
        file = f"model-{number + 1:05d}-of-{len(parts):05d}.safetensors"
        arrays = (noise[: int(np.prod(shape))].reshape(shape) for shape, _ in part.values())
        tensor_file.write(_epath(path / file), part, arrays)
        index |= dict.fromkeys(part, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def peak(command: list[str]) -> tuple[float, int, float]:
    """Of a process: seconds, the largest resident set in bytes, and seconds of processors."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"error: {' '.join(command)} ended with status {status}")
    most = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return time.perf_counter() - started, most, usage.ru_utime + usage.ru_stime


def timed(function: object) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    function()  # type: ignore[operator]
    return time.perf_counter() - started


def files(path: Path) -> list[Path]:
    """Every file below a directory."""
    return sorted(each for each in path.rglob("*") if each.is_file())


def size(path: Path) -> int:
    """The bytes of the files below a directory."""
    return sum(each.stat().st_size for each in files(path))


def read_all(path: Path) -> None:
    """Reads every file below a directory."""
    buffer = bytearray(BLOCK)
    for each in files(path):
        with each.open("rb", buffering=0) as reader:
            while reader.readinto(buffer):
                pass


def write_bytes(file: Path, count: int) -> None:
    """Writes a file of so many bytes, and removes it."""
    block = np.random.default_rng(0).bytes(BLOCK)
    with file.open("wb", buffering=0) as writer:
        for _ in range(-(-count // BLOCK)):
            writer.write(block)
    file.unlink()


def forget(path: Path) -> None:
    """Puts files out of the page cache."""
    os.sync()
    for each in files(path):
        with each.open("rb") as reader:
            os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _epath(path: Path) -> object:
    from etils import epath

    return epath.Path(path)


if __name__ == "__main__":
    sys.exit(main())
