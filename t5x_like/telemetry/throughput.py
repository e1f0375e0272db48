"""Throughput of a run, from a clock alone: no device is asked, so measuring costs nothing."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True)
class Speed:
    """Work done in a span of training time, which leaves out the first step, evaluation and saving.

    Attributes:
      steps: steps finished.
      tokens: tokens in them.
      seconds: training time they took.
      waited: seconds of it spent waiting for a batch.
    """

    steps: int
    tokens: int
    seconds: float
    waited: float

    @property
    def steps_per_second(self) -> float:
        """Steps a second; 0 while nothing was measured."""
        return self.steps / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second; 0 while nothing was measured."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def data_wait_share(self) -> float:
        """The share of the time spent waiting for a batch, 0 to 1."""
        return self.waited / self.seconds if self.seconds > 0 else 0.0

    def __sub__(self, earlier: "Speed") -> "Speed":
        return Speed(
            steps=self.steps - earlier.steps,
            tokens=self.tokens - earlier.tokens,
            seconds=self.seconds - earlier.seconds,
            waited=self.waited - earlier.waited,
        )


class Phases:
    """The seconds of phases that follow each other.

    Attributes:
      seconds: of each phase that has ended, by name.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter):
        self.seconds: dict[str, float] = {}
        self._clock, self._began = clock, clock()

    def end(self, name: str) -> None:
        """Ends a phase, and begins the next."""
        began, self._began = self._began, self._clock()
        self.seconds[name] = self._began - began


class Throughput:
    """Counts steps and tokens against training time.

    Time starts when the first step of the process is done, since that one compiles. Devices run behind the program, so
    a rate is right over spans that end with a fetched result, such as the lines of a log.

    Args:
      clock: seconds from any fixed moment.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._started: float | None = None
        self._steps = 0
        self._tokens = 0
        self._waited = 0.0
        self._paused = 0.0
        self._pauses = 0
        self._reported = Speed(steps=0, tokens=0, seconds=0.0, waited=0.0)

    def step_done(self, tokens: int) -> None:
        """Counts one step with `tokens` tokens over all hosts; the first one only starts the time."""
        if self._started is None:
            self._started = self._clock()
            self._waited = self._paused = 0.0
        else:
            self._steps += 1
            self._tokens += tokens

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around asking for the next batch: the time counts as training time, and as waiting."""
        begin = self._clock()
        try:
            yield
        finally:
            if not self._pauses:
                self._waited += self._clock() - begin

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around evaluation or saving: the time does not count. Pauses may be nested."""
        begin = self._clock()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._paused += self._clock() - begin

    def overall(self) -> Speed:
        """Since the first step of the process."""
        if self._started is None:
            return Speed(steps=0, tokens=0, seconds=0.0, waited=0.0)
        seconds = self._clock() - self._started - self._paused
        return Speed(steps=self._steps, tokens=self._tokens, seconds=seconds, waited=self._waited)

    def since_last(self) -> Speed:
        """Since this was last called, or since the first step."""
        overall = self.overall()
        span, self._reported = overall - self._reported, overall
        return span
