"""What a recipe may say: dataclasses with their defaults and checks. Schema < recipe < `key=value` overrides."""

from drafter.config.cache import CacheConfig
from drafter.config.checks import require
from drafter.config.data import DataConfig
from drafter.config.decoding import DecodingConfig
from drafter.config.distillation import DistillationConfig, Stage, TrialConfig
from drafter.config.drafter import DrafterSettings
from drafter.config.ensemble import EnsembleConfig, EnsembleSettings, PairConfig, RewardConfig, TasksConfig
from drafter.config.files import as_yaml, load, load_as, save
from drafter.config.fitting import FittingConfig
from drafter.config.language_model import LanguageModelConfig, TokenizerConfig
from drafter.config.recipe import SYSTEMS, AlignmentConfig, Config
from drafter.config.run import RunConfig
from drafter.config.server import ServerConfig
from drafter.config.text import TextConfig
from drafter.config.training import TrainingConfig
from drafter.config.verifier import VerifierConfig

__all__ = [
    "SYSTEMS",
    "AlignmentConfig",
    "CacheConfig",
    "Config",
    "DataConfig",
    "DecodingConfig",
    "DistillationConfig",
    "DrafterSettings",
    "EnsembleConfig",
    "EnsembleSettings",
    "FittingConfig",
    "LanguageModelConfig",
    "PairConfig",
    "RewardConfig",
    "RunConfig",
    "ServerConfig",
    "Stage",
    "TasksConfig",
    "TextConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "TrialConfig",
    "VerifierConfig",
    "as_yaml",
    "load",
    "load_as",
    "require",
    "save",
]
