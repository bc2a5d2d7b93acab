"""Several devices train one drafter, a process each: how many there are, and which is this process's own."""

import os

import torch


def ranks(devices: str, device: str, nodes: int = 1) -> int:
    """How many processes train.

    Args:
        devices: of a node, as `training.devices`: `auto`, a number, or the indices of some.
        device: what the verifier runs on.
    """
    if devices == "auto":
        return nodes * (torch.cuda.device_count() if device.startswith("cuda") else 1)
    return nodes * (int(devices) if devices.isdigit() else len(devices.split(",")))


def is_first() -> bool:
    """Whether this process is the first of all that train together, as launchers say it before any has met another."""
    said = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    return not any(int(os.environ.get(name) or 0) for name in said)


def own_device(devices: str, device: str) -> str:
    """The device of this process; the launcher of several says in LOCAL_RANK, or SLURM, which of its node it is."""
    if device != "cuda" or ranks(devices, device) == 1:
        return device
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return f"cuda:{devices.split(',')[local] if ',' in devices else local}"


def lightning_devices(devices: str, device: str) -> int | str | list[int]:
    """What Lightning is told, so that it trains where the verifier is."""
    if devices == "1" and device.startswith("cuda:"):
        return [int(device.removeprefix("cuda:"))]
    return int(devices) if devices.isdigit() else devices
