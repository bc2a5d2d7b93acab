"""What a run is about to do, in a few lines."""

from drafter.config import AlignmentConfig
from drafter.training.fitting import Batches
from drafter.training.prepare import Material


def plan(config: AlignmentConfig, material: Material, batches: Batches, world: int) -> list[str]:
    """Sizes of the drafter, of the data and of a step."""
    settings, drafter = config.training, material.drafter
    parameters = sum(weight.numel() for weight in drafter.parameters()) / 1e6
    vocabulary, proposed = len(material.verifier.head), drafter.vocabulary
    proposes = "all tokens" if proposed is None else f"{len(proposed)} of {vocabulary} tokens"
    rows = settings.rows * settings.accumulate * world
    seen = "" if material.on_disk else f", {settings.max_steps / batches.steps_per_epoch:.3g} epochs"
    precision = str(material.fast).removeprefix("torch.")
    taps = ", ".join(map(str, drafter.tap_layers))
    held_out = f"held out: {len(material.validation)} that choose, {len(material.test)} that are reported"
    return [
        f"drafter: {parameters:.3g} M parameters, blocks of {drafter.block_size}, taps of layers {taps}; {proposes}",
        f"data: {material.train_rows} rows, {material.train_tokens} answer tokens; {held_out}",
        f"training: {settings.max_steps} steps of {rows} rows{seen}; {precision} on {world} x {material.device}",
    ]
