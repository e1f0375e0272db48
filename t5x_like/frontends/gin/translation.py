"""Translation of calls to fields of the experiment, with the record of what has become of every binding."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from t5x_like.errors import UserError
from t5x_like.frontends import pairs
from t5x_like.frontends.gin.calls import PAGE, Call


class Fate(NamedTuple):
    """The outcome of one binding: its place and name, and a sentence that says what it has become."""

    label: str
    text: str


class GinTranslation:
    """An experiment in the making.

    Attributes:
      values: its nested plain values so far.
      origins: where each dotted path was set, as the label of a binding.
      calls: those that were translated, in order.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.calls: list[Call] = []

    def set(self, path: str, value: Any, label: str = "") -> None:
        """Sets one field, or a section."""
        self.values = pairs.apply(self.values, [(path, value)])
        self.origins = {known: where for known, where in self.origins.items() if not known.startswith(f"{path}.")}
        if label:
            self.origins[path] = label

    def begin(self, call: Any, *names: str, of: Call | None = None, argument: str = "") -> Call:
        """`call`, to be translated, if it is of one of the classes or functions.

        Args:
          call: the value of an argument.
          names: full names that are understood there.
          of: the call that it is an argument of.
          argument: which one.

        Raises:
          UserError: when it is something else.
        """
        if not isinstance(call, Call) or call.name not in names:
            found = f"@{call.short}" if isinstance(call, Call) else repr(call)
            known = " or ".join(f"@{'.'.join(name.split('.')[-2:])}" for name in names)
            problem = f"{found} cannot be plugged in here; it must be {known} ({PAGE})"
            raise of.error(argument, problem) if of else UserError(problem)
        if call not in self.calls:
            self.calls.append(call)
        return call

    def field(self, call: Call, argument: str, path: str, value: Any = ...) -> None:
        """Translates an argument to one field, by default with its own value."""
        found = call[argument] if value is ... else value
        self.set(path, found, call.arguments[argument].label)
        call.fates[argument] = f"{path} = {found!r}"

    def note(self, call: Call, argument: str, text: str) -> None:
        """Says what has become of an argument that the caller has looked at."""
        call.fates[argument] = text

    def harmless(self, call: Call, reasons: Mapping[str, str]) -> None:
        """Arguments that change nothing here whatever their value is, each with the reason."""
        call.fates.update({argument: f"changes nothing: {reason}" for argument, reason in reasons.items()})

    def only(self, call: Call, accepted: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
        """Arguments that may have some values alone.

        Args:
          call: whose arguments.
          accepted: by argument, the values, a `Call` by its full name, and the reason why no other can be had.

        Raises:
          UserError: for another value.
        """
        for argument, (values, reason) in accepted.items():
            found = call[argument]
            plain = found.name if isinstance(found, Call) else found
            plain = tuple(plain) if isinstance(plain, list) else plain
            if not any(plain == known and type(plain) is type(known) for known in values):
                shown = f"@{found.short}" if isinstance(found, Call) else repr(found)
                raise call.error(argument, f"{shown} cannot be had: {reason} ({PAGE})")
            if isinstance(found, Call):
                self.begin(found, found.name)
                self.require_done(found)
            call.fates[argument] = f"as it is here: {reason}"

    def require_done(self, call: Call) -> None:
        """Raises UserError for an argument that a statement binds and no translation has looked at."""
        for argument, given in call.arguments.items():
            if given.bound and argument not in call.fates:
                raise call.error(argument, f"{call.short}.{argument} has no counterpart here; {PAGE} says what has")

    def finish(self) -> list[Fate]:
        """The fate of every binding.

        Raises:
          UserError: for one that has none.
        """
        fates = []
        for call in self.calls:
            self.require_done(call)
            fates += [Fate(call.arguments[name].label, text) for name, text in call.fates.items() if call.given(name)]
        return fates
