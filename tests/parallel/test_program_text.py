"""The text of programs that libtpu compiles, with SparseCores and without."""

import jax
import jax.numpy as jnp
import pytest

from t5x_like.errors import UserError
from t5x_like.parallel import topologies
from t5x_like.parallel.compiled import hlo, loops, program_text

pytestmark = pytest.mark.filterwarnings("ignore:.*cache.*")


def lookup(name):
    """A table's rows, gathered on one chip: large enough for SparseCores to be asked."""
    (device,) = topologies.parse(name).devices()[:1]
    here = jax.sharding.SingleDeviceSharding(device)
    take = jax.jit(lambda table, ids: table.astype(jnp.bfloat16)[ids].sum(-1), in_shardings=here, out_shardings=here)
    table, ids = jax.ShapeDtypeStruct((32768, 1024), jnp.float32), jax.ShapeDtypeStruct((8, 2048), jnp.int32)
    return take.lower(table, ids)


def test_a_program_that_the_executable_does_not_give_back_is_read_from_the_compiler():
    chip = topologies.CHIPS["v6e"]
    compiled, text = program_text.compile_and_read(lookup("v6e:1x1"), chip)
    with pytest.raises(jax.errors.JaxRuntimeError, match="async-update"):
        compiled.as_text()
    module = hlo.parse(text)
    entry = module.computations[module.entry]
    assert "async-update" in {instruction.opcode for instruction in entry}
    assert sum(instruction.cycles for part in loops.scheduled(module) for instruction in part) > 0


def test_both_ways_to_a_text_give_the_same_program():
    lowered = lookup("v5e:1x1")
    chip = topologies.CHIPS["v5e"]
    assert not chip.sparse_cores
    _, given = program_text.compile_and_read(lowered, chip)
    _, written = program_text.compile_and_read(lowered, topologies.CHIPS["v6e"])
    one, other = hlo.parse(given), hlo.parse(written)
    assert [(i.name, i.opcode, i.cycles) for c in one.computations.values() for i in c] == [
        (i.name, i.opcode, i.cycles) for c in other.computations.values() for i in c
    ]


def test_a_compiler_that_writes_nothing_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="this libtpu does not write down what it compiles for v6e"):
        program_text._read(tmp_path, topologies.CHIPS["v6e"])
