"""K-Forcing against the clock at any size: tokens per second of 1, 2, 4 tokens per pass over the teacher's own loop.

    python benchmarks/k_forcing.py [--verifier smollm2] [--batch-sizes 1 8 32] [--csv FILE]
    python benchmarks/k_forcing.py --random Qwen3-1.7B --batch-sizes 1 8 32 64 128 256

Speed does not ask what the weights have learned, so the student is the teacher with an untrained noise encoder, and a
teacher of random weights does as well. No token ends an answer: every row has its whole length, as in the paper's
throughput. Both loops are ours, over the same kind of cache, with CUDA graphs where there is CUDA (`--compile on` makes
a pass without one an error); they take turns, and the clock runs behind the prefill. The teacher decodes greedily and
by inverse CDF, which students imitate; speed-ups are over the faster one of both.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from drafter.decode import FreeDecoder, Generation, SpeculativeDecoder
from drafter.evaluation.free_running import Decode, rates
from drafter.evaluation.measured import table
from drafter.export.record import hardware, provenance
from drafter.files import write_csv
from drafter.machine.devices import choose_device
from drafter.machine.precision import choose
from drafter.models import PushForwardModel
from drafter.models.push_forward import for_decoding
from drafter.verifier import Verifier

GREEDY, SAMPLED = "teacher, greedy", "teacher, by inverse CDF"
SHAPES: dict[str, dict[str, Any]] = {  # of models whose weights are drawn here
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512},
    "Qwen3-0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "vocab_size": 151_936},
    "Qwen3-1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "vocab_size": 151_936},
}
HEADS = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}


@contextmanager
def made_of(dtype: torch.dtype, device: Any) -> Iterator[None]:
    """Weights that are made inside are of that dtype, on that device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def random_verifier(shape: str, dtype: torch.dtype, device: str, compile: str) -> Verifier:
    """A Qwen3 of that shape with random weights."""
    config = AutoConfig.for_model("qwen3", max_position_embeddings=4096, **SHAPES[shape], **HEADS)
    torch.manual_seed(0)
    with made_of(dtype, device):
        return Verifier(AutoModelForCausalLM.from_config(config).eval(), compile=compile)


def ways_of(verifier: Verifier, tokens_per_pass: list[int], compile: str) -> dict[str, Decode]:
    """The teacher both ways, then an untrained student at each number of tokens per pass; no answer ends early."""
    verifier.tokenizer, verifier.model.generation_config.eos_token_id = None, None  # nothing stops
    with made_of(verifier.dtype, verifier.device):
        model = PushForwardModel.from_verifier(verifier, max(tokens_per_pass)).to(verifier.dtype).eval()
    model = for_decoding(model, compile)  # once for all of them

    def greedily(prompts: Sequence[list[int]], limit: int, **how: Any) -> list[Generation]:
        return teacher.generate(prompts, limit, **{**how, "temperature": 0.0})

    teacher = SpeculativeDecoder(verifier)
    found: dict[str, Decode] = {
        GREEDY: greedily,
        SAMPLED: SpeculativeDecoder(verifier, rule="shared_noise").generate,
    }
    for count in tokens_per_pass:
        found[f"k = {count}"] = FreeDecoder(model, None, count, compile=compile).generate
    return found


def measure(options: argparse.Namespace, verifier: Verifier) -> list[dict[str, Any]]:
    """A record for every way at every batch size; a size that does not fit the device ends it."""
    ways, records = ways_of(verifier, options.tokens_per_pass, options.compile), list[dict[str, Any]]()
    prompt = [1 + at % (len(verifier.head) - 1) for at in range(options.prompt_tokens)]
    for size in options.batch_sizes:
        try:
            found = rates(ways, [prompt] * size, options.new_tokens, 1.0, options.tries)
        except torch.OutOfMemoryError:
            print(f"batch size {size}: does not fit the device's memory; left out with all above", flush=True)
            break
        best = max(found[GREEDY][0], found[SAMPLED][0])
        lines = [
            {"batch_size": size, "way": way, "tokens_per_pass": each, "tokens_per_second": rate, "speedup": rate / best}
            for way, (rate, each) in found.items()
        ]
        print(table(lines), flush=True)
        records += lines
        if options.csv:  # size by size: what ends it early loses nothing
            write_csv(options.csv, records)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verifier", default="smollm2")
    parser.add_argument("--random", choices=list(SHAPES), help="random weights of that shape in place of --verifier")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--tokens-per-pass", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--tries", type=int, default=3, help="laps behind the warm-up; the best of each way counts")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16")
    parser.add_argument("--device")
    parser.add_argument("--compile", default="auto", help="CUDA graphs, tiles on a CPU: auto, on, off")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = choose_device(options.device or "auto")
    dtype = choose(options.dtype, device)
    load = partial(random_verifier, options.random) if options.random else partial(Verifier.load, options.verifier)
    verifier = load(dtype=dtype, device=device, compile=options.compile)
    weights = sum(weight.numel() for weight in verifier.model.parameters())
    about = f"{options.random or options.verifier}, {weights / 1e6:.0f} M weights, {str(dtype).removeprefix('torch.')}"
    print(about, hardware(device), *(f"{name} {value}" for name, value in provenance().items()), sep="; ", flush=True)
    measure(options, verifier)


if __name__ == "__main__":
    main()
