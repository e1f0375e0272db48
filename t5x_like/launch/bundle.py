"""The bundle of a job: everything that decides what it runs, in one directory that is never changed.

`WORKDIR/bundles/DIGEST/` holds `bundle.json` and the resolved experiment. The digest is of the content, so that a
bundle is what its name says, and one that was changed is refused. Loading one runs no code.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping

from etils import epath

from t5x_like.errors import UserError
from t5x_like.experiment import Experiment
from t5x_like.io import files
from t5x_like.launch.retry import RetryPolicy
from t5x_like.sections import section

FORMAT = 1
BUNDLES = "bundles"
BUNDLE_FILE = "bundle.json"
EXPERIMENT_FILE = "experiment.json"

# Kubernetes' rule for names, the strictest of all launchers' (RFC 1123).
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", re.ASCII)
# Variables that change what is computed or how hosts talk, which a job takes along; no others, and none that may be
# secret. Credentials are the launcher's matter.
_TAKEN = (
    "JAX_",
    "XLA_",
    "LIBTPU_",
    "TPU_",
    "NCCL_",
    "CUDA_VISIBLE",
    "HIP_VISIBLE",
    "EPATH_",
    "TF_CPP_",
    "GRPC_VERBOSITY",
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY|AUTH", re.IGNORECASE)
# Who a process is, which each gets anew.
_OF_ONE_PROCESS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """Everything that decides what a job runs.

    Attributes:
      format: `FORMAT`.
      job: its name.
      launcher: which one runs it.
      workdir: where it writes.
      processes: how many train as one.
      devices: of each process, where a CPU stands for several; 0 leaves it to the machine.
      topology: such as `v5e:4x4`; empty where none was given.
      slices: of that topology.
      settings: JSON of the launcher's own settings, such as a partition or an image.
      argv: the command of each process after the program's name, with `{bundle}` for this bundle's directory.
      experiment_sha256: of the resolved experiment's text.
      code: JSON of the versions and digests of the code.
      environment: variables that are set for each process.
      retry: when it is started again.
    """

    format: int = FORMAT
    job: str
    launcher: str
    workdir: str
    processes: int = 1
    devices: int = 0
    topology: str = ""
    slices: int = 1
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    argv: tuple[str, ...]
    experiment_sha256: str
    code: str = "{}"
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry: RetryPolicy = dataclasses.field(default_factory=RetryPolicy)

    def to_json(self) -> str:
        """The content of the file; equal bundles are equal texts."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the content, which name its directory."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def directory(self) -> epath.Path:
        """Where it lies."""
        return epath.Path(self.workdir) / BUNDLES / self.digest

    def command(self) -> list[str]:
        """The arguments of each process, after the program's name."""
        return [argument.replace("{bundle}", str(self.directory)) for argument in self.argv]

    def set_environment(self) -> dict[str, str]:
        """The variables that are set for each process, its devices included."""
        found = dict(self.environment)
        if self.devices:
            flags = found.get("XLA_FLAGS", "")
            found["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={self.devices}".strip()
        return found


def check_name(name: str) -> str:
    """The name of a job, if it can be one with every launcher.

    Raises:
      UserError: when it cannot, with the nearest that can.
    """
    if _NAME.fullmatch(name):
        return name
    meant = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "job"
    raise UserError(
        f"--name: {name!r} is no name of a job (lower-case letters, digits and dashes, at most 40); did you mean"
        f" {meant!r}?"
    )


def taken_environment(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of this process that a job takes along: no secrets, and not who this process is."""
    return {
        name: value
        for name, value in sorted(given.items())
        if name.startswith(_TAKEN) and not _SECRET.search(name) and name not in _OF_ONE_PROCESS
    }


def write(bundle: Bundle, experiment: Experiment) -> epath.Path:
    """Writes a bundle and its experiment where they belong; what is there already is the same and stays.

    Raises:
      UserError: when they cannot be written.
    """
    directory = bundle.directory
    for name, text in ((EXPERIMENT_FILE, experiment.to_json()), (BUNDLE_FILE, bundle.to_json())):
        file = directory / name
        if not file.exists():
            files.write(file, text.encode())
            if not files.is_remote(file):
                os.chmod(file, 0o444)
    return directory


def load(directory: epath.PathLike) -> Bundle:
    """Reads a bundle and compares it with its digest.

    Raises:
      UserError: when there is none, or it is not what was written.
    """
    place = epath.Path(directory)
    values = files.read_json(place / BUNDLE_FILE, dict)
    if values is None:
        raise UserError(f"{place} holds no {BUNDLE_FILE} that can be read; give the directory of a bundle")
    if values.get("format") != FORMAT:
        raise UserError(
            f"{place}: its format is {values.get('format')!r}, and this program reads {FORMAT}; submit again"
        )
    bundle = section(Bundle, values, "")
    try:
        experiment = hashlib.sha256(files.read_limited(place / EXPERIMENT_FILE)).hexdigest()
    except (OSError, ValueError):
        experiment = ""
    if bundle.digest != place.name or experiment != bundle.experiment_sha256:
        raise UserError(f"{place} is not what was submitted; a bundle is never changed: submit again")
    return bundle


def fingerprint(experiment: Experiment) -> str:
    """The SHA-256 of an experiment's text, as a bundle holds it."""
    return hashlib.sha256(experiment.to_json().encode()).hexdigest()


def absolute(path: str) -> str:
    """A path that means the same in another process: absolute on a disk, unchanged in an object store."""
    return path if files.is_remote(path) else str(pathlib.Path(path).expanduser().absolute())
