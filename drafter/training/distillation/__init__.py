"""Distilling a causal language model into a push-forward model: what a step predicts, how it is scored, the module."""
