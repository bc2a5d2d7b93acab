"""The push-forward model of K-Forcing, and its packed passes."""

from drafter.models.push_forward.model import PushForwardConfig, PushForwardModel
from drafter.models.push_forward.noise import NoiseEncoder, check_noise
from drafter.models.push_forward.packed import Context
from drafter.models.push_forward.tiles import for_decoding

__all__ = ["Context", "NoiseEncoder", "PushForwardConfig", "PushForwardModel", "check_noise", "for_decoding"]
