"""The study of joint laws, without its training: the source's law by paths, distances, and the report of a table."""

import itertools
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import joint


def test_the_joint_law_is_the_product_along_every_path():
    chain = joint.Chain.draw(3)
    law = chain.joint(2, 3)
    for place, path in enumerate(itertools.product(range(joint.VOCABULARY), repeat=3)):
        wanted, state = 1.0, 2
        for token in path:
            wanted *= float(chain.step[state, token])
            state = token
        assert float(law[place]) == pytest.approx(wanted)
    assert float(law.sum()) == pytest.approx(1.0)


def test_the_chain_itself_is_near_its_law_and_independent_slots_are_not():
    chain, count = joint.Chain.draw(0), 2
    noise = torch.quasirandom.SobolEngine(count, scramble=True, seed=0).draw(4096, dtype=torch.float64)
    context = torch.tensor([0, 1])
    law = chain.joint(1, count)
    exact = joint.one_by_one(lambda ids: chain.step[ids[:, -1]], context, noise)
    assert joint.distance(exact, law) < 0.01
    marginals = [chain.step[1], chain.step[1] @ chain.step]
    apart = torch.stack([joint.inverse_cdf(marginals[at].expand(4096, -1), noise[:, at]) for at in range(count)], 1)
    product = (marginals[0][:, None] * marginals[1]).flatten()
    wanted = float((product - law).abs().sum() / 2)
    assert wanted > 0.1
    assert joint.distance(apart, law) == pytest.approx(wanted, abs=0.01)


def test_the_report_gives_means_with_intervals_over_seeds(tmp_path):
    records = [
        {"seed": seed, "tokens": count, "method": method, "distance": base + 0.01 * seed}
        for seed in range(3)
        for count in joint.WIDTHS
        for method, base in (("k_forcing", 0.1), ("independent", 0.5))
    ]
    table = joint.report(records, tmp_path)
    assert "| k forcing | 0.110 [0.085, 0.135] |" in table  # t(0.975, 2) = 4.303, times 0.01 / sqrt(3)
    assert (tmp_path / "joint.png").is_file()
