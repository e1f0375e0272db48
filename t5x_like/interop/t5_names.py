"""Stand-ins for the modules of T5's package that a T5X user's files import, where that package is not installed.

T5's package asks for other versions of SeqIO and TFDS than training does. What T5X's recipes take from it, its tasks
over C4 and a few preprocessors, is in `t5_tasks`; TensorFlow is imported with the first of these modules.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from t5x_like.errors import UserError

_PREPROCESSORS = ("rekey", "span_corruption", "full_lm")
_DATA = ("get_default_vocabulary", "DEFAULT_SPM_PATH", "DEFAULT_EXTRA_IDS", "preprocessors")
_SEQIO = ("Feature", "TaskRegistry", "MixtureRegistry")
# Each module, and which names of `t5_tasks` it has; the last two are imported for the tasks they register.
_MODULES = {
    "t5": ("data",),
    "t5.data": (*_DATA, *_SEQIO),
    "t5.data.preprocessors": _PREPROCESSORS,
    "t5.data.tasks": (),
    "t5.data.mixtures": (),
}
_REGISTERING = ("t5.data.tasks", "t5.data.mixtures")


def offer() -> None:
    """Makes the stand-ins importable, behind whatever is installed; may be called again."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of the table above, and fills them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec; None for what has no stand-in."""
        if fullname not in _MODULES:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module its names, and registers the tasks where that is what it is imported for."""
        name = module.__name__
        if name in _REGISTERING:
            _tasks().register()

        def lookup(attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            if attribute not in _MODULES[name]:
                has = ", ".join(_MODULES[name]) or "none"
                raise UserError(
                    f"{name}.{attribute}: T5's package is not installed, and its stand-in here has {has}; define it in"
                    " your own module"
                )
            if f"{name}.{attribute}" in _MODULES:
                return importlib.import_module(f"{name}.{attribute}")
            return getattr(_tasks(), attribute)

        module.__dict__["__getattr__"] = lookup


def _tasks() -> Any:
    return importlib.import_module("t5x_like.interop.t5_tasks")
