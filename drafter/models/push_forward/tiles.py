"""A push-forward model whose passes of decoding run as a verifier's do: in tiles, where its backbone's layers can."""

import copy

from drafter.machine.tiling import why_not_tiled
from drafter.models.push_forward.model import PushForwardModel
from drafter.verifier import Verifier


def for_decoding(model: PushForwardModel, compile: str = "auto") -> PushForwardModel:
    """The model with its matrices in tiles as they are now, all else shared; as it is, where it stays as it is.

    Args:
        compile: as of a `Verifier`, which is asked: each layer is compared with the backbone's own.
    Raises:
        ValueError: `on` where there are no tiles.
    """
    if model.tiled is not None or compile == "off" or model.device.type != "cpu":
        return model
    if compile == "auto" and why_not_tiled(model.device, model.dtype):
        return model
    backbone = Verifier(model.backbone, compile=compile)
    backbone.new_cache(1, 1)
    made = copy.copy(model)
    made.tiled, made.output = backbone.tiled, backbone.output
    return made
