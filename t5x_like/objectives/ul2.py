"""UL2's mixture of denoisers (Tay et al. 2022, section 3.1): seven ways to drop spans, told apart by a mode token."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from t5x_like.checks import require_one_of
from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Record
from t5x_like.objectives.prefix_lm import PrefixLM
from t5x_like.objectives.sequences import Lengths, without_end
from t5x_like.objectives.span_corruption import Sentinels, SpanCorruption

MODES = ("R", "S", "X")


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """One way to drop spans.

    Attributes:
      mode: R, regular; S, sequential; X, extreme.
      noise_density: share of the tokens that are dropped; None, for S alone, splits anywhere with equal chance.
      mean_span_length: tokens a span has on average; S has one span, at the end, and does not read it.
      weight: how often this one is drawn, relative to the others.
    """

    mode: str
    noise_density: float | None
    mean_span_length: float = 3.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_one_of(self, "mode", MODES)
        if self.noise_density is None and self.mode != "S":
            raise ExperimentError("noise_density", f"denoiser {self.mode} needs a share; only S splits anywhere")
        if not self.weight > 0:
            raise ExperimentError("weight", f"{self.weight} must be above 0; leave out a denoiser that is never drawn")


# Table 1 of the paper: mean span length µ and corruption rate r; S has µ = L/4 in one span.
DENOISERS = (
    Denoiser(mode="R", mean_span_length=3.0, noise_density=0.15),
    Denoiser(mode="R", mean_span_length=8.0, noise_density=0.15),
    Denoiser(mode="S", noise_density=0.25),
    Denoiser(mode="X", mean_span_length=3.0, noise_density=0.5),
    Denoiser(mode="X", mean_span_length=8.0, noise_density=0.5),
    Denoiser(mode="X", mean_span_length=64.0, noise_density=0.15),
    Denoiser(mode="X", mean_span_length=64.0, noise_density=0.5),
)


@dataclass(frozen=True, kw_only=True)
class MixtureOfDenoisers(Sentinels):
    """Options.

    Windows are as long as the denoiser that writes most still fits; a window is one example, across documents.

    Attributes:
      mode_ids: the tokens of the modes R, S and X, the first of every input.
      denoisers: what is drawn from, for each example anew.
    """

    name: str = "ul2"
    mode_ids: tuple[int, int, int]
    denoisers: tuple[Denoiser, ...] = DENOISERS

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mode_ids) != len(MODES):
            raise ExperimentError("mode_ids", f"{len(self.mode_ids)} tokens are given; R, S and X need one each")
        if not self.denoisers:
            raise ExperimentError("denoisers", "there is none to draw from; it must have at least one")
        for number, denoiser in enumerate(self.denoisers):
            try:
                self._corruption(denoiser)
            except ExperimentError as error:
                if error.where in ("noise_density", "mean_span_length"):
                    raise error.under(f"denoisers.{number}") from None
                raise ExperimentError("mode_ids" if error.where == "prefix" else error.where, error.problem) from None

    def pair(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Inputs and targets that one of the denoisers makes of a record."""
        return self(record["tokens"], rng)

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws a denoiser and applies it.

        Returns:
          `inputs` int32: mode token, text with sentinels, end; `targets` int32: sentinels with their spans, end; as
          `SpanCorruption`. Nothing of no tokens.

        Raises:
          ExperimentError: for a record with more spans than there are sentinels.
        """
        body = without_end(tokens, self.eos_id)
        return self.denoise(self.draw(rng), body, rng) if body.size else {}

    def draw(self, rng: np.random.Generator) -> int:
        """The number of one of the denoisers, by weight."""
        return int(np.searchsorted(self._shares, rng.random(), side="right"))

    def denoise(self, number: int, body: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The features that one denoiser makes of at least one token."""
        denoiser, corruption = self.denoisers[number], self.corruption(number)
        if denoiser.mode != "S":
            return corruption.encode(body, corruption.noise_mask(len(body), rng))
        if denoiser.noise_density is None:
            split = max(PrefixLM(eos_id=None).split(len(body), rng), 1)
        else:
            split = max(len(body), 2) - corruption.counts(len(body))[0]
        return corruption.encode(body, np.arange(len(body)) >= split)

    def lengths(self, tokens: int) -> Lengths:
        """The longest inputs and the longest targets that any of the denoisers makes of a record."""
        inputs, targets = [], []
        for number, denoiser in enumerate(self.denoisers):
            found = self.corruption(number).lengths(tokens)
            if denoiser.mode == "S":
                dropped = self.corruption(number).counts(tokens)[0]
                # A split anywhere leaves one token at least on either side.
                least, most = (1, tokens - 1) if denoiser.noise_density is None else (dropped, dropped)
                found = Lengths(tokens, tokens - least + 3, most + 2)
            inputs.append(found.inputs)
            targets.append(found.targets)
        return Lengths(tokens, max(inputs), max(targets))

    def corruption(self, number: int) -> SpanCorruption:
        """The options of one denoiser's span corruption, its mode token in front."""
        return self._corruptions[number]

    @functools.cached_property
    def _corruptions(self) -> tuple[SpanCorruption, ...]:
        return tuple(self._corruption(denoiser) for denoiser in self.denoisers)

    @functools.cached_property
    def _shares(self) -> np.ndarray:
        """The upper end of each denoiser's part of [0, 1)."""
        weights = np.array([denoiser.weight for denoiser in self.denoisers])
        shares = np.cumsum(weights) / weights.sum()
        shares[-1] = 1.0
        return shares

    def _corruption(self, denoiser: Denoiser) -> SpanCorruption:
        return SpanCorruption(
            vocab_size=self.vocab_size,
            eos_id=self.eos_id,
            noise_density=0.5 if denoiser.noise_density is None else denoiser.noise_density,
            mean_span_length=denoiser.mean_span_length,
            sentinels=self.sentinels,
            prefix=(self.mode_ids[MODES.index(denoiser.mode)],),
        )
