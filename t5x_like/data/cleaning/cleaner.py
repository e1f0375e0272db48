"""A sequence of cleaning stages."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from t5x_like.data import sources
from t5x_like.data.cleaning.base import AnyStage, CorpusStage, Outcome, Verdict
from t5x_like.data.cleaning.counts import Counts
from t5x_like.errors import ExperimentError, UserError
from t5x_like.sections import Choice, section


@dataclass(frozen=True, kw_only=True)
class Cleaner:
    """A list of stages, by name or as sections with a name: a part of an experiment.

    Each stage sees what the one before it let through. Put cheap stages before dear ones, and exact duplicates before
    near ones.

    Attributes:
      stages: in order.
    """

    stages: tuple[Annotated[AnyStage, Choice("cleaning", default="c4")], ...] = ()

    @classmethod
    def of(cls, stages: Sequence[str | Mapping[str, Any]], where: str = "cleaning") -> "Cleaner":
        """A cleaner from names and sections, such as `["c4", {"name": "language", "keep": ["en"]}]`.

        Raises:
          ExperimentError: for the first field that cannot be, by its path below `where`.
        """
        return section(cls, {"stages": list(stages)}, where)

    def counts(self) -> Counts:
        """Counts for these stages, all zero."""
        return Counts.of(stage.name for stage in self.stages)

    def corpus_stages(self) -> list[int]:
        """The places of the stages that must first have seen the whole corpus."""
        return [place for place, stage in enumerate(self.stages) if isinstance(stage, CorpusStage)]

    def clean(
        self, text: str, counts: Counts, number: int = 0, verdicts: Mapping[int, Verdict] | None = None, stop: int = -1
    ) -> Outcome:
        """Sends one document through the stages.

        Args:
          text: the document.
          counts: what `counts` gave; what happens is added.
          number: the document's number in the corpus.
          verdicts: of the corpus stages, by their places.
          stop: only the stages before this place; −1 for all.

        Returns:
          The outcome of the stage that dropped the document, or the text that is left; its `edits` are in `counts`.

        Raises:
          ExperimentError: for a corpus stage without a verdict.
        """
        for place, stage in enumerate(self.stages[: stop if stop >= 0 else None]):
            if not isinstance(stage, CorpusStage):
                outcome = stage.clean(text)
            elif verdicts is not None and place in verdicts:
                outcome = stage.apply(number, text, verdicts[place])
            else:
                raise ExperimentError(
                    f"stages[{place}]", f"{stage.name} must see the whole corpus first; use clean_corpus"
                )
            counts.stages[place].count(text, outcome)
            if outcome.text is None:
                return Outcome(None, outcome.rule)
            text = outcome.text
        return Outcome(text)

    def clean_many(self, texts: Iterable[str]) -> tuple[list[str], Counts]:
        """The documents that are left, looked at one by one, and counts of what the stages did."""
        counts = self.counts()
        outcomes = (self.clean(text, counts).text for text in texts)
        return [text for text in outcomes if text is not None], counts

    def require_single_documents(self, where: str) -> None:
        """Checks that no stage must see the whole corpus first.

        Raises:
          ExperimentError: at the first that must, below `where`.
        """
        for place in self.corpus_stages():
            name = self.stages[place].name
            raise ExperimentError(
                f"{where}[{place}]",
                f"{name} must see the whole corpus first, and training reads one document after the other; clean the"
                " corpus with t5x_like data prepare",
            )

    def fingerprint(self, where: str) -> dict[str, str]:
        """The same as `identity`, by the path below `where` of each stage and option."""
        found = {}
        for place, stage in enumerate(self.stages):
            found[f"{where}[{place}]"] = f"{stage.name} {stage.version()}"
            for option, value in dataclasses.asdict(stage).items():
                found[f"{where}[{place}].{option}"] = json.dumps(value)
        return found

    def identity(self) -> str:
        """JSON of everything about the stages that decides what they do."""
        versions = [stage.version() for stage in self.stages]
        return json.dumps([[dataclasses.asdict(stage) for stage in self.stages], versions])


def from_flag(stages: str) -> Cleaner:
    """The stages that a flag gives: names with commas between them, the name of a `.json` file, or none.

    Raises:
      UserError: when there is no such file or stage, or an option cannot be.
    """
    if not stages.lower().endswith(".json"):
        return Cleaner.of([name.strip() for name in stages.split(",")] if stages else [], "")
    try:
        values = json.loads(sources.read_bytes(stages, "--stages"))
    except ValueError as error:
        raise UserError(f"--stages: {stages} is not JSON: {error}") from None
    if not isinstance(values, list):
        raise UserError(f"--stages: {stages} holds {type(values).__name__}; it must be a list of stages")
    return Cleaner.of(values, "")
