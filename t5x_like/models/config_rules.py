"""Rules by which entries of a `config.json` are options of a model here, and the other way round."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from t5x_like.errors import UserError

Config = Mapping[str, Any]

_REQUIRED = object()


class ConfigRule(Protocol):
    """Some entries of a `config.json` as options here, and back."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The entries."""

    def read(self, config: Config) -> Mapping[str, Any]:
        """Options here by dotted path below `model`.

        Raises:
          UserError: for an entry with a value that no option here means.
        """

    def write(self, model: Any) -> Mapping[str, Any]:
        """The entries of a model's options.

        Raises:
          UserError: for an option that no value of the entries means.
        """


@dataclasses.dataclass(frozen=True)
class Field:
    """An entry that is an option here.

    Attributes:
      key: of the entry.
      option: its dotted path below `model`; or several that have the one value.
      default: what a file without the entry means, or a function of the others that says so; none where it must be
        given.
      values: from values there to values here, where they are others.
      null: the value here that is written as null: the library takes a cap of 0 for a cap, and null for none.
    """

    key: str
    option: str | tuple[str, ...]
    default: Any = _REQUIRED
    values: Mapping[Any, Any] | None = None
    null: Any = _REQUIRED

    @property
    def keys(self) -> tuple[str, ...]:
        """See `ConfigRule`."""
        return (self.key,)

    def read(self, config: Config) -> Mapping[str, Any]:
        """See `ConfigRule`."""
        value = config.get(self.key)
        if value is None:
            value = self.default(config) if callable(self.default) else self.default
        if value is _REQUIRED:
            raise UserError(f"config.json has no {self.key}; it must give one")
        if self.values is not None:
            if value not in self.values:
                raise UserError(_no_such(self.key, value, self.values))
            value = self.values[value]
        return dict.fromkeys(self._options, value)

    def write(self, model: Any) -> Mapping[str, Any]:
        """See `ConfigRule`."""
        value = option(model, self._options[0])
        if self.values is None:
            return {self.key: None if value == self.null else value}
        for theirs, ours in self.values.items():
            if ours == value:
                return {self.key: theirs}
        raise UserError(f"model.{self._options[0]}={value!r} has no {self.key} in Hugging Face's config.json")

    @property
    def _options(self) -> tuple[str, ...]:
        return (self.option,) if isinstance(self.option, str) else self.option


@dataclasses.dataclass(frozen=True)
class Fixed:
    """An entry that has one value in every model of the family that can be built here.

    Attributes:
      key: of the entry.
      value: its value, which is also what a file without it means.
      absent: what a file without it means, where that is another value: then it must be there.
    """

    key: str
    value: Any
    absent: Any = None

    @property
    def keys(self) -> tuple[str, ...]:
        """See `ConfigRule`."""
        return (self.key,)

    def read(self, config: Config) -> Mapping[str, Any]:
        """See `ConfigRule`."""
        value = config.get(self.key)
        value = (self.value if self.absent is None else self.absent) if value is None else value
        if value != self.value:
            raise UserError(_no_such(self.key, value, [self.value]))
        return {}

    def write(self, model: Any) -> Mapping[str, Any]:
        """See `ConfigRule`."""
        return {self.key: self.value}


@dataclasses.dataclass(frozen=True)
class Derived:
    """An option that has no entry, because it follows from others.

    Attributes:
      option: its dotted path below `model`; or several that have the one value.
      value: from the whole of a `config.json` to it.
    """

    option: str | tuple[str, ...]
    value: Callable[[Config], Any]

    @property
    def keys(self) -> tuple[str, ...]:
        """See `ConfigRule`."""
        return ()

    def read(self, config: Config) -> Mapping[str, Any]:
        """See `ConfigRule`."""
        options = (self.option,) if isinstance(self.option, str) else self.option
        return dict.fromkeys(options, self.value(config))

    def write(self, model: Any) -> Mapping[str, Any]:
        """See `ConfigRule`."""
        return {}


@dataclasses.dataclass(frozen=True)
class Translation:
    """Entries that mean options here only together, by two functions.

    Attributes:
      keys: of the entries.
      reader: from the whole of a `config.json` to options here by dotted path.
      writer: from a model's options to the entries.
    """

    keys: tuple[str, ...]
    reader: Callable[[Config], Mapping[str, Any]]
    writer: Callable[[Any], Mapping[str, Any]]

    def read(self, config: Config) -> Mapping[str, Any]:
        """See `ConfigRule`."""
        return self.reader(config)

    def write(self, model: Any) -> Mapping[str, Any]:
        """See `ConfigRule`."""
        return self.writer(model)


def option(model: Any, path: str) -> Any:
    """The option of a model at a dotted path."""
    for name in path.split("."):
        model = getattr(model, name)
    return model


def _no_such(key: str, value: Any, known: Iterable[Any]) -> str:
    there = " or ".join(f"{each!r}" for each in known)
    return f"config.json has {key}={value!r}, which no option here means; it must be {there}"
