"""What a run holds, and everything that shapes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnprobe.capturing import KEEPS, Crediting, Decoding
from attnprobe.errors import SelectionError, nearest
from attnprobe.store import CODES

RECORDS_PER_CHUNK = 64

WRITTEN_AT_ONCE = 8
"""Records that greedy decoding writes at a time: hardly slower than one, on a CPU as well."""

DECODES = ("gold", "greedy", "sample")

_USED_BY: dict[str, tuple[Any, tuple[str, ...]]] = {
    "max_new_tokens": (None, ("greedy", "sample")),
    "temperature": (1.0, ("sample",)),
    "top_p": (1.0, ("sample",)),
    "seed": (0, ("sample",)),
}
"""Default of each setting that only some ways of decoding use, and which do."""


@dataclass(frozen=True, slots=True)
class ExtractSettings:
    """Everything that shapes what a run holds."""

    keep: tuple[str, ...] = ("rows",)
    """`rows` (the steps' softmax rows), `steps` (the same, summed over key groups), `pooled` (mass
    on key groups for every query), `full` (every row); beside `rows` or `full`, `value_norms` (how
    long the vector is that each head fetches from each key)."""
    decode: str = "gold"
    """`gold`: the model is shown the record's own target. `greedy`, `sample`: it writes itself, and
    what it wrote is captured."""
    max_new_tokens: int | None = None
    """Most tokens the model may write; None for twice the record's own target and 16 more, or 256
    without a target."""
    temperature: float = 1.0
    """Of `sample`: below 1 likely tokens are drawn more often than the model says."""
    top_p: float = 1.0
    """Of `sample`: only the fewest tokens that have this probability together are drawn."""
    seed: int = 0
    """Of `sample`: with the record's id, the seed of its text."""
    attribute: tuple[str, ...] = ()
    """Attribution methods to run besides, by their names in `attnprobe.attribution.METHODS`."""
    attribute_target: str = "logprob"
    """What they credit to the tokens before it: `logprob` or `logit` of each target token, or
    `contrast`, its logit minus that of a foil."""
    attribute_params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By method: settings other than its own, such as `{"integrated_gradients": {"baseline": 0}}`;
    with `by`, whether it credits each `token` or each `segment` as a whole."""
    attribute_foil: str | None = None
    """Of `contrast`: the entry of each record's meta that holds its foil, an answer other than the
    target's; None for the model's most probable other token."""
    layers: tuple[int, ...] | None = None
    """Layers to capture; all if None."""
    heads: tuple[int, ...] | None = None
    """Query heads to capture; all if None."""
    encoding: str = "u16"
    """How weights are stored: `u16`, `u8` (square-root codes) or `f32`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: str = "auto"
    """`auto`, `float32`, `bfloat16`, `float16`."""
    base: str | None = None
    """Of an adapter: the model it belongs on; None for the one it names."""
    merge_adapter: bool = False
    """Whether an adapter is added into its base's weights instead of staying apart."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    chat: bool = False
    """Whether prompts are what a user says, in the tokenizer's chat template."""
    attention_module: str | None = None
    """Path of the modules that attend, such as `transformer.layers.{}.attn`; None to find them."""
    uncertified: bool = False
    """Whether attention may be stored that nothing proves; the run says so."""
    batch_size: int | None = None
    """Most records in one forward pass; None chooses by device."""
    records_per_chunk: int = RECORDS_PER_CHUNK
    """Most records in one shard; a killed run loses at most the shard in flight."""

    def __post_init__(self) -> None:
        for name in self.keep:
            if name not in KEEPS:
                raise SelectionError(
                    "unknown kind of capture", where="--keep", got=name, fix=nearest(name, KEEPS)
                )
        if not self.keep:
            raise SelectionError("nothing to keep", where="--keep", expected=", ".join(KEEPS))
        if "value_norms" in self.keep and not {"rows", "full"} & set(self.keep):
            raise SelectionError(
                "value_norms says what rows bring, and goes with them", where="--keep",
                got=", ".join(self.keep), fix="add --keep rows",
            )  # fmt: skip
        self._check_decoding()
        self._check_attributions()
        if self.encoding not in CODES:
            raise SelectionError(
                "unknown encoding", where="--encoding", got=self.encoding,
                fix=nearest(self.encoding, CODES),
            )  # fmt: skip
        for name in ("batch_size", "records_per_chunk", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SelectionError("too small", where=_option(name), got=value, expected="≥ 1")

    def _check_attributions(self) -> None:
        if twice := [name for name in self.attribute if self.attribute.count(name) > 1]:
            raise SelectionError(
                "a run holds a method once", where="--attribute", got=f"'{twice[0]}' twice",
                fix="put other settings of it into a run of their own",
            )  # fmt: skip
        if self.attribute_foil is not None and self.decode != "gold":
            raise SelectionError(
                "foils are held against the record's own target", where="--attribute-foil",
                got=f"decoding '{self.decode}'", fix="add --decode gold",
            )  # fmt: skip
        _ = self.crediting

    @property
    def crediting(self) -> Crediting:
        """Which attributions each record gets, and how."""
        return Crediting(
            tuple(sorted(self.attribute)), self.attribute_target, self.attribute_params,
            self.attribute_foil, self.chat,
        )  # fmt: skip

    def _check_decoding(self) -> None:
        if self.decode not in DECODES:
            raise SelectionError(
                "unknown decoding", where="--decode", got=self.decode,
                fix=nearest(self.decode, DECODES),
            )  # fmt: skip
        for name, highest in (("temperature", float("inf")), ("top_p", 1)):
            if not 0 < getattr(self, name) <= highest:
                raise SelectionError(
                    "out of range", where=_option(name), got=getattr(self, name),
                    expected="above 0" if name == "temperature" else "above 0, at most 1",
                )  # fmt: skip
        for name, (default, decodes) in _USED_BY.items():
            if self.decode not in decodes and getattr(self, name) != default:
                raise SelectionError(
                    f"decoding '{self.decode}' does not use this", where=_option(name),
                    got=getattr(self, name), fix=f"add --decode {' or '.join(decodes)}",
                )  # fmt: skip

    @property
    def decoding(self) -> Decoding | None:
        """How the model writes; None for gold."""
        if self.decode == "gold":
            return None
        return Decoding(
            self.decode, self.max_new_tokens, self.temperature, self.top_p, self.seed,
            batch_size=self.batch_size or WRITTEN_AT_ONCE,
        )  # fmt: skip


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
