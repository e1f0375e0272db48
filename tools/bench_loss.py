"""Times the chunked cross-entropy against the plain one, loss and gradients, interleaved in one process.

    python tools/bench_loss.py                                  # 1,024 tokens, width 512, 262,144 pieces
    python tools/bench_loss.py --vocab=65536 --rounds=9

Prints the median seconds of each and their ratio. `plain` keeps all logits (`chunk=0`); `autodiff` is the same loss as
one would write it down, differentiated by JAX. Each round runs all of them, in an order that turns by one every round,
so that a busy machine slows all alike. Numbers of a machine that does something else are worth little: look at the
spread.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from t5x_like.distributed import startup

startup.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from t5x_like.losses.cross_entropy import auto_chunk, cross_entropy  # noqa: E402

Z_LOSS = 1e-4


def autodiff_loss(hidden_nd: jax.Array, table_vd: jax.Array, targets_n: jax.Array, weights_n: jax.Array) -> jax.Array:
    """The loss without any care for its gradient."""
    logits_nv = hidden_nd @ table_vd.T
    log_z_n = jax.nn.logsumexp(logits_nv, axis=-1)
    target_n = jnp.take_along_axis(logits_nv, targets_n[:, None], axis=1)[:, 0]
    return jnp.vdot(weights_n, log_z_n - target_n + Z_LOSS * log_z_n**2)


def chunked_loss(chunk: int) -> Callable[..., jax.Array]:
    """The package's loss with this `chunk`."""

    def loss(hidden_nd: jax.Array, table_vd: jax.Array, targets_n: jax.Array, weights_n: jax.Array) -> jax.Array:
        sums = cross_entropy(hidden_nd, table_vd, targets_n, weights_n, z_loss=Z_LOSS, chunk=chunk)
        return sums.loss + sums.z_loss

    return loss


def inputs(tokens: int, width: int, vocab: int) -> tuple[jax.Array, ...]:
    """Hidden states, a table, targets and weights."""
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (tokens, width)),
        jax.random.normal(keys[1], (vocab, width)) * width**-0.5,
        jax.random.randint(keys[2], (tokens,), 0, vocab),
        jnp.ones(tokens),
    )


def measure(functions: dict[str, Callable[..., Any]], arguments: tuple[jax.Array, ...], rounds: int) -> dict:
    """Wall seconds of each function, one number a round, printed as they come; a first run compiles."""
    for function in functions.values():
        jax.block_until_ready(function(*arguments))
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for round_number in range(rounds):
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            jax.block_until_ready(functions[name](*arguments))
            seconds[name].append(time.perf_counter() - start)
        print(f"round {round_number}:", *(f"{name} {times[-1]:.3f} s" for name, times in seconds.items()), flush=True)
    return seconds


def main() -> None:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=262_144)
    parser.add_argument("--chunk", type=int, default=0, help="0 is what auto_chunk says")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    chunk = options.chunk or auto_chunk(options.tokens, options.vocab)
    if not chunk:
        parser.error(f"{options.tokens} × {options.vocab} logits are few enough to be computed at once; give --chunk")
    losses = {"plain": chunked_loss(0), "chunked": chunked_loss(chunk), "autodiff": autodiff_loss}
    functions = {name: jax.jit(jax.value_and_grad(loss, argnums=(0, 1))) for name, loss in losses.items()}
    seconds = measure(functions, inputs(options.tokens, options.width, options.vocab), options.rounds)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{options.tokens} tokens, width {options.width}, {options.vocab} pieces, chunk {chunk}, {jax.devices()[0]}")
    for name, times in seconds.items():
        print(f"{name:10s} median {medians[name]:7.3f} s   from {min(times):.3f} to {max(times):.3f}")
    print(f"chunked / plain    {medians['chunked'] / medians['plain']:.3f}")
    print(f"chunked / autodiff {medians['chunked'] / medians['autodiff']:.3f}")


if __name__ == "__main__":
    main()
