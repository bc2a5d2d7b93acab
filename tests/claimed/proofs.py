"""What CUDA refuses and what it takes, each as a line of code: what each ended with, as JSON on standard output."""

import json

import claimed_device as device
import torch

REFUSED = {
    "there + here": "same device",
    "here @ there": "same device",
    "torch.tensor(1.0).add_(there[0])": "same device",
    "torch.cat([there, here])": "same device",
    "torch.where(there > 0, there, here)": "same device",
    "there.clone().index_copy_(0, torch.tensor([0]), there[:1])": "same device",
    "torch.nn.functional.embedding(torch.tensor([0]), there[:, None])": "same device",
    "here[torch.tensor([0], device='cuda')]": "indices should be either on cpu",
    "there.numpy()": "can't convert cuda:0 device type tensor to numpy",
    "torch.rand(2, device='cuda', generator=torch.Generator())": "'cuda' device type",
    "torch.zeros(1, device='cuda:1')": "invalid device ordinal",
    "torch.cuda.CUDAGraph()": "no streams, events and graphs",
}
TAKEN = [
    "(there * torch.tensor(2.0)).is_cuda",
    "there[torch.tensor([0, 2])].is_cuda",
    "(there.long() % 2).tolist() == [1, 1, 1]",
    "(view := there.clone()[1:]).zero_().is_cuda and view.tolist() == [0, 0]",
    "(whole := there.clone())[1:].zero_().is_cuda and whole.tolist() == [1, 0, 0]",
    "here.clone().copy_(there).is_cpu and there.clone().copy_(here).is_cuda",
    "torch.autograd.grad((w := there.clone().requires_grad_()).square().sum(), w)[0].tolist() == [2, 2, 2]",
    "(before := device.waits.total()) + 1 == [there.sum().item(), device.waits.total()][1]",
]


def ended(line: str, place: dict[str, object]) -> object:
    try:
        found = eval(line, place)  # the lines above
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return str(error)
    return bool(found) if isinstance(found, bool) else "went through"


if __name__ == "__main__":
    place = {"torch": torch, "device": device, "there": torch.ones(3, device="cuda"), "here": torch.ones(3)}
    refused = {line: (message, ended(line, place)) for line, message in REFUSED.items()}
    print(json.dumps({"refused": refused, "taken": {line: ended(line, place) for line in TAKEN}}))
