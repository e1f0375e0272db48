"""A two-layer step compiled for TPUs that are not here: what it must be, and that breaking it is seen and named."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import product_shapes
import program_reader
import pytest
import tiny

from t5x_like import step as train_step
from t5x_like.__main__ import main
from t5x_like.errors import ExperimentError, UserError
from t5x_like.frontends import configdict
from t5x_like.kernels import splash
from t5x_like.models import sharded_linear as shared
from t5x_like.parallel import scatter, topologies
from t5x_like.preflight import build, prices, report, show

# The compiler for the absent TPU cannot read what JAX's cache holds of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*cache.*")

TOPOLOGY = topologies.parse("v5e:2x2")

MODEL = {
    "family": "llama",
    "vocab_size": 1280,
    "layers": 3,
    "embed": 512,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 128,
    "mlp": 768,
    "max_length": 256,
    "dtype": "bfloat16",
}


def experiment(model=None, rows=None, **parallelism):
    values = {
        "name": "small",
        "steps": 1000,
        "model": {**MODEL, **(model or {})},
        "data": {"sequence_length": 256, "batch_size": 8, "lanes": 8, **(rows or {})},
        "optimizer": {"name": "adamw"},
        "parallelism": {"fsdp": 4, "remat": "save_qkv_attention", **parallelism},
    }
    return tiny.from_flat(values)


@pytest.fixture(scope="module")
def built():
    return build.build(experiment(), TOPOLOGY)


@pytest.fixture(scope="module")
def figures(built):
    return report.report(built)


def test_the_state_is_split_donated_and_all_of_the_arguments(built, figures):
    chip = figures["per_chip"]
    parameters = figures["run"]["parameters"]
    assert parameters == 2 * 1280 * 512 + 3 * (4 * 512 * 512 + 3 * 512 * 768 + 2 * 512) + 512
    assert chip["parameters_bytes"] == pytest.approx(4 * parameters / 4, rel=0.01)  # norms are whole everywhere
    assert chip["optimizer_bytes"] == pytest.approx(2 * chip["parameters_bytes"], rel=0.01)
    assert chip["argument_bytes"] == pytest.approx(3 * chip["parameters_bytes"] + chip["batch_bytes"], rel=0.02)
    assert chip["alias_bytes"] == pytest.approx(chip["argument_bytes"] - chip["batch_bytes"], rel=0.01)
    assert figures["donation_complete"] and figures["fits"]
    assert chip["peak_bytes"] == chip["temp_bytes"] + chip["argument_bytes"] + (
        chip["output_bytes"] - chip["alias_bytes"]
    )
    assert chip["hbm_bytes"] - chip["peak_bytes"] == chip["free_bytes"]


def test_attention_is_a_kernel_that_runs_forward_once_a_layer(figures):
    assert figures["attention_kernel_calls_per_layer"] == 1
    assert [kernel["count"] for kernel in figures["kernels"]] == [3, 3]  # backward is one kernel
    assert not [tensor for tensor in figures["oversized_tensors"] if tensor["rule"] == "[length, length]"]


def test_what_is_computed_is_the_model_and_what_the_policy_recomputes(figures):
    assert 1.0 < figures["recompute_ratio"] < 4 / 3
    assert figures["ideal_step_seconds"] == pytest.approx(figures["run"]["flops"] / 1000 / 4 / 197e12)
    executed = figures["recompute_ratio"] * figures["run"]["flops"] / 1000 / 4
    assert executed == pytest.approx(product_shapes.executed_flops(experiment(), 4, rotations=2), rel=5e-3)


def test_the_estimate_is_the_sum_of_its_terms(figures):
    time = figures["time"]
    terms = time["scheduled_seconds"] + time["kernel_seconds"] + time["exposed_collective_seconds"]
    terms += time["collective_latency_seconds"]
    assert figures["estimated_step_seconds"] == pytest.approx(terms)
    assert all(seconds > 0 for seconds in (time["scheduled_seconds"], time["kernel_seconds"]))
    assert figures["estimated_over_ideal"] == pytest.approx(1 / figures["mfu_estimate"])
    assert figures["estimated_over_ideal"] > 1
    assert time["scheduled_over_ideal"] == pytest.approx(time["scheduled_seconds"] / figures["ideal_step_seconds"])


def test_another_reader_of_the_program_finds_the_same_cycles_and_collectives(built, figures):
    cycles = program_reader.cycles(built.text)
    assert cycles / TOPOLOGY.chip.tensor_core_hertz == pytest.approx(figures["time"]["scheduled_seconds"])
    moved = sum(program_reader.synchronous_wire_bytes(built.text, TOPOLOGY.size).values())
    kinds = ("all-gather", "all-reduce", "reduce-scatter")
    ours = [item for item in figures["collectives"] if item["kind"] in kinds and not item["async"]]
    wire = sum(item["bytes"] * (2 if item["kind"] == "all-reduce" else 1) * (1 - 1 / item["group"]) for item in ours)
    assert moved == pytest.approx(wire, rel=0.02)


def test_collectives_are_over_the_axis_that_shares_the_parameters(figures):
    large = [item for item in figures["collectives"] if item["bytes"] > 1 << 20]
    assert large and {item["axis"] for item in large} == {"fsdp"}
    gathers = sum(n for name, n in figures["collective_bytes"].items() if name.startswith("all-gather"))
    permutes = sum(n for name, n in figures["collective_bytes"].items() if name.startswith("collective-permute"))
    assert gathers + permutes > 2 * 3 * (4 * 512 * 512 + 3 * 512 * 768)  # each layer's parameters, in bfloat16
    assert {"kind", "axis", "bytes", "async"} <= set(figures["collectives"][0])


def test_the_run_is_its_steps_and_costs_by_the_table(figures, built, tmp_path):
    run = figures["run"]
    assert run["tokens"] == 1000 * 8 * 256
    assert run["days"] == pytest.approx(run["tokens"] / run["tokens_per_day"])
    assert run["chip_hours"] == pytest.approx(run["days"] * 24 * 4)
    assert run["cost"] == pytest.approx(run["chip_hours"] * 1.20)
    assert run["chinchilla_tokens"] == 20 * run["parameters"]
    assert run["tokens_over_chinchilla"] == pytest.approx(run["tokens_per_parameter"] / 20)
    table = json.loads(prices.TABLE.read_text())
    table["chips"]["v5e"]["dollars_per_hour"]["value"] = 2.40
    (tmp_path / "mine.json").write_text(json.dumps(table))
    assert report.report(built, str(tmp_path / "mine.json"))["run"]["cost"] == pytest.approx(2 * run["cost"])


def test_it_is_shown_and_compared(figures, capsys):
    show.show(figures)
    shown = capsys.readouterr().out
    assert "small on v5e:2x2" in shown
    assert "forward 1 × a layer" in shown
    show.compare(figures, {**figures, "recompute_ratio": 2 * figures["recompute_ratio"]}, ("A", "B"))
    assert "recompute_ratio" in capsys.readouterr().out
    show.compare(figures, figures, ("A", "B"))
    assert "the same" in capsys.readouterr().out


# --- Rules broken on purpose ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_attention_without_a_kernel_is_seen(monkeypatch):
    monkeypatch.setattr(splash.Splash, "supports", lambda self, spec: "is left out")
    found = report.report(build.build(experiment(model={"layers": 2}), TOPOLOGY))
    assert found["attention_kernel_calls_per_layer"] == 0
    assert any("[length, length]" in problem for problem in found["problems"])


@pytest.mark.slow
def test_a_kernel_that_remat_runs_again_is_seen():
    found = report.report(build.build(experiment(model={"layers": 2}, remat="full"), TOPOLOGY))
    assert found["attention_kernel_calls_per_layer"] == 2
    assert any("forward pass runs 2 times a layer" in problem for problem in found["problems"])


@pytest.mark.slow
def test_a_state_that_is_not_donated_is_seen(monkeypatch):
    made = build.compiled_step

    def kept(program):
        wrapped = made(program).__wrapped__
        state = program.abstract_state()
        places = jax.tree.map(lambda leaf: leaf.sharding, state)
        rows, whole = program.layout.sharding(("batch",)), program.layout.sharding(())
        return jax.jit(wrapped, in_shardings=(places, rows), out_shardings=(places, whole))

    monkeypatch.setattr(build, "compiled_step", kept)
    found = report.report(build.build(experiment(model={"layers": 2}), TOPOLOGY))
    assert found["per_chip"]["alias_bytes"] == 0
    assert any(problem.startswith("donation:") for problem in found["problems"])


@pytest.mark.slow
def test_gradients_of_copies_are_scattered_and_where_they_are_not_it_is_seen(monkeypatch):
    options = {"model": {"layers": 2}, "fsdp": 1, "strategy": "zero1"}
    good = report.report(build.build(experiment(**options), TOPOLOGY))
    parameters = good["run"]["parameters"]
    assert good["collective_bytes"]["reduce-scatter/sync"] > 0.9 * 2 * parameters  # in bfloat16
    assert not [problem for problem in good["problems"] if problem.startswith("gradients:")]

    def whole(program, tree):
        return jax.tree.map(lambda info, x: program.layout.constrain(x, info.axes), program.parameter_infos(), tree)

    monkeypatch.setattr(train_step, "_cut_as_state", whole)
    monkeypatch.setattr(shared, "gradient", lambda equation, left, right, axes: jnp.einsum(equation, left, right))
    broken = report.report(build.build(experiment(**options), TOPOLOGY))
    assert any(problem.startswith("gradients:") for problem in broken["problems"])


@pytest.mark.slow
def test_sums_of_tensor_parallelism_are_scattered_and_without_the_rule_whole():
    def sums(**options):
        found = report.report(build.build(experiment(model={"layers": 2}, fsdp=2, tensor=2, **options), TOPOLOGY))
        large = [item for item in found["collectives"] if item["axis"] == "tensor" and item["bytes"] > 1 << 20]
        totals = dict.fromkeys(("all-reduce", "reduce-scatter"), 0)
        return totals | {kind: sum(i["bytes"] for i in large if i["kind"] == kind) for kind in totals}

    ours, theirs = sums(strategy="fsdp_tp"), sums()
    assert theirs["reduce-scatter"] == 0 and ours["reduce-scatter"] > 0.8 * theirs["all-reduce"]
    assert ours["all-reduce"] < 0.15 * theirs["all-reduce"]  # the head's, once a step


@pytest.mark.slow
def test_transfers_that_nothing_hides_are_seen(built, figures):
    alone = built.lowered.compile({"xla_tpu_enable_async_collective_fusion": False})
    broken = report.report(dataclasses.replace(built, compiled=alone, text=alone.as_text()))
    assert broken["all_gather_overlap"] < 0.5 * figures["all_gather_overlap"]
    assert any(problem.startswith("overlap:") for problem in broken["problems"])


@pytest.mark.slow
def test_parameters_that_are_whole_everywhere_are_seen(monkeypatch):
    from t5x_like.parallel import layout

    monkeypatch.setattr(layout, "RULES", {**layout.RULES, "embed": ()})
    found = report.report(build.build(experiment(model={"layers": 2}), TOPOLOGY))
    assert any("[vocab, embed]" in problem for problem in found["problems"])
    parameters = found["run"]["parameters"]
    assert found["per_chip"]["parameters_bytes"] == 4 * parameters
    assert found["mesh"] == {"data": 1, "fsdp": 4, "stage": 1, "sequence": 1, "tensor": 1, "expert": 1}


# --- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"fsdp": 3}, "parallelism: data=-1 × fsdp=3"),
        ({"model": {"embed": 510}}, "parallelism.fsdp: 4 devices do not divide the 'embed' axis of"),
        ({"rows": {"batch_size": 6, "lanes": 2}}, "data.batch_size: 6 rows cannot be shared by 4 devices"),
        ({"microbatches": 4}, "8 rows in 4 microbatches cannot be shared by 4 devices; make it a multiple of 16"),
    ],
)
def test_what_does_not_divide_is_one_sentence(changes, sentence):
    with pytest.raises(ExperimentError) as error:
        build.build(experiment(**changes), TOPOLOGY)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--topology=v5x:2x2"], "there is no chip 'v5x'"),
        ([], "--topology is not given"),
        (["--topology=v5e:2x2", "--config.parallelism.fsdp=3"], "is not the 4 device(s) here"),
        (["--topology=v5e:2x2", "--search=0"], "--search: 0 is too small"),
        (["--compare", "README.md", "README.md"], "README.md is no report"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(arguments, sentence, capsys):
    config = [] if "--compare" in arguments else ["--config=configs/llama_1b.py"]
    assert main(["preflight", *config, *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, sentence",
    [("{", "is no JSON"), ("{}", "lacks or misspells 'chips'"), ('{"chips": {"v5": 1}}', "has no chip 'v5e'; did you")],
)
def test_a_table_of_prices_that_is_none_is_one_sentence(text, sentence, tmp_path):
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        prices.read("v5e", str(tmp_path / "prices.json"))


# --- Several slices, other chips, a real size -----------------------------------------------------------------------


@pytest.mark.slow
def test_between_slices_only_sharded_gradients_cross():
    found = report.report(build.build(experiment(model={"layers": 2}, data=2), topologies.parse("v5e:2x2", 2)))
    crossing = [item for item in found["collectives"] if item["axis"] == "data"]
    assert {item["kind"] for item in crossing} == {"all-reduce"} and {item["group"] for item in crossing} == {2}
    # A quarter of the gradients, in the computation's dtype or in float32; whole ones would be four times as many.
    share = found["run"]["parameters"] / 4
    assert 2 * share <= sum(item["bytes"] for item in crossing) <= 5 * share


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_every_chip_has_a_compiler(name):
    found = report.report(build.build(experiment(model={"layers": 2}), topologies.parse(name)))
    assert found["fits"] and found["attention_kernel_calls_per_layer"] == 1
    assert found["time"]["scheduled_seconds"] > 0


def test_llama_1b_on_16_chips_holds_no_whole_table_and_donates_all():
    sizes = {"model.decoder.layers": 2, "data.sequence_length": 1024, "data.batch_size": 64, "data.lanes": 64}
    flags = [f"--config.{name}={value}" for name, value in sizes.items()]
    found = report.report(build.build(configdict.load("configs/llama_1b.py", flags), topologies.parse("v5e:4x4")))
    assert found["oversized_tensors"] == [] and found["donation_complete"] and found["fits"]
    assert found["attention_kernel_calls_per_layer"] == 1
    assert found["recompute_ratio"] <= 1.13
    assert found["collective_bytes"].get("all-reduce/sync", 0) < 0.05 * 2 * found["run"]["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "remat, temp, recompute, over_ideal, gathered, calls",
    [("save_qkv_attention", 11.70, 1.176, 1.54, 26e9, 1), ("full", 3.9, 1.29, 1.63, 29.5e9, 2)],
)
def test_llama2_7b_on_256_chips_is_no_worse_than_recorded(remat, temp, recompute, over_ideal, gathered, calls):
    loaded = configdict.load("configs/llama2_7b.py", [f"--config.parallelism.remat={remat}"])
    found = report.report(build.build(loaded, topologies.parse("v5e:16x16")))
    chip, moved = found["per_chip"], found["collective_bytes"]
    assert chip["temp_bytes"] <= temp * 2**30 and chip["argument_bytes"] <= 0.30 * 2**30
    assert chip["peak_bytes"] <= 12.0 * 2**30
    assert chip["alias_bytes"] == pytest.approx(chip["argument_bytes"], rel=1e-3)
    assert found["recompute_ratio"] <= recompute
    assert found["time"]["scheduled_over_ideal"] <= over_ideal
    assert found["attention_kernel_calls_per_layer"] == calls
    assert found["all_gather_overlap"] >= 0.90
    assert moved["all-gather/async"] + moved["all-gather/sync"] <= gathered
    assert moved["all-reduce/sync"] <= 1e9 and moved["reduce-scatter/sync"] <= 14.5e9
    assert found["problems"] == [] if remat != "full" else len(found["problems"]) == 1


@pytest.mark.slow
def test_a_policy_that_keeps_more_computes_less_again():
    model, rows = {"layers": 8, "max_length": 1024}, {"sequence_length": 1024}
    policies = ("full", "save_attention", "save_qkv_attention", "save_dots", "none")
    found = [report.report(build.build(experiment(model, rows, remat=remat), TOPOLOGY)) for remat in policies]
    again = [figures["recompute_ratio"] for figures in found]
    kept = [figures["per_chip"]["temp_bytes"] for figures in found]
    assert again == sorted(again, reverse=True) and len(set(again)) == len(again)
    assert again[-1] < 1.05 and kept[0] < kept[2] < kept[3] < kept[4]
    assert [figures["attention_kernel_calls_per_layer"] for figures in found] == [2, 1, 1, 2, 1]


@pytest.mark.slow
def test_what_is_offloaded_is_in_the_hosts_memory_and_nothing_is_computed_again(capsys):
    model, rows = {"layers": 8, "max_length": 1024}, {"sequence_length": 1024}
    kept, away = (
        report.report(build.build(experiment(model, rows, remat=remat), TOPOLOGY))
        for remat in ("save_qkv_attention", "offload_qkv_attention")
    )
    qkv_and_mixed = 8 * (8 // 4) * 1024 * 4 * 512 * 2  # layers, rows, tokens, arrays, width, bytes
    assert kept["per_chip"]["host_bytes"] == 0
    assert away["per_chip"]["host_bytes"] == pytest.approx(qkv_and_mixed, rel=0.1)
    assert away["per_chip"]["temp_bytes"] < 0.8 * kept["per_chip"]["temp_bytes"]
    assert away["recompute_ratio"] == pytest.approx(kept["recompute_ratio"], rel=0.01)
    assert away["attention_kernel_calls_per_layer"] == 1
    show.show(away)
    assert "in its host's memory" in capsys.readouterr().out


@pytest.mark.slow
def test_gradients_that_are_summed_whole_are_seen(monkeypatch):
    monkeypatch.setattr(scatter, "stages", lambda mesh, axis: (mesh.shape[axis],))
    wide = {"data.batch_size": 256, "data.lanes": 256, "parallelism.fsdp": 64, "model.decoder.layers": 2}
    flags = [f"--config.{name}={value}" for name, value in wide.items()]
    loaded = configdict.load("configs/llama_1b.py", [*flags, "--config.data.sequence_length=512"])
    found = report.report(build.build(loaded, topologies.parse("v5e:8x8")))
    assert any(problem.startswith("gradients:") for problem in found["problems"])
