"""What a recipe may say: dataclasses with their defaults and checks. Schema < recipe < `key=value` overrides."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from losses import Losses

PROMPT_KINDS = ("write", "explain", "annotate", "chat")


def require(ok: bool, name: str, value: object, remedy: str) -> None:
    """Raise the one-line ValueError of a wrong setting unless `ok`."""
    if not ok:
        raise ValueError(f"{name}={value!r}: {remedy}")


@dataclass
class VerifierConfig:
    """The frozen model.

    Args:
        source: hub id, directory, GGUF file, or a packaged name (`smollm2`).
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:0`, ...
        attention: kernel of the decoder: `auto`, `sdpa` or `flash_attn`.
    """

    source: str = MISSING
    device: str = "auto"
    attention: str = "auto"

    def __post_init__(self) -> None:
        kernels = ("auto", "sdpa", "flash_attn")
        require(self.attention in kernels, "verifier.attention", self.attention, f"choose one of {', '.join(kernels)}")


@dataclass
class DataConfig:
    """Prompts, the verifier's answers to them, and the split.

    Args:
        answers: Parquet file of answers; `regenerate` writes it, training reads it.
        prompts: how many prompts of each kind `regenerate` makes: `write`, `explain` and `annotate` quote functions of
            the standard library, `chat` ones are written by the verifier itself.
        max_prompt_characters: longest code quoted in a prompt.
        max_new_tokens: longest answer.
        batch_size: rows answered at a time.
        max_rows: training rows used, the first of the file; null for all.
        sequence_length: rows longer than this are cut.
        validation_share: share of the source documents that is held out.
        validation_rows: held-out rows that validation walks over.
        taps: `cached` (computed once, kept on disk) or `online` (by the verifier in every step).
    """

    answers: str = MISSING
    prompts: dict[str, int] = field(default_factory=lambda: {"write": 500, "explain": 500, "annotate": 500})
    max_prompt_characters: int = 600
    max_new_tokens: int = 128
    batch_size: int = 64
    max_rows: int | None = None
    sequence_length: int = 512
    validation_share: float = 0.1
    validation_rows: int = 64
    taps: str = "cached"

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "validation_rows", "max_prompt_characters"):
            require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "must be >= 1")
        unknown = sorted(set(self.prompts) - set(PROMPT_KINDS))
        require(not unknown, "data.prompts", unknown, f"unknown kinds; choose among {', '.join(PROMPT_KINDS)}")
        for kind, count in self.prompts.items():
            require(count >= 0, f"data.prompts.{kind}", count, "must be >= 0")
        require(self.max_rows is None or self.max_rows >= 1, "data.max_rows", self.max_rows, "must be >= 1, or null")
        require(self.sequence_length >= 8, "data.sequence_length", self.sequence_length, "must be >= 8")
        require(
            0 < self.validation_share < 1, "data.validation_share", self.validation_share, "must lie between 0 and 1"
        )
        require(self.taps in ("cached", "online"), "data.taps", self.taps, "choose cached or online")


@dataclass
class DrafterSettings:
    """The drafter's shape and start.

    Args:
        num_layers: depth.
        block_size: slots of a block, the anchor included.
        num_taps: taps, evenly spaced as DFlash does, unless tap_layers names them.
        tap_layers: 0-based layers of the verifier whose outputs are tapped; never the last.
        mask_token_id: id that fills the masked slots; one that text never uses.
        start: `verifier` (its last layers, copied), `random`, or the directory of a drafter.
        vocabulary: what may be proposed: `full`, `answers` (tokens of the training answers), or a number: the most
            frequent of them.
    """

    num_layers: int = 5
    block_size: int = 16
    num_taps: int = 5
    tap_layers: list[int] | None = None
    mask_token_id: int = MISSING
    start: str = "verifier"
    vocabulary: str = "full"

    def __post_init__(self) -> None:
        require(self.num_layers >= 1, "drafter.num_layers", self.num_layers, "must be >= 1")
        remedy = "needs the anchor and at least one draft slot (>= 2)"
        require(self.block_size >= 2, "drafter.block_size", self.block_size, remedy)
        require(self.num_taps >= 1, "drafter.num_taps", self.num_taps, "must be >= 1")
        known = self.vocabulary in ("full", "answers") or (self.vocabulary.isdigit() and int(self.vocabulary) > 0)
        require(known, "drafter.vocabulary", self.vocabulary, "choose full, answers or a number of tokens >= 1")


@dataclass
class TrainingConfig:
    """Optimisation.

    Args:
        max_steps: optimiser steps.
        rows: rows of a step and rank.
        anchors: blocks drawn per row.
        accumulate: micro-steps per optimiser step.
        warmup: share of the steps that raise the learning rate; a cosine lowers it after that.
        clip: largest norm of the gradient.
        precision: `float32`, `bfloat16` (parameters stay float32), or `auto`: whichever a short probe finds faster.
        sampled_tokens: with a restricted vocabulary, random tokens that stand in for the missing ones in every step,
            so that the full head serves the same drafter; 0 for none.
        temperature: of both laws, where a loss compares the drafter's with the verifier's.
        validate_every: steps between validations; null for once an epoch.
        devices, strategy: as Lightning understands them.
    """

    max_steps: int = 1000
    rows: int = 8
    anchors: int = 32
    accumulate: int = 1
    learning_rate: float = 6e-4
    weight_decay: float = 0.0
    warmup: float = 0.04
    clip: float = 1.0
    precision: str = "auto"
    sampled_tokens: int = 2048
    chunk_size: int = 256
    temperature: float = 1.0
    validate_every: int | None = None
    log_every: int = 10
    devices: str = "1"
    strategy: str = "auto"

    def __post_init__(self) -> None:
        for name in ("max_steps", "rows", "anchors", "accumulate", "chunk_size", "log_every"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "must be >= 1")
        for name in ("learning_rate", "clip", "temperature"):
            require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "must be > 0")
        require(0 <= self.warmup < 1, "training.warmup", self.warmup, "must lie in [0, 1): a share of the steps")
        require(self.sampled_tokens >= 0, "training.sampled_tokens", self.sampled_tokens, "must be >= 0")
        known = ("auto", "float32", "bfloat16")
        require(self.precision in known, "training.precision", self.precision, f"choose one of {', '.join(known)}")
        said = re.fullmatch(r"auto|[1-9]\d*|\d+(,\d+)+", self.devices) is not None
        require(said, "training.devices", self.devices, "say auto, how many (>= 1), or which ones: '0,2'")
        every = self.validate_every
        require(every is None or every >= 1, "training.validate_every", every, "must be >= 1, or null")


@dataclass
class DecodingConfig:
    """The real decoding at the end of a run.

    Args:
        prompts: held-out prompts that are decoded plainly and speculatively.
        max_new_tokens: longest answer.
        draft_length: tokens proposed per cycle; null: chosen by the costs measured on the spot.
    """

    prompts: int = 8
    max_new_tokens: int = 128
    draft_length: int | None = None

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "decoding.prompts", self.prompts, "must be >= 1")
        require(self.max_new_tokens >= 2, "decoding.max_new_tokens", self.max_new_tokens, "must be >= 2")


@dataclass
class Config:
    """A run, whole: everything that decides its numbers."""

    name: str = MISSING
    seed: int = 0
    output: str = "runs"
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    data: DataConfig = field(default_factory=DataConfig)
    drafter: DrafterSettings = field(default_factory=DrafterSettings)
    losses: Losses = field(default_factory=Losses)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def __post_init__(self) -> None:
        length, size = self.decoding.draft_length, self.drafter.block_size
        remedy = f"must lie between 1 and drafter.block_size - 1 = {size - 1}, or be null"
        require(length is None or 1 <= length < size, "decoding.draft_length", length, remedy)
        if self.losses.compare_laws:
            named = ", ".join(name for name, loss in self.losses.active.items() if loss.needs - {"nll"})
            remedy = f"losses on the verifier's law ({named}) compare whole vocabularies; set drafter.vocabulary=full"
            require(self.drafter.vocabulary == "full", "drafter.vocabulary", self.drafter.vocabulary, remedy)

    @property
    def directory(self) -> Path:
        """Where the run writes."""
        return Path(self.output) / self.name


def load(recipe: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and its overrides (`losses.first_error.weight=0`).

    Raises:
        ValueError: one line that names the recipe, the key and the remedy.
    """
    path = Path(recipe)
    if not path.is_file():
        raise ValueError(f"recipe={str(recipe)!r}: no such file; the recipes that ship are in recipes/")
    try:
        said = OmegaConf.load(path)
        if not OmegaConf.is_dict(said):
            raise ValueError(f"{path}: must hold `key: value` lines")
        wrong = [each for each in overrides if "=" not in each]
        require(not wrong, "override", wrong[0] if wrong else "", "write it as key=value")
        layers = OmegaConf.merge(said, OmegaConf.from_dotlist(list(overrides)))
        _check_keys(OmegaConf.to_container(layers), Config(), "")
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), layers))
    except MissingMandatoryValue as error:
        raise ValueError(f"{path}: {error.full_key}: missing; set it in the recipe") from None
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {error.full_key}={error.value!r}: {str(error.msg).splitlines()[0]}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, Config):
        raise TypeError(f"{path}: made a {type(config).__name__}")
    return config


def save(config: Config, path: Path) -> None:
    """Write the resolved config as a recipe."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))


def _check_keys(said: Any, schema: Any, prefix: str) -> None:
    """Refuse a key that the schema lacks, naming the nearest one that it has."""
    known = [each.name for each in fields(schema)]
    for key, value in said.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
            raise ValueError(f"{prefix}{key}: unknown key; {hint}")
        inner = getattr(schema, key)
        if is_dataclass(inner):
            remedy = f"holds keys of its own; write {prefix}{key}.{fields(inner)[0].name}=..."
            require(isinstance(value, dict), f"{prefix}{key}", value, remedy)
            _check_keys(value, inner, f"{prefix}{key}.")
