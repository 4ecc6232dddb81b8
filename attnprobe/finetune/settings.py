"""What a fine-tuning is made by."""

from dataclasses import dataclass

from attnprobe.errors import SelectionError

LORA_RATE, FULL_RATE = 2e-4, 2e-5


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """Everything that the trained weights follow from, beside model and data."""

    full: bool = False
    """Whether all weights are trained; otherwise low-rank matrices beside them (LoRA)."""
    epochs: float = 1.0
    """Passes over the training records; a limit in steps or tokens takes their place."""
    max_steps: int | None = None
    """Steps in all; None for what `epochs` amounts to."""
    max_tokens: int | None = None
    """Tokens in all, prompts included; None for what `epochs` amounts to."""
    learning_rate: float | None = None
    """After warm-up, falling to 0 along a cosine; None for 2e-4, or 2e-5 with `full`."""
    rank: int = 8
    """Of the low-rank matrices; their scale is 2, whatever the rank."""
    dropout: float = 0.0
    """Share of their inputs that is set to 0 in training."""
    batch_size: int = 8
    """Records per step."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.0
    """Of AdamW."""
    seed: int = 0
    """Of first weights, order and dropout."""
    validation: float = 0.05
    """Share of the items that is not trained on but measured; a dataset of its own takes its
    place."""
    validations: int = 10
    """How often the validation records are measured, the end included."""
    written: int = 32
    """Validation records that the model writes itself, greedily, for the pass rate."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `mps`."""
    dtype: str = "auto"
    """Number format of the model; `full` keeps float32 weights and computes in this one."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    chat: bool = False
    """Whether prompts are what a user says, in the tokenizer's chat template."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_tokens", "rank", "batch_size", "validations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SelectionError("too small", where=_option(name), got=value, expected="≥ 1")
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SelectionError("out of range", where=_option(name), got=value,
                                     expected="above 0")  # fmt: skip
        for name in ("dropout", "warmup", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise SelectionError("out of range", where=_option(name), got=getattr(self, name),
                                     expected="0 or more, below 1")  # fmt: skip
        for name in ("seed", "written", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise SelectionError("out of range", where=_option(name), got=getattr(self, name),
                                     expected="0 or more")  # fmt: skip
        if self.seed >= 2**32:
            raise SelectionError("out of range", where="--seed", got=self.seed,
                                 expected="below 2³²")  # fmt: skip
        if self.max_steps is not None and self.max_tokens is not None:
            raise SelectionError(
                "two limits at once", where="--max-steps and --max-tokens",
                got=f"{self.max_steps} and {self.max_tokens}", fix="leave one out",
            )  # fmt: skip
        if self.full and self.dtype == "float16":
            raise SelectionError(
                "all weights cannot be trained in float16: small gradients would be lost",
                where="--dtype", got=self.dtype, expected="auto, float32 or bfloat16",
            )  # fmt: skip

    @property
    def rate(self) -> float:
        """The learning rate after warm-up."""
        return self.learning_rate or (FULL_RATE if self.full else LORA_RATE)


def _option(name: str) -> str:
    return "--lr" if name == "learning_rate" else f"--{name.replace('_', '-')}"
