"""Rules of a good step broken on purpose, each named by what reads the compiled program.

The programs are for eight devices of this host, which compile in seconds; `test_preflight` has the same for TPUs, of
what this host's compiler does not do: kernels, reduce-scatters, overlap.
"""

import jax
import pytest
import tiny

from t5x_like import step as train_step
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.parallel import topologies
from t5x_like.preflight import build, report

TOPOLOGY = topologies.parse("v5e:2x4")  # whose sizes the figures are compared with
VOCABULARY, EMBED = 320, 48

MODEL = {
    "family": "llama",
    "vocab_size": VOCABULARY,
    "layers": 3,
    "embed": EMBED,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 16,
    "mlp": 96,
    "max_length": 64,
}


def figures_of(model=None, optimizer="adamw", **parallelism):
    experiment = tiny.from_flat(
        {
            "model": {**MODEL, **(model or {})},
            "data": {"sequence_length": 64, "batch_size": 16, "lanes": 8},
            "optimizer": {"name": optimizer},
            "parallelism": parallelism,
        }
    )
    return report.report(build.build(experiment, TOPOLOGY, jax.devices()))


def named(figures):
    """The problems, without those that every program of this host's compiler has."""
    cannot = ("overlap:", "gradients:", "[length, length]")  # it hides and scatters nothing, and attention is no kernel
    return [problem for problem in figures["problems"] if not any(words in problem for words in cannot)]


def gathered(figures):
    """The shapes that come together from parts."""
    return {item["shape"] for item in figures["collectives"] if item["kind"] == "all-gather"}


def moved(figures, kind, axis):
    """Bytes that collectives of a kind move along an axis."""
    return sum(item["bytes"] for item in figures["collectives"] if (item["kind"], item["axis"]) == (kind, axis))


@pytest.fixture(scope="module")
def good():
    return figures_of(strategy="fsdp_tp", tensor=2)


def test_of_the_good_step_nothing_is_named(good):
    assert named(good) == [] and good["donation_complete"]
    state = 3 * 4 * good["run"]["parameters"]
    assert good["per_chip"]["argument_bytes"] < 1.1 * state / 8 + good["per_chip"]["batch_bytes"]


def test_a_table_that_is_whole_is_named(good):
    broken = figures_of(strategy="fsdp_tp", tensor=2, rules={"vocab": [], "act_vocab": []})
    whole = f"f32[{VOCABULARY},{EMBED}]"
    assert whole in gathered(broken) and whole not in gathered(good)
    assert named(broken) and all(f"{whole} holds a whole [vocab, embed]" in problem for problem in named(broken))
    assert broken["per_chip"]["argument_bytes"] > good["per_chip"]["argument_bytes"]


def test_a_lookup_that_asks_for_the_table_whole_is_named(monkeypatch):
    """Of a table that is cut by the very devices which are to share the rows, each would get all of it."""
    monkeypatch.setattr(stream, "gather_lookup", lambda x_btd: x_btd)
    assert any("[vocab, embed]" in problem for problem in named(figures_of(strategy="fsdp_tp", tensor=2)))


def test_parameters_without_their_rule_are_whole_in_the_figures(good):
    broken = figures_of(strategy="fsdp_tp", tensor=2, rules={"embed": []})
    ratio = {
        name: broken["per_chip"][name] / good["per_chip"][name] for name in ("parameters_bytes", "optimizer_bytes")
    }
    assert all(3.7 < times <= 4 for times in ratio.values())  # norms are whole either way
    assert moved(good, "all-gather", "fsdp") > 0 == moved(broken, "all-gather", "fsdp")


def test_a_state_that_is_not_donated_is_named(monkeypatch, good):
    made = build.compiled_step

    def kept(program):
        state = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state())
        rows, whole = program.layout.sharding(("batch",)), program.layout.sharding(())
        return jax.jit(made(program).__wrapped__, in_shardings=(state, rows), out_shardings=(state, whole))

    monkeypatch.setattr(build, "compiled_step", kept)
    broken = figures_of(strategy="fsdp_tp", tensor=2)
    assert good["per_chip"]["alias_bytes"] >= good["per_chip"]["output_bytes"] * 0.99
    assert broken["per_chip"]["alias_bytes"] == 0 and not broken["donation_complete"]
    assert named(broken) == ["donation: part of the state is copied and not written in place"]


def test_what_is_computed_twice_is_counted(good):
    broken = figures_of(strategy="fsdp_tp", tensor=2, remat="full")
    assert broken["recompute_ratio"] > 1.15 * good["recompute_ratio"]


def test_a_sum_over_microbatches_that_every_copy_has_whole_is_seen(monkeypatch):
    options = {"strategy": "zero1", "microbatches": 2, "optimizer": "sgd"}
    good = figures_of(**options)

    def whole(program, tree):
        return jax.tree.map(lambda info, x: program.layout.constrain(x, info.axes), program.parameter_infos(), tree)

    monkeypatch.setattr(train_step, "_cut_as_state", whole)
    broken = figures_of(**options)
    gradients = 4 * good["run"]["parameters"]
    assert broken["per_chip"]["temp_bytes"] - good["per_chip"]["temp_bytes"] > 0.6 * gradients * (1 - 1 / 8)


def test_experts_that_stay_where_the_tokens_are_are_seen():
    experts = {"experts": 4, "experts_per_token": 2}
    good = figures_of(experts, strategy="ep", expert=4)
    broken = figures_of(experts, strategy="ep", expert=4, rules={"expert": []})
    assert moved(good, "all-to-all", "expert") > 0 == moved(broken, "all-to-all", "expert")
    assert broken["per_chip"]["parameters_bytes"] > 2 * good["per_chip"]["parameters_bytes"]


def test_long_rows_that_are_not_shared_are_seen():
    good = figures_of(strategy="sp", sequence=4, remat="full")
    whole = {"length": [], "stream_length": [], "attention_heads": ["tensor"], "attention_kv": ["tensor"]}
    broken = figures_of(strategy="sp", sequence=4, remat="full", rules=whole)
    assert moved(good, "all-to-all", "sequence") > 0 == moved(broken, "all-to-all", "sequence")
    assert broken["per_chip"]["activations_bytes"] > 3 * good["per_chip"]["activations_bytes"]
