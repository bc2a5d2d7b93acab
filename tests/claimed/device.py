"""Run a Python program on a machine without a GPU as if it had one: tensors of two devices must not meet.

    python tests/claimed/device.py SCRIPT [words ...]
    python tests/claimed/device.py -m MODULE [words ...]

backend.cpp gives torch a device `cuda:0` whose memory is the CPU's. Every operation on it comes here: `kernel` looks at
the devices of its arguments as CUDA's kernels do, computes with the CPU's kernel and puts the result on the device.
Dispatcher, autograd, autocast, indexing and serialisation are torch's own, with their own messages.

It finds: operations on two devices, `.numpy()` of a device's tensor, a generator of the wrong device, the device used
in a forked process, branches taken only where `torch.cuda.is_available()`; and it counts what makes the host wait
(`waits`). It can't find: races, graphs (a capture raises, as a failed one does), CUDA's numbers and limits, several
devices. What runs here may fail there.
"""

import collections
import ctypes
import functools
import hashlib
import importlib.util
import operator
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

MESSAGE = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
COPIES = {"copy_", "fill_.Tensor", "masked_fill_.Tensor"}  # they take a tensor, or a number, from anywhere
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive"}


def load() -> None:
    """Compile the backend, once per version of torch, and load it; torch looks for a device when it is imported."""
    if "torch" in sys.modules:
        sys.exit("claimed device: torch is imported already")
    found = importlib.util.find_spec("torch")
    places = found.submodule_search_locations if found else None
    if not places:
        sys.exit("claimed device: there is no torch")
    torch_folder = Path(places[0])
    source = Path(__file__).with_name("backend.cpp").read_bytes()
    made_of = source + (torch_folder / "version.py").read_bytes() + str(torch_folder).encode()
    name = hashlib.sha256(made_of).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"claimed-device-{os.getuid()}" / f"{name}.so"
    if not library.is_file():
        library.parent.mkdir(mode=0o700, exist_ok=True)
        scratch = library.with_suffix(f".{os.getpid()}")
        include, lib = torch_folder / "include", torch_folder / "lib"
        words = ["g++", "-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(scratch)]
        words += [f"-I{include}", f"-I{include}/torch/csrc/api/include", f"-L{lib}", f"-Wl,-rpath,{lib}"]
        subprocess.run([*words, "-lc10", "-ltorch_cpu", "-ltorch"], input=source, check=True)
        scratch.rename(library)
    ctypes.CDLL(str(library))


load()
import torch  # noqa: E402

waits: collections.Counter[str] = collections.Counter()
PLAIN = {bool, int, float, complex, str, type(None), torch.dtype, torch.layout, torch.memory_format}
MADE = torch.ops.claimed_device
TO_DEVICE, TO_HOST = MADE.to_device.default, MADE.to_host.default
VIEW_OF, FOLLOW = MADE.view_of.default, MADE.follow.default
state = {"forked": False}
FALLBACK, ATEN = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")


@functools.cache
def scalars_pass() -> frozenset[str]:
    """Operations that take a CPU scalar beside tensors of the device: those whose devices TensorIterator looks at."""
    text = (Path(torch.__file__).parents[1] / "torchgen/packaged/ATen/native/native_functions.yaml").read_text()
    blocks = re.split(r"^- func: ", text, flags=re.MULTILINE)[1:]
    return frozenset(one.split("(")[0] for one in blocks if "device_check: NoCheck" in one)


class Facts(NamedTuple):
    """What is asked of an operation each time it runs."""

    packet: str
    name: str
    tensors: tuple[tuple[int, str, bool], ...]  # arguments that are tensors, or lists of them: place, name, written to
    draws: bool  # random numbers
    writes: bool  # to one of its arguments
    waits: bool  # perhaps


@functools.cache
def facts(op: Any) -> Facts:
    schema = op._schema
    packet = schema.name.removeprefix("aten::")
    found = [
        (place, one.name, one.alias_info is not None and one.alias_info.is_write)
        for place, one in enumerate(schema.arguments)
        if "Tensor" in str(one.type)
    ]
    draws = torch.Tag.nondeterministic_seeded in op.tags
    waits = packet in WAITING | {"_to_copy", "copy_"}
    name = f"{packet}.{schema.overload_name}".rstrip(".")
    return Facts(packet, name, tuple(found), draws, any(written for *_, written in found), waits)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of every leaf of lists, tuples and dicts but plain ones; pytrees take longer than the operations."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is list or kind is tuple:
        return kind([mapped(function, one) for one in value])
    if kind is dict:
        return {key: mapped(function, one) for key, one in value.items()}
    return function(value)


def look(of: Facts, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise as CUDA does where a tensor of the CPU is among the arguments, unless CUDA takes it."""
    if state["forked"]:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess; use the 'spawn' start method")
    if of.name in COPIES:
        return
    for place, name, written in of.tensors:
        value = args[place] if place < len(args) else kwargs.get(name)
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(tensor, torch.Tensor) or tensor.is_cuda:
                continue
            scalar = tensor.dim() == 0 and not written and of.name in scalars_pass()
            index = of.packet in INDEXING and name == "indices" and args[0].is_cuda
            if not (scalar or index):
                raise RuntimeError(f"{MESSAGE} (argument {name} of {of.name} is on the cpu)")


def count(of: Facts, args: tuple, kwargs: dict[str, Any]) -> None:
    """Take note of what makes the host wait for the device."""
    to_host = of.packet == "_to_copy" and torch.device(kwargs.get("device") or "cuda").type == "cpu"
    to_host = to_host or (of.packet == "copy_" and args[0].is_cpu and args[1].is_cuda)
    if of.packet in WAITING or to_host:
        waits[of.packet] += 1


def kernel(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Every operation of the device. It is written for speed: a run asks for hundreds of thousands."""
    of = facts(op)
    look(of, args, kwargs)
    if of.waits:
        count(of, args, kwargs)
    hosts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by identity: a CPU twin, and what it stands for
    owners: dict[int, torch.Tensor] = {}  # by storage: whose views may come out
    drawn: list[tuple[torch.Generator, torch.Generator]] = []

    def host(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            twin = value
            if value.is_cuda:
                twin = TO_HOST(value)
                owners[twin.untyped_storage()._cdata] = value
            hosts[id(twin)] = twin, value
            return twin
        if isinstance(value, torch.device) and value.type == "cuda":
            torch.cuda.set_device(value)  # refuses one that is not there
            return torch.device("cpu")
        if isinstance(value, torch.Generator):
            if value.device.type != "cuda":
                raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{value.device.type}'")
            drawn.append((value, torch.Generator().set_state(value.get_state())))
            return drawn[-1][1]
        return value

    def device(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in hosts:
            return hosts[id(value)][1]
        owner = owners.get(value.untyped_storage()._cdata)
        return TO_DEVICE(value) if owner is None else VIEW_OF(owner, value)

    for place, *_ in of.tensors:
        if place < len(args) and type(args[place]) in (bool, int, float):  # the dispatcher unwraps numbers
            args = (*args[:place], torch.tensor(args[place]), *args[place + 1 :])
    args, kwargs = mapped(host, args), mapped(host, kwargs)
    if of.draws and not drawn:  # from the device's own numbers, not the CPU's
        (own,) = torch.cuda.default_generators
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(own.get_state())
            result = op(*args, **kwargs)
            own.set_state(torch.default_generator.get_state())
    else:
        result = op(*args, **kwargs)
    for generator, used in drawn:
        generator.set_state(used.get_state())
    for twin, tensor in hosts.values() if of.writes else ():
        if twin.data_ptr() != tensor.data_ptr() or twin.shape != tensor.shape or twin.stride() != tensor.stride():
            FOLLOW(tensor, twin)
    return mapped(device, result)


def claim() -> None:
    """Give the rest of this process a device."""
    sys.modules["flash_attn"] = None  # type: ignore[assignment]  # importing it is an ImportError
    os.register_at_fork(after_in_child=lambda: state.update(forked=True))
    FALLBACK.fallback(kernel, "CUDA")
    registered = torch._C._dispatch_get_registrations_for_dispatch_key
    composed = {*registered("CompositeExplicitAutograd"), *registered("CompositeImplicitAutograd")}
    for name in {*registered("CPU")} & composed | {"aten::copy_"}:  # a fallback stands behind composed kernels
        path = name.replace("::", ".") + ("" if "." in name else ".default")
        ATEN.impl(name, functools.partial(kernel, operator.attrgetter(path)(torch.ops)), "CUDA")
    ATEN.impl("_fused_sdp_choice", lambda *_, **__: 0, "CUDA")  # attention of smaller operations
    plain = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    for overload in ("source_Storage", "source_Storage_storage_offset", "source_Tensor"):
        ATEN.impl(
            f"set_.{overload}", functools.partial(getattr(torch.ops.aten.set_, overload).redispatch, plain), "CUDA"
        )
    persuade()


def persuade() -> None:
    """Answer for the device where the Python side of torch asks."""

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("the claimed device has no streams, events and graphs")

    def constant(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    def set_device(device: Any) -> None:
        if torch.device(device).index not in (None, 0):
            raise RuntimeError("CUDA error: invalid device ordinal")

    about = SimpleNamespace(name="claimed", major=8, minor=0, total_memory=0, multi_processor_count=1)
    answers: dict[str, Callable[..., Any]] = {"set_device": set_device}
    groups: list[tuple[Any, str]] = [
        (None, "empty_cache init ipc_collect reset_peak_memory_stats synchronize _lazy_init"),
        (True, "is_available is_initialized is_bf16_supported"),
        (0, "current_device _exchange_device _maybe_exchange_device"),
        (0, "memory_allocated max_memory_allocated memory_reserved"),
        (1, "device_count"),
        (False, "is_current_stream_capturing"),
        ((8, 0), "get_device_capability"),
        (about.name, "get_device_name"),
        (about, "get_device_properties"),
        ((0, 0), "mem_get_info"),
        ({}, "memory_stats"),
    ]
    for value, names in groups:
        answers |= dict.fromkeys(names.split(), constant(value))
    streams = "current_stream default_stream stream set_stream graph_pool_handle make_graphed_callables"
    answers |= dict.fromkeys(streams.split(), refuse)
    cuda: Any = torch.cuda
    for name, answer in answers.items():
        for module in (cuda, cuda.random, cuda.memory):
            if module is cuda or hasattr(module, name):
                setattr(module, name, answer)
    for kind in (cuda.Stream, cuda.Event, cuda.CUDAGraph, cuda.graph):
        kind.__new__ = refuse
    cuda.default_generators = (torch.Generator("cuda"),)
    made: Any = torch._C.StorageBase.__new__

    def storage(cls: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
        if device is None or torch.device(device).type != "cuda":
            return made(cls, *args, device=device, **kwargs)
        return torch.empty(args[0] if args else 0, dtype=torch.uint8, device="cuda").untyped_storage()

    torch.UntypedStorage.__new__ = storage  # type: ignore[method-assign]


def main(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        sys.exit(__doc__)
    claim()
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    sys.path[0] = os.getcwd() if module else str(Path(words[0]).resolve().parent)
    if module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    sys.modules["claimed_device"] = sys.modules["__main__"]
    main(sys.argv[1:])
