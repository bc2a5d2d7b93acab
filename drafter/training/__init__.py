"""Training: the Lightning module, what each step sees, the stages of a run."""
