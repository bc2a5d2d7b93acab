"""One file per system: the stages of its runs, top to bottom."""
