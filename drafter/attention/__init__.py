"""Attention over a preallocated cache: one contract, one file per kernel.

Contract, that of `flash_attn_with_kvcache`: write the new keys and values behind each row's committed length, then
attend from the new queries to everything up to them. Rows may have different lengths; nothing is cropped or copied.
"""

from drafter.attention.cache import KVCache, LayerShape, choose_kernel
from drafter.attention.replay import Replay, choose_replay

__all__ = ["KVCache", "LayerShape", "Replay", "choose_kernel", "choose_replay"]
