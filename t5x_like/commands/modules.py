"""Import of a user's own modules, named by `--module`, or in gin by MIXTURE_OR_TASK_MODULE and `import`."""

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5x_like.errors import UserError
from t5x_like.interop import t5_names


def import_modules(modules: Sequence[str], search_paths: Sequence[str] = ()) -> None:
    """Imports modules, by file or by dotted name.

    They are looked for as Python does, then in the working directory and `search_paths`; one that is given as a file
    finds its neighbours, too. Tasks of T5's own package have a stand-in here where that package is not installed.

    Args:
      modules: files that end in `.py`, or dotted names.
      search_paths: directories.

    Raises:
      UserError: for one that is not there, or that raises.
    """
    for name in modules:
        path = Path(name).expanduser()
        is_file = path.suffix == ".py"
        t5_names.offer()
        _add_to_path([*([path.parent] if is_file else []), ".", *search_paths])
        with _named(name):
            if is_file:
                _import_file(path, name)
            else:
                importlib.import_module(name)


def _add_to_path(directories: Sequence[str | Path]) -> None:
    """Appends directories to `sys.path`, so that no installed package is shadowed."""
    for directory in directories:
        absolute = str(Path(directory).expanduser().resolve())
        if absolute not in sys.path:
            sys.path.append(absolute)


def _import_file(path: Path, name: str) -> None:
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) == str(path.resolve()):
        return  # a task can be registered once
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None or not path.exists():
        raise UserError(f"--module: there is no file {name}; give a Python file or a module's dotted name")
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns any exception of the module into a UserError with the line that raised it."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        where = "" if name.startswith(str(error.name)) else f"{name} imports {error.name!r}, and "
        raise UserError(
            f"--module: {where}there is no module {error.name!r}; give a Python file or a module's dotted name"
        ) from error
    except Exception as error:
        if isinstance(error, SyntaxError):
            line, reason = f"{error.filename}:{error.lineno}", error.msg
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            line, reason = f"{last.filename}:{last.lineno}", (str(error) or "no reason given").splitlines()[0]
        raise UserError(f"--module: {name} cannot be imported: {line}: {type(error).__name__}: {reason}") from error
