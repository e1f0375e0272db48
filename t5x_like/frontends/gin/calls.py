"""Evaluation of gin statements: names, scopes, macros and references become a tree of calls with their arguments.

Nothing is looked up in a registry of Python objects and nothing is run: a class or function of T5X, SeqIO or optax is
its name and its signature (`signatures`). Statements count in their order, and the last to a name wins, `REQUIRED`
included, as in gin.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from t5x_like import registry
from t5x_like.errors import UserError
from t5x_like.experiment import Experiment
from t5x_like.frontends.gin.signatures import MAIN, NETWORKS, SIGNATURES, SYNONYMS
from t5x_like.frontends.gin.statements import REQUIRED, Binding, Import, Macro, Reference, Statement

SECTIONS = tuple(field.name for field in fields(Experiment))
PAGE = "docs/from-t5x.md"
# Packages of which gin files import modules whose names are known here; others are the user's own, and are imported.
KNOWN_PACKAGES = ("__gin__", "__main__", "gin", "t5x", "seqio", "optax", "t5x_like", "airio")
_DEFAULT = "T5X's default"


class MissingMacroError(UserError):
    """A macro that must be given and is not.

    Attributes:
      name: of the macro.
    """

    def __init__(self, name: str, sentence: str):
        super().__init__(sentence)
        self.name = name


@dataclass(frozen=True)
class Argument:
    """One argument of a call.

    Attributes:
      value: plain, or a `Call`, or lists and dictionaries of those.
      label: where it is bound and what it is called, for errors; T5X's default where nothing binds it.
      bound: whether a statement binds it.
    """

    value: Any
    label: str
    bound: bool


@dataclass
class Call:
    """A class or function with the arguments that gin would give it.

    Attributes:
      name: its full name, such as `t5x.utils.DatasetConfig`.
      scope: the scope of the reference, such as `train`; empty for none.
      label: where it is referred to, for errors.
      arguments: by name, those of its signature.
      fates: what has become of each argument, by name; `translation` fills it in.
    """

    name: str
    scope: str
    label: str
    arguments: Mapping[str, Argument]
    fates: dict[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The name as a gin file writes it: `train/utils.DatasetConfig`."""
        scope = f"{self.scope}/" if self.scope else ""
        return scope + ".".join(self.name.split(".")[-2:])

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument].value

    def given(self, argument: str) -> bool:
        """Whether a statement binds the argument."""
        return self.arguments[argument].bound

    def error(self, argument: str, problem: str) -> UserError:
        """The error about one argument, which names the line that binds it."""
        return UserError(f"{self.arguments[argument].label}: {problem}")


