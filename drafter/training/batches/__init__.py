"""What each training step sees: batches by number, dealt out over ranks and over the workers of each.

They come of rows in memory (`Steps`) or, for data that do not fit there, from disk as training goes on (`StreamSteps`).
"""

from drafter.training.batches.assembly import Assembly, Batch
from drafter.training.batches.loader import loader
from drafter.training.batches.steps import Steps, packs_of
from drafter.training.batches.stream_steps import StreamSteps, readers

__all__ = ["Assembly", "Batch", "Steps", "StreamSteps", "loader", "packs_of", "readers"]
