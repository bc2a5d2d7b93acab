"""Drafters, one file per architecture."""

from drafter.models.block_diffusion import BlockDiffusionConfig, BlockDiffusionDrafter

__all__ = ["BlockDiffusionConfig", "BlockDiffusionDrafter"]
