"""Cost of a run in money, energy and carbon dioxide, by a dated table that a user can replace."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t5x_like import registry
from t5x_like.errors import UserError

TABLE = Path(__file__).with_name("prices.json")


@dataclasses.dataclass(frozen=True)
class Prices:
    """The cost of an hour of one chip.

    Attributes:
      date: of the table.
      currency: of the price.
      price: an hour's.
      kilowatts: drawn, with the building's share.
      kg_co2_per_kwh: of the grid.
      sources: of each figure, by its name in the table.
    """

    date: str
    currency: str
    price: float
    kilowatts: float
    kg_co2_per_kwh: float
    sources: Mapping[str, str]

    def of(self, chip_hours: float) -> dict[str, Any]:
        """The cost of chip-hours: `cost` in `currency`, `energy_kwh`, `co2_kg`, and where the figures are from."""
        energy = chip_hours * self.kilowatts
        return {
            "cost": chip_hours * self.price,
            "currency": self.currency,
            "energy_kwh": energy,
            "co2_kg": energy * self.kg_co2_per_kwh,
            "prices_date": self.date,
            "prices_sources": dict(self.sources),
        }


def read(chip: str, path: str = "") -> Prices:
    """The prices of a chip.

    Args:
      chip: such as `v5e`.
      path: of a table like the package's own `prices.json`; that one by default.

    Raises:
      UserError: for a table that is not there, is no such table, or lacks the chip.
    """
    try:
        table = json.loads(Path(path or TABLE).read_text())
    except OSError as error:
        raise UserError(f"--prices: {path} cannot be read ({error.strerror}); give a file like {TABLE}") from error
    except ValueError as error:
        raise UserError(f"--prices: {path} is no JSON ({error}); give a file like {TABLE}") from error
    try:
        chips = table["chips"]
        if chip not in chips:
            raise UserError(f"--prices: {path or TABLE} has no chip {chip!r}; {registry.suggest(chip, chips)}")
        entries = {
            "dollars_per_hour": chips[chip]["dollars_per_hour"],
            "watts": chips[chip]["watts"],
            "power_usage_effectiveness": table["power_usage_effectiveness"],
            "kg_co2_per_kwh": table["kg_co2_per_kwh"],
        }
        values = {name: float(entry["value"]) for name, entry in entries.items()}
        return Prices(
            date=table["date"],
            currency=table["currency"],
            price=values["dollars_per_hour"],
            kilowatts=values["watts"] / 1000 * values["power_usage_effectiveness"],
            kg_co2_per_kwh=values["kg_co2_per_kwh"],
            sources={name: entry["source"] for name, entry in entries.items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"--prices: {path} lacks or misspells {error}; give a file like {TABLE}") from error
