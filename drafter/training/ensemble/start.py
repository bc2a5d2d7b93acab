"""A supervised start: the head as near to the rule `variation_budget` as one layer over the states can be."""

import torch

from drafter.training.ensemble.module import EnsembleModule, seed_of
from drafter.training.ensemble.policy import budget_loss

STEPS, LEARNING_RATE = 300, 3e-3


def fit_budget(module: EnsembleModule, budget: float) -> float:
    """Fit the head to the budget's weights along roll-outs of one batch of tasks; returns the last loss."""
    tasks = [task for task in module.prompts(0) for _ in range(module.config.ensemble.rollouts)]
    _, weighed, _ = module.answer(tasks, module.head, seed_of(module.config.seed, -2))
    optimizer = torch.optim.Adam(module.head.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        weight = module.head(weighed.drafter_hidden, weighed.verifier_hidden).double()  # [N]
        loss = budget_loss(weight, weighed.variation, budget)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.behaviour.load_state_dict(module.head.state_dict())
    return float(loss.detach())
