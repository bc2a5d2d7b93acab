"""The machine that a run finds: precision, ranks, memory."""
