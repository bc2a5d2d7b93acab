"""What a recipe may say: dataclasses with their defaults and checks. Schema < recipe < `key=value` overrides."""

from drafter.config.cache import CacheConfig
from drafter.config.checks import require
from drafter.config.data import DataConfig
from drafter.config.decoding import DecodingConfig
from drafter.config.drafter import DrafterSettings
from drafter.config.files import load, save
from drafter.config.recipe import Config
from drafter.config.server import ServerConfig
from drafter.config.training import TrainingConfig
from drafter.config.verifier import VerifierConfig

__all__ = [
    "CacheConfig",
    "Config",
    "DataConfig",
    "DecodingConfig",
    "DrafterSettings",
    "ServerConfig",
    "TrainingConfig",
    "VerifierConfig",
    "load",
    "require",
    "save",
]