class Bindings:
    """All statements of some gin files and flags.

    Attributes:
      own: the bindings to paths of the experiment, such as `optimizer.learning_rate`, in order, values resolved.
      modules: the modules of the user's own that the files import, and where each is imported.
    """

    def __init__(self, statements: Sequence[Statement]) -> None:
        """Sorts the statements by what they bind.

        Raises:
          UserError: for a name that nothing stands for, or a macro that nothing uses.
        """
        self._aliases: dict[str, str] = {}
        self._macros: dict[str, list[Binding]] = {}
        self._bound: dict[tuple[str, str, str], Binding] = {}
        self._calls: dict[tuple[str, str], Call] = {}
        self._open: list[tuple[str, str]] = []
        self.modules = _modules(statements)
        own = []
        for statement in statements:
            if isinstance(statement, Import):
                plain = statement.alias == statement.module.partition(".")[0]  # `import a.b` binds a
                self._aliases[statement.alias] = statement.alias if plain else statement.module
            elif not statement.scope and statement.selector.partition(".")[0] in SECTIONS:
                own.append(statement)
            elif not statement.argument:
                self._macros.setdefault(statement.name, []).append(statement)
            else:
                name = self.full_name(statement.selector, statement.label)
                if statement.argument not in SIGNATURES[name]:
                    known = (
                        registry.suggest(statement.argument, SIGNATURES[name]) if SIGNATURES[name] else "it has none"
                    )
                    raise UserError(f"{statement.label}: {name} has no such argument that is understood; {known}")
                self._bound[statement.scope, name, statement.argument] = statement
        self._own = own
        self._uses = {leaf.name for s in statements if isinstance(s, Binding) for leaf in leaves(s.value, Macro)}

    @property
    def own(self) -> list[tuple[Binding, Any]]:
        """The bindings to paths of the experiment, in order, with their values."""
        return [(binding, self.plain(binding)) for binding in self._own]

    def binds(self, name: str) -> bool:
        """Whether a statement binds an argument of the class or function, in whatever scope."""
        return any(bound == name for _, bound, _ in self._bound)

    def macro(self, name: str, default: Any = None) -> Any:
        """A macro's value, counted as used; `default` where nothing sets it."""
        self._uses.add(name)
        return self._macro(Macro(name), f"%{name}", "") if name in self._macros else default

    def call(self, name: str, scope: str = "", label: str = "", *, called: bool = True) -> Call:
        """The call of a class or function in a scope; one that is not called yet may be given the rest when it is.

        Raises:
          UserError: for an argument that must be given and is not, or that refers to itself.
        """
        key = scope, name
        if key in self._open:
            raise UserError(f"{label}: @{name} refers to itself")
        if key not in self._calls:
            self._open.append(key)
            arguments = {argument: self._argument(scope, name, argument, called) for argument in SIGNATURES[name]}
            self._open.pop()
            self._calls[key] = Call(name, scope, label, arguments)
        return self._calls[key]

    def unreached(self) -> list[Binding]:
        """The bindings to classes and functions that no call has looked at."""
        reached = {(scope, name) for scope, name in self._calls}
        return [b for (scope, name, _), b in self._bound.items() if not _in_reach(scope, name, reached)]

    def unused_macros(self) -> list[Binding]:
        """The last definition of each macro that nothing asks for."""
        return [definitions[-1] for name, definitions in self._macros.items() if name not in self._uses]

    def used_macros(self) -> set[str]:
        """The names of macros that some binding asks for, in effect or not."""
        return self._uses

    def full_name(self, selector: str, label: str) -> str:
        """The key of `SIGNATURES` that a selector means: by the file's imports, else by its last parts.

        Raises:
          UserError: when nothing here stands for it.
        """
        alias, _, rest = selector.partition(".")
        module = self._aliases.get(alias, "")
        candidates = [f"{module}.{rest}"] if module and module != "__main__" and rest else []
        if module == "__main__" or alias == "__main__":
            candidates = [f"{program}.{rest}" for program in MAIN]
        for candidate in [*candidates, selector]:
            name = _canonical(candidate)
            if name in SIGNATURES:
                return name
        if candidates and module != "__main__" and not module.startswith(("t5x.", "t5x")):
            raise UserError(f"{label}: {_strange(candidates[0])}")
        if not candidates or module == "__main__":
            found = [name for name in (*SIGNATURES, *SYNONYMS) if name.endswith(f".{selector}")]
            if found:
                return _canonical(found[0])
        raise UserError(f"{label}: {_strange(candidates[0] if candidates else selector)}")

    def plain(self, binding: Binding) -> Any:
        """The value of a binding to a path of the experiment, macros replaced.

        Raises:
          UserError: for a value that refers to something that can be called.
        """
        value = self._value(binding.value, binding.label, "", binding.name)
        if found := next(leaves(value, Call), None):
            raise UserError(f"{binding.label}: @{found.name} cannot be called here; give the plain value")
        return value

    def _argument(self, scope: str, name: str, argument: str, called: bool) -> Argument:
        """The argument by the innermost scope that binds it."""
        parts = scope.split("/") if scope else []
        for depth in range(len(parts), -1, -1):
            binding = self._bound.get(("/".join(parts[:depth]), name, argument))
            if binding is not None:
                value = self._value(binding.value, binding.label, scope, f"{binding.selector}.{argument}")
                return Argument(value, binding.label, True)
        short = ".".join(name.split(".")[-2:])
        default = SIGNATURES[name][argument]
        if default == REQUIRED and not called:
            return Argument(None, f"{short}.{argument} (of its caller)", False)
        if default == REQUIRED:
            raise UserError(f"{short}.{argument} is not bound; bind it, as T5X's own files do")
        return Argument(self._value(default, _DEFAULT, scope, argument), f"{short}.{argument} ({_DEFAULT})", False)

    def _value(self, value: Any, label: str, scope: str, name: str) -> Any:
        if isinstance(value, dict):
            return {key: self._value(item, label, scope, name) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._value(item, label, scope, name) for item in value)
        if value == REQUIRED:
            raise MissingMacroError(name, f"{label}: it must be given; set it with --gin.{name}=VALUE")
        if isinstance(value, Macro):
            return self._macro(value, label, scope)
        if isinstance(value, Reference):
            inner, _, selector = value.name.rpartition("/")
            found = f"{scope}/{inner}" if scope and inner else inner or scope
            return self.call(self.full_name(selector, label), found, label, called=value.called)
        return value

    def _macro(self, macro: Macro, label: str, scope: str) -> Any:
        if macro.name not in self._macros:
            hint = f"set it with --gin.{macro.name}=VALUE"
            if macro.name == "MODEL":
                hint = "give a model's file before the run's, such as --gin_file=t5x/examples/t5/t5_1_1/base.gin"
            raise MissingMacroError(macro.name, f"{label}: nothing sets %{macro.name}; {hint}")
        key = "", f"%{macro.name}"
        if key in self._open:
            raise UserError(f"{label}: %{macro.name} stands for itself")
        *before, last = self._macros[macro.name]
        if last.value == REQUIRED:
            hint = f"set it with --gin.{macro.name}=VALUE"
            if set_before := [b for b in before if b.value != REQUIRED]:
                hint += f", or after this line: {set_before[-1].where}, which sets it, comes before"
            raise MissingMacroError(macro.name, f"{last.label}: it must be given; {hint}")
        self._open.append(key)
        value = self._value(last.value, last.label, scope, last.name)
        self._open.pop()
        return value


