"""The head of a dynamic ensemble: how much the verifier weighs at each drafted slot."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from drafter.files import atomically, write_json

WEIGHTS, CONFIG = "ensemble_head.safetensors", "ensemble_head.json"


@dataclass(frozen=True)
class HeadConfig:
    """What a head was made for: it is of one pair of models and one task, and does not transfer to others.

    Args:
        drafter_width, verifier_width: of the hidden states.
        drafter, verifier: fingerprints or names of the pair.
        task: whose reward it was trained on.
        training: how, as far as it is worth remembering.
    """

    drafter_width: int
    verifier_width: int
    drafter: str = ""
    verifier: str = ""
    task: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("drafter_width", "verifier_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be >= 1, the width of that model's hidden states")

    def differs_by_seed(self, other: "HeadConfig") -> bool:
        """Whether another head is of the same recipe but for its seed and where it was written."""
        mine, others = (
            {name: value for name, value in one.training.items() if name not in ("name", "output", "seed")}
            for one in (self, other)
        )
        return bool(mine) and replace(self, training=mine) == replace(other, training=others)


class EnsembleHead(nn.Module):
    """w = sigmoid(a . [drafter state, verifier state] + b): one linear layer over both states that predict a token.

    Neither state has seen that token, so that w does not depend on it, which is what the law of `dynamic_ensemble` asks
    for. A new head says `weight` everywhere: it begins as the static ensemble.

    Args:
        weight: of the verifier, before training, in (0, 1).
    Raises:
        ValueError: weight is out of range.
    Source: arXiv:2604.07622, section 4.
    """

    def __init__(self, config: HeadConfig, weight: float = 0.5):
        super().__init__()
        if not 0 < weight < 1:
            raise ValueError(f"weight={weight}: must lie in (0, 1); static_ensemble takes 0 and 1")
        self.config = config
        self.linear = nn.Linear(config.drafter_width + config.verifier_width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, math.log(weight / (1 - weight)))

    def forward(self, drafter_hidden: Tensor, verifier_hidden: Tensor) -> Tensor:
        """The verifier's weight at each slot: states [..., D'] and [..., D] -> [...], float32 at least.

        Raises:
            ValueError: the states have other widths than those that this head was made for.
        """
        self.check_widths(drafter_hidden.shape[-1], verifier_hidden.shape[-1])
        dtype = self.linear.weight.dtype
        states = torch.cat([drafter_hidden.to(dtype), verifier_hidden.to(dtype)], dim=-1)  # [..., D' + D]
        return self.linear(states).squeeze(-1).sigmoid()  # [...]

    def check_widths(self, drafter_width: int, verifier_width: int) -> None:
        """Raise a ValueError unless both models have the widths that this head was made for."""
        for name, width in (("drafter_width", drafter_width), ("verifier_width", verifier_width)):
            if getattr(self.config, name) != width:
                raise ValueError(
                    f"head: made for {name}={getattr(self.config, name)}, here it is {width}; name the head that was "
                    "trained with this pair of models"
                )

    def save(self, directory: Path) -> None:
        """Write weights and config, float32."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().to("cpu", torch.float32) for name, value in self.state_dict().items()}
        with atomically(directory / WEIGHTS) as scratch:
            save_file(tensors, scratch)
        write_json(directory / CONFIG, asdict(self.config))

    @classmethod
    def load(cls, directory: str | Path, device: torch.device | str = "cpu") -> "EnsembleHead":
        """Read a head from the directory that `save` wrote.

        Raises:
            ValueError: there is none, or its files do not belong together.
        """
        folder = Path(directory).expanduser()
        if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            raise ValueError(f"head={str(directory)!r}: holds no {CONFIG} and {WEIGHTS}; name what training wrote")
        try:
            head = cls(HeadConfig(**json.loads((folder / CONFIG).read_text())))
            tensors, wanted = load_file(folder / WEIGHTS), head.state_dict()
        except SafetensorError as error:
            raise ValueError(f"{folder / WEIGHTS}: can't be read ({error}); train or copy it again") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{folder / CONFIG}: describes no head ({error}); train or copy it again") from None
        if not all(bool(one.isfinite().all()) for one in tensors.values()):
            raise ValueError(f"{folder / WEIGHTS}: holds NaN or infinity; train it again")
        if {name: one.shape for name, one in tensors.items()} != {name: one.shape for name, one in wanted.items()}:
            raise ValueError(f"{folder / WEIGHTS}: holds other tensors than {CONFIG} describes; train or copy it again")
        head.load_state_dict(tensors)
        return head.requires_grad_(False).to(device)
