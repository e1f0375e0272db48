"""What does not fit, and what is proposed instead."""

import pytest
import tiny

from t5x_like.parallel import topologies
from t5x_like.preflight import build, fit, search


def llama(size, batch, **parallelism):
    return tiny.from_flat(
        {
            "model": {"family": "llama", "size": size, "dtype": "bfloat16"},
            "data": {"sequence_length": 2048, "batch_size": batch, "lanes": 1},
            "optimizer": {"name": "adamw"},
            "parallelism": parallelism,
        }
    )


def refused(experiment, name, slices=1):
    with pytest.raises(fit.DoesNotFitError) as error:
        build.build(experiment, topologies.parse(name, slices))
    return error.value


def test_a_state_that_is_too_large_is_refused_before_anything_is_compiled():
    error = refused(llama("70b", 16, fsdp=16), "v5e:4x4")
    # Parameters, two moments and a gradient, float32, on 16 chips.
    assert error.missing_bytes == pytest.approx(68_976_648_192 * 16 / 16 - 15.75 * 2**30, rel=1e-3)
    assert f"by {error.missing_bytes:,} bytes" in str(error)


def test_copies_that_do_not_fit_are_told_to_be_split():
    error = refused(llama("1b", 16, data=16), "v5e:4x4")
    assert "--config.parallelism.data=1 --config.parallelism.fsdp=16" in str(error)


def test_a_model_that_fits_nowhere_on_the_slice_is_sent_to_a_larger_one():
    error = refused(llama("70b", 16, fsdp=16, remat="full"), "v5e:4x4")
    assert "--topology=v5e:" in str(error)


@pytest.mark.parametrize(
    "message, needed",
    [
        ("the total memory required for HLO temporaries (2.5G) exceeds available HBM (15.75G).", 1000 + 2.5 * 2**30),
        ("Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm. Exceeded", 20 * 2**30),
        ("something else", 0),
    ],
)
def test_what_the_compiler_says_it_needs(message, needed):
    assert build.needed_bytes(message, 1000) == needed


def test_a_shared_stream_is_estimated_alike_by_whichever_rule():
    def activations(**parallelism):
        experiment = fit.resolved(llama("1b", 256, tensor=4, remat="full", **parallelism), 16)
        return fit.estimate(experiment, 16, 13 * 10**9, 4 * 10**9).activations

    by_hand = activations(fsdp=4, rules={"stream_length": ["sequence", "tensor"]})
    assert by_hand == activations(strategy="fsdp_tp") == activations(fsdp=4) // 4


def test_a_proposal_expects_what_the_compiler_found():
    experiment = fit.resolved(llama("1b", 256, fsdp=16, remat="none"), 16)
    topology = topologies.parse("v5e:4x4")
    assert "remat=save_" in fit.proposal(experiment, topology, 13 * 10**9, 4 * 10**9)
    assert "remat=full" in fit.proposal(experiment, topology, 13 * 10**9, 4 * 10**9, compiled_over_guess=4.0)


def test_a_search_tries_what_may_fit_and_the_likely_fast_first():
    topology = topologies.parse("v5e:4x4")
    found = search.candidates(llama("1b", 64), topology)
    assert all(candidate.need <= topology.chip.usable_hbm_bytes for candidate in found)
    for candidate in found:
        p = candidate.experiment.parallelism
        assert p.data * p.fsdp * p.tensor == 16 and 64 % (p.data * p.fsdp * p.microbatches) == 0
    assert found[0].experiment.parallelism.microbatches == 1
    assert found[0].experiment.parallelism.tensor == 1
    assert "--config.parallelism.fsdp=" in found[0].flags