def leaves(value: Any, kind: type) -> Iterator[Any]:
    """What a value holds of some kind, inside its lists and dictionaries."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item, kind)
    elif isinstance(value, kind):
        yield value


def _canonical(name: str) -> str:
    module, _, rest = name.rpartition(".")
    if module in NETWORKS:
        return f"t5x.examples.network.{rest}"
    return SYNONYMS.get(name, name)


def _strange(name: str) -> str:
    """Why a class or function cannot be had, and what can be done instead."""
    if name.startswith("t5x.contrib") or ".contrib." in name:
        return f"{name} is of T5X's contrib, which has no counterpart here; {PAGE} says what has"
    if not name.startswith(("t5x.", "seqio.", "optax.", "t5.")) and "." in name:
        return f"{name} is a class or function of your own, which no gin file can plug in here; {PAGE} says what can"
    last = name.rpartition(".")[2]
    known = [".".join(key.split(".")[-2:]) for key in SIGNATURES]
    near = [key for key in known if key.rpartition(".")[2] == last] or [registry.suggest(name, known)]
    hint = near[0] if near[0].startswith("did you mean") else f"{PAGE} lists what is understood"
    return f"nothing here stands for {name}; {hint}"


def _in_reach(scope: str, name: str, reached: Iterable[tuple[str, str]]) -> bool:
    """Whether one of the calls that were made looks at bindings of this scope: its own, or one around it."""
    return any(name == called and (not scope or f"{made}/".startswith(f"{scope}/")) for made, called in reached)


def _modules(statements: Sequence[Statement]) -> dict[str, str]:
    """The modules that files import, and where, without those whose names are known here; t5's have stand-ins."""
    imports = [s for s in statements if isinstance(s, Import) and s.module.partition(".")[0] not in KNOWN_PACKAGES]
    return {s.module: s.where for s in reversed(imports)}
