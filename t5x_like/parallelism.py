"""The section `parallelism` of an experiment: how a step is laid out over devices and in time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from t5x_like.checks import require_at_least, require_one_of, require_positive
from t5x_like.errors import ExperimentError

# From the one that recomputes least.
REMAT_POLICIES = ("none", "save_dots", "save_qkv_attention", "offload_qkv_attention", "save_attention", "full")
STRATEGIES = (
    "custom",
    "data",
    "zero1",
    "fsdp",
    "hsdp",
    "tp",
    "fsdp_tp",
    "ep",
    "sp",
    "ring",
    "pp",
    "diloco",
)  # rows of parallel.strategies


@dataclass(frozen=True, kw_only=True)
class Outer:
    """The outer optimizer of DiLoCo (Douillard et al. 2023): replicas train by themselves and meet once in many steps.

    Attributes:
      every: steps of the replicas from one meeting to the next.
      learning_rate: by which the shared parameters follow the mean of the replicas' moves.
      momentum: of that mean, Nesterov's.
      fragments: parts of the parameters that meet at different steps, each once in `every` steps.
    """

    every: int = 50
    learning_rate: float = 0.7
    momentum: float = 0.9
    fragments: int = 1

    def __post_init__(self) -> None:
        require_positive(self, "every", "fragments")
        require_at_least(self, 0, "learning_rate", "momentum")
        if self.every % self.fragments:
            raise ExperimentError(
                "fragments",
                f"{self.fragments} fragments do not divide the {self.every} steps of `every`; use a divisor of it",
            )


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """Layout of a step over devices and in time.

    Attributes:
      strategy: which axis takes the devices that no number below speaks of, by a name that docs/parallelism.md
        explains: `custom`, `data`, `zero1`, `fsdp`, `hsdp`, `tp`, `fsdp_tp`, `ep`, `sp`, `ring`, `pp` or
        `diloco`.
      data: devices that hold whole copies and share the batch; -1 takes what the other axes leave.
      fsdp: devices that share the batch and the parameters.
      stage: devices that hold different layers, and pass rows on to each other.
      sequence: devices that share a row's tokens, and inside attention its heads; and the parameters too.
      tensor: devices that share heads, hidden units and the vocabulary.
      expert: devices that share the batch and the experts; and the other parameters too.
      rules: logical axis → axes of the mesh that cut it, over those of the strategy; docs/parallelism.md lists both.
      microbatches: equal parts a batch is computed in, one after the other.
      stage_microbatches: parts of each of those that are in different stages at once; 0 for as many as stages.
      stage_rounds: how often a row passes through all stages, each holding as many groups of layers.
      remat: what the backward pass recomputes: `none`, `full`, or all but what is named: `save_dots`, `save_attention`,
        `save_qkv_attention`, and `offload_qkv_attention`, which keeps that in the host's memory.
      scan_layers: compile one layer and loop over it, or (False) compile each layer by itself.
      deterministic: on GPUs, kernels whose results are the same in every run, and none chosen by trying; slower. TPUs
        and CPUs need nothing for it.
      barriers: on TPUs, whether what stands between matrix products is written to memory (`on`) or fused into them
        (`off`); `auto` as was measured for the chip.
      attention_backward: on TPUs, one backward kernel (`fused`) or two (`split`); `auto` as was measured.
      compiler_options: of XLA by name, for programs that train, over those that were measured to be good.
      outer: when and how the replicas meet, with the strategy `diloco`.
    """

    strategy: str = "custom"
    data: int = -1
    fsdp: int = 1
    stage: int = 1
    sequence: int = 1
    tensor: int = 1
    expert: int = 1
    rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    microbatches: int = 1
    stage_microbatches: int = 0
    stage_rounds: int = 1
    remat: str = "none"
    scan_layers: bool = True
    deterministic: bool = False
    barriers: str = "auto"
    attention_backward: str = "auto"
    compiler_options: Mapping[str, str] = field(default_factory=dict)
    outer: Outer = field(default_factory=Outer)

    def __post_init__(self) -> None:
        require_one_of(self, "strategy", STRATEGIES)
        require_one_of(self, "barriers", ("auto", "on", "off"))
        require_one_of(self, "attention_backward", ("auto", "fused", "split"))
        require_positive(self, "fsdp", "stage", "sequence", "tensor", "expert", "microbatches", "stage_rounds")
        require_at_least(self, 0, "stage_microbatches")
        if self.data < 1 and self.data != -1:
            raise ExperimentError("data", f"{self.data} devices; it must be at least 1, or -1 for the rest")
        require_one_of(self, "remat", REMAT_POLICIES)
        self._check_stages()
        if self.strategy == "diloco" and self.stage > 1:
            raise ExperimentError(
                "stage", f"{self.stage} stages and replicas that train by themselves do not go together"
            )

    def _check_stages(self) -> None:
        if self.stage == 1:
            for field, usual in (("stage_microbatches", 0), ("stage_rounds", 1)):
                if getattr(self, field) != usual:
                    text = (
                        f"{getattr(self, field)} is for several stages; set parallelism.stage, or leave it at {usual}"
                    )
                    raise ExperimentError(field, text)
        if self.stage_rounds > 1 and self.stage_microbatches % self.stage:
            raise ExperimentError(
                "stage_microbatches",
                f"{self.stage_microbatches} microbatches cannot go round {self.stage} stages together; in several"
                f" rounds make it a multiple of parallelism.stage={self.stage}",
            )
