"""The mixture of denoisers: each denoiser by itself, and how often it is drawn."""

import numpy as np
import pytest
from objectives.chances import assert_distribution, assert_share
from objectives.test_span_corruption import reconstruct

from t5x_like.errors import ExperimentError
from t5x_like.objectives.ul2 import DENOISERS, Denoiser, MixtureOfDenoisers

UL2 = MixtureOfDenoisers(vocab_size=1000, eos_id=1, mode_ids=(3, 4, 5))
LONG = MixtureOfDenoisers(vocab_size=200_000, eos_id=1, mode_ids=(3, 4, 5), sentinels=100_000)
MODE_IDS = {"R": 3, "S": 4, "X": 5}
TOKENS = np.arange(100, 300, dtype=np.int32)


def test_the_table_of_the_paper():
    """Table 1: (µ, r) of R, S and X; S has one span of a quarter."""
    table = [(d.mode, d.mean_span_length if d.mode != "S" else None, d.noise_density) for d in DENOISERS]
    assert table == [
        ("R", 3, 0.15),
        ("R", 8, 0.15),
        ("S", None, 0.25),
        ("X", 3, 0.5),
        ("X", 8, 0.5),
        ("X", 64, 0.15),
        ("X", 64, 0.5),
    ]


def test_golden_of_the_sequential_denoiser():
    features = UL2.denoise(2, np.arange(10, 18, dtype=np.int32), np.random.default_rng(0))
    assert features["inputs"].tolist() == [4, 10, 11, 12, 13, 14, 15, 999, 1]
    assert features["targets"].tolist() == [999, 16, 17, 1]


@pytest.mark.parametrize("number", range(7))
def test_each_denoiser_drops_its_share_in_spans_of_its_length(number):
    denoiser = DENOISERS[number]
    features = UL2.denoise(number, TOKENS, np.random.default_rng(number))
    inputs, targets = features["inputs"].tolist(), features["targets"].tolist()
    assert inputs[0] == MODE_IDS[denoiser.mode] and inputs[-1] == targets[-1] == 1
    spans = sum(token >= 900 for token in inputs)
    dropped = sum(100 <= token < 900 for token in targets)
    assert dropped == round(200 * denoiser.noise_density)
    assert spans == (1 if denoiser.mode == "S" else max(round(dropped / denoiser.mean_span_length), 1))
    assert reconstruct(features, UL2.corruption(number)) == TOKENS.tolist()


def test_a_denoiser_is_drawn_by_its_weight():
    rng = np.random.default_rng(0)
    assert_distribution(np.bincount([UL2.draw(rng) for _ in range(14_000)], minlength=7), np.ones(7))
    weighted = MixtureOfDenoisers(
        vocab_size=1000,
        eos_id=1,
        mode_ids=(3, 4, 5),
        denoisers=(Denoiser(mode="S", noise_density=0.25, weight=1), Denoiser(mode="R", noise_density=0.15, weight=4)),
    )
    modes = [weighted(TOKENS, rng)["inputs"][0] for _ in range(4000)]
    assert_share(modes.count(4), 4000, 0.2)
    assert modes.count(3) + modes.count(4) == 4000


def test_a_split_anywhere():
    anywhere = MixtureOfDenoisers(
        vocab_size=1000, eos_id=1, mode_ids=(3, 4, 5), denoisers=(Denoiser(mode="S", noise_density=None),)
    )
    rng, tokens = np.random.default_rng(1), np.arange(10, 16)
    drawn = [anywhere(tokens, rng) for _ in range(3000)]
    assert_distribution(np.bincount([len(f["targets"]) - 2 for f in drawn], minlength=6)[1:6], np.ones(5))
    assert all(reconstruct(f, anywhere.corruption(0)) == tokens.tolist() for f in drawn)
    assert max(len(f["inputs"]) for f in drawn) == anywhere.lengths(6).inputs
    assert max(len(f["targets"]) for f in drawn) == anywhere.lengths(6).targets
    assert anywhere(np.array([7]), rng)["inputs"].tolist() == [5 - 1, 7, 1]


@pytest.mark.parametrize("length", [1, 2, 3, 50, 512, 100_000])
def test_every_token_comes_back_and_no_feature_is_longer_than_said(length):
    tokens = np.random.default_rng(length).integers(10, 60_000, length)
    sizes = np.array(
        [
            [
                len(feature)
                for feature in LONG.denoise(number, tokens.astype(np.int32), np.random.default_rng(9)).values()
            ]
            for number in range(7)
        ]
    )
    if length > 1:
        assert LONG.lengths(length) == (length, *sizes.max(axis=0))
    rng = np.random.default_rng(8)
    for _ in range(10):
        assert reconstruct(LONG(tokens, rng), LONG.corruption(0)) == tokens.tolist()


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"mode_ids": (3, 4)}, "mode_ids: 2 tokens are given; R, S and X need one each"),
        ({"mode_ids": (3, 4, 950)}, "mode_ids: 950 must be at least 0 and below the sentinels"),
        ({"denoisers": ()}, "denoisers: there is none to draw from"),
        ({"eos_id": -1}, "eos_id: -1 must be at least 0"),
        ({"sentinels": 0}, "sentinels: 0 is too small"),
        (
            {"denoisers": (DENOISERS[0], Denoiser(mode="X", noise_density=1.5))},
            "denoisers.1.noise_density: 1.5 must be above 0 and below 1",
        ),
        (
            {"denoisers": (Denoiser(mode="X", noise_density=0.5, mean_span_length=0),)},
            "denoisers.0.mean_span_length: 0 is too small",
        ),
    ],
)
def test_an_option_that_cannot_be(options, sentence):
    with pytest.raises(ExperimentError) as error:
        MixtureOfDenoisers(**{"vocab_size": 1000, "eos_id": 1, "mode_ids": (3, 4, 5), **options})
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"mode": "r", "noise_density": 0.1}, "mode: 'r' is not known"),
        ({"mode": "X", "noise_density": None}, "noise_density: denoiser X needs a share; only S splits anywhere"),
        ({"mode": "R", "noise_density": 0.1, "weight": 0.0}, "weight: 0.0 must be above 0"),
    ],
)
def test_a_denoiser_that_cannot_be(options, sentence):
    with pytest.raises(ExperimentError) as error:
        Denoiser(**options)
    assert str(error.value).startswith(sentence)
