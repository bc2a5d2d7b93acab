"""Two ranks with unequal numbers of slots: what DDP averages is the gradient of the global mean."""

import gc
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.nn.parallel import DistributedDataParallel

from losses import BlockScores, Losses, score_blocks

WIDTH, VOCABULARY = 6, 13


def batch(rank):
    """Rank 0: cut blocks; rank 1: full ones, but all hits, so that its first-error weight is 0."""
    generator = torch.Generator().manual_seed(rank)
    inputs = torch.randn(2, 3, 5, WIDTH, dtype=torch.float64, generator=generator)
    labels = torch.randint(VOCABULARY, (2, 3, 5), generator=generator)
    valid = torch.arange(5) < (torch.tensor([[[1], [0], [3]], [[2], [5], [0]]]) if rank == 0 else 5)
    if rank == 1:
        labels = (model()(inputs) @ head().T).argmax(-1)
    return inputs, labels, valid.expand(2, 3, 5)


def model():
    torch.manual_seed(7)
    return torch.nn.Linear(WIDTH, WIDTH, dtype=torch.float64)


def head():
    return torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def run(drafter, inputs, labels, valid):
    total, terms = Losses()(score_blocks(drafter(inputs), head(), labels, valid))
    total.backward()
    return torch.stack([value.detach() for value in terms.values()])


def one_rank(rank, store, path):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    result = averaged(rank)
    gc.collect()  # the group is destroyed with nothing that holds it
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        torch.save(result, path)
    os._exit(0)  # now and then a thread of gloo's, still there, would abort an ordinary exit


def averaged(rank):
    drafter = DistributedDataParallel(model())
    terms = run(drafter, *batch(rank))
    dist.all_reduce(terms)
    return {"terms": terms / 2, "gradient": drafter.module.weight.grad.clone()}


def test_two_ranks_give_the_gradient_and_the_terms_of_the_whole_batch(tmp_path):
    places = (tmp_path / "store", tmp_path / "result.pt")
    multiprocessing.start_processes(one_rank, places, nprocs=2, start_method="fork")  # importing torch takes seconds
    result = torch.load(tmp_path / "result.pt")
    whole = [torch.cat(parts) for parts in zip(batch(0), batch(1), strict=True)]
    drafter = model()
    torch.testing.assert_close(result["terms"], run(drafter, *whole), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result["gradient"], drafter.weight.grad, rtol=1e-10, atol=1e-12)


def test_the_exchange_over_ranks_can_be_replaced():
    nll = torch.rand(1, 1, 4, dtype=torch.float64)
    scores = BlockScores(nll, nll > 2, nll >= 0)
    alone = Losses()(scores)[0]
    torch.testing.assert_close(Losses()(scores, over_ranks=lambda weights: 2 * weights)[0], alone / 2)
