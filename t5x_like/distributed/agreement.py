"""Agreement of the processes before they train: the same experiment, code, data and checkpoints on every host.

One other config file, package or corpus on one of a thousand hosts would train without an error, since the arrays have
the same shapes; only the result would be wrong.
"""

import collections
import hashlib
import json
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_like.distributed import exchange
from t5x_like.errors import UserError

_SHOWN = 3
_STALE = 35.0  # seconds for which a network file system may still say that a new file is not there (NFS: 30)


def require(table: Mapping[str, Mapping[str, Any]], *, advice: Mapping[str, str]) -> None:
    """Compares values of all processes.

    Args:
      table: JSON values by field, by section, such as {"config": {"seed": 0}}; every process has the same sections.
      advice: the remedy, by section.

    Raises:
      UserError: in every process, when one of them has another value, naming the field and the process.
    """
    if jax.process_count() == 1:
        return
    own = np.stack([_digest(section) for section in table.values()])
    everybody = exchange.gather(own.ravel()).reshape(-1, *own.shape)
    if (everybody == everybody[0]).all():
        return
    tables = [json.loads(text) for text in _exchange_text(json.dumps(table, sort_keys=True))]
    hosts = _exchange_text(socket.gethostname())
    raise UserError("; ".join(disagreements(tables, hosts, advice)))


def disagreements(
    tables: Sequence[Mapping[str, Mapping[str, Any]]], hosts: Sequence[str], advice: Mapping[str, str]
) -> list[str]:
    """The fields that differ between processes, one sentence for each section that has any.

    The expected value of a field is that of most processes, and process 0's where two values are equally frequent.

    Args:
      tables: the values of each process, as in `require`.
      hosts: the name of each process's host.
      advice: the remedy, by section.
    """
    found = []
    for section in tables[0]:
        fields = sorted({field for table in tables for field in table[section]})
        different = [
            text for field in fields if (text := _difference(field, [t[section].get(field) for t in tables], hosts))
        ]
        if different:
            more = f" (and {len(different) - _SHOWN} more)" if len(different) > _SHOWN else ""
            found.append(f"{', and '.join(different[:_SHOWN])}{more}; {advice[section]}")
    return found


def require_shared(path: epath.Path, field: str) -> None:
    """Checks that all processes see a file that process 0 has just written.

    Args:
      path: the file.
      field: the option or flag that holds its directory.

    Raises:
      UserError: in every process, naming one that does not see it.
    """
    if jax.process_count() == 1:
        return
    written = _file_digest(path) if jax.process_index() == 0 else np.zeros(4, np.uint32)
    expected = exchange.gather(written)[0]
    until = time.monotonic() + _STALE
    while not (seen := bool((_file_digest(path) == expected).all())) and time.monotonic() < until:
        time.sleep(0.5)
    blind = np.flatnonzero(exchange.gather(np.array([seen], np.uint32)).ravel() == 0)
    if blind.size:
        host = _exchange_text(socket.gethostname())[blind[0]]
        raise UserError(
            f"{field}: process {blind[0]} on {host} does not see {path}, which process 0 has written; it must be a"
            " directory that all hosts share"
        )


def _difference(field: str, values: Sequence[Any], hosts: Sequence[str]) -> str | None:
    """Names the processes that have another value than most, and both values; None where all have the same."""
    texts = [json.dumps(value, sort_keys=True) for value in values]
    counted = collections.Counter(texts)
    usual = max(texts, key=lambda text: (counted[text], text == texts[0]))
    others = [process for process, text in enumerate(texts) if text != usual]
    if not others:
        return None
    shown = [f"{texts[process]} for process {process} on {hosts[process]}" for process in others[:_SHOWN]]
    rest = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    usual_one = texts.index(usual)
    return f"{field} is {', '.join(shown)}{rest} and {usual} for process {usual_one} on {hosts[usual_one]}"


def _digest(section: Mapping[str, Any]) -> np.ndarray:
    """uint32 [4]."""
    return np.frombuffer(hashlib.sha256(json.dumps(section, sort_keys=True).encode()).digest()[:16], np.uint32)


def _file_digest(path: epath.Path) -> np.ndarray:
    """uint32 [4]; zeros where there is no file."""
    try:
        return np.frombuffer(hashlib.sha256(path.read_bytes()).digest()[:16], np.uint32)
    except OSError:
        return np.zeros(4, np.uint32)


def _exchange_text(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    encoded = text.encode()
    longest = int(exchange.gather(np.array([len(encoded)], np.uint32)).max())
    padded = encoded.ljust(longest + -longest % 4)
    rows = exchange.gather(np.frombuffer(padded, np.uint32))
    return [row.tobytes().decode().rstrip() for row in rows]
