"""What the commands that decode have in common: models and sampling as arguments, checked before anything loads."""

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from drafter.decode import Costs
    from drafter.evaluation.suites import Case, Suite
    from drafter.models import Drafter
    from drafter.verifier import Verifier

log = logging.getLogger(__name__)
DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_models(parser: ArgumentParser, dtype: str, optional: bool = False) -> None:
    """DRAFTER and how both models are loaded."""
    parser.add_argument("drafter", metavar="DRAFTER", nargs="?" if optional else None, help="directory, or hub id")
    parser.add_argument("--verifier", required=not optional, help="hub id, directory, GGUF file or packaged name")
    parser.add_argument("--dtype", choices=DTYPES, default=dtype, help=f"of both models; default: {dtype}")
    parser.add_argument(
        "--draft-vocabulary",
        metavar="full|FILE[:N]",
        help='propose from the whole vocabulary, or the N most frequent tokens of answers or of JSON {"id": count}; '
        "default: as trained",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--attention", default="auto", help="sdpa, flash_attn, flash_cpu or auto")
    parser.add_argument("--compile", default="auto", help="passes as CUDA graphs, or in tiles on CPUs: on, off or auto")


def add_sampling(parser: ArgumentParser) -> None:
    """Temperature, and what `add_law` adds."""
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy, the default")
    add_law(parser)


def add_law(parser: ArgumentParser) -> None:
    """Top-p, top-k, seed and rule."""
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest tokens of this mass; 1: all")
    parser.add_argument("--top-k", type=int, default=0, help="keep this many likeliest tokens; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rule",
        metavar="NAME[:KEY=VALUE,...]",
        help="verification rule, lenient:lenience=0.3; default: match, when sampling block_verification",
    )


def add_suites(parser: ArgumentParser, prompts: int | None) -> None:
    """Which prompts, how many, how long the answers."""
    parser.add_argument(
        "--suites",
        nargs="+",
        required=True,
        metavar="SUITE",
        help="humaneval, mt_bench, gsm8k=FILE, or files of prompts",
    )
    every = "all" if prompts is None else prompts
    parser.add_argument("--prompts", type=int, default=prompts, help=f"of each suite, evenly spaced; default: {every}")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest answer; default: 128, or the suite's")
    parser.add_argument("--raw", action="store_true", help="prompts as they are, without the chat template")


def number_or_auto(text: str) -> int | str:
    """What `--draft-length` and `--tree-nodes` take."""
    return text if text == "auto" else int(text)


def require_positive(parsed: Namespace, *names: str) -> None:
    """Raise a ValueError unless the arguments of these names are at least 1, or left out."""
    for name in names:
        value = getattr(parsed, name)
        for one in value if isinstance(value, list) else [value]:
            if one not in (None, "auto") and one < 1:
                raise ValueError(f"{name.replace('_', '-')}={one}: must be >= 1")


def check_models(parsed: Namespace, drafter: str, *drafts: tuple[int | str | None, int | str | None]) -> int:
    """Compare a drafter's config with the verifier's; returns its usual draft length. No weights are read.

    Args:
        drafts: draft lengths and tree nodes that will be decoded with.
    Raises:
        ValueError: either can't be read, the drafter was made for another verifier, or a number is out of range.
    """
    from drafter.check.verifier import VerifierFacts
    from drafter.decode import Costs
    from drafter.decode.checks import check_decoder
    from drafter.evaluation.decoding import Decoding
    from drafter.models import BlockDiffusionDrafter, kind_of

    kind = kind_of(drafter)
    outline = kind.outline(drafter)
    if parsed.draft_vocabulary is not None and kind is not BlockDiffusionDrafter:
        raise ValueError(
            f"draft-vocabulary={parsed.draft_vocabulary!r}: {drafter!r} proposes from its own vocabulary; leave it out"
        )
    how, lengths = Decoding(rule=parsed.rule), (outline.longest, outline.draft_length)
    to_come = Costs(0.0, [0.0] * (1 + outline.draft_length))
    for length, nodes in drafts:
        if nodes is not None and not outline.trees:
            raise ValueError(f"tree-nodes={nodes}: the slots of {drafter!r} depend on each other; leave it out")
        check_decoder(*lengths, how.make_rule(), length, nodes, how.weight(), to_come)
    truths = VerifierFacts.load(parsed.verifier).truths
    for name, value in outline.made_for.items():
        if value != truths[name]:
            raise ValueError(
                f"drafter={drafter!r}: made for a verifier of {name}={value}, {parsed.verifier} has {truths[name]}; "
                "name the verifier that it was trained against"
            )
    return outline.draft_length


def require_blocks(drafters: Sequence[str]) -> None:
    """Raise a ValueError unless all are block-diffusion drafters, which alone draft at every position in one pass."""
    from drafter.models import BlockDiffusionDrafter, kind_of

    for one in drafters:
        if kind_of(one) is not BlockDiffusionDrafter:
            raise ValueError(f"by='walk': {one!r} is no block-diffusion drafter; use --by decoder")


def draft_vocabulary(parsed: Namespace) -> list[int] | None:
    """The ids that may be proposed, ascending; none of them for the whole vocabulary, None for the drafter's own.

    Raises:
        ValueError: what was named counts no tokens, or those of another verifier.
    """
    from drafter.check.verifier import VerifierFacts
    from drafter.config.drafter import counted
    from drafter.data.counts import draft_vocabulary

    if parsed.draft_vocabulary in (None, "full"):
        return None if parsed.draft_vocabulary is None else []
    path, number = counted(parsed.draft_vocabulary)
    if not Path(path).exists():
        raise ValueError(
            f"draft-vocabulary={parsed.draft_vocabulary!r}: no such file; name full, or a file of answers or counts"
        )
    if number == 0:
        raise ValueError(f"draft-vocabulary={parsed.draft_vocabulary!r}: take at least one token")
    return draft_vocabulary(path, number, VerifierFacts.load(parsed.verifier).truths["vocab_size"])


def check_sampling(parsed: Namespace, temperature: float) -> None:
    """Raise a ValueError if a temperature, top-p, top-k or rule is none."""
    from drafter.decode.sampling import check_law
    from drafter.evaluation.decoding import Decoding

    check_law(temperature, parsed.top_p, parsed.top_k)
    Decoding(rule=parsed.rule).make_rule()


def read_suites(parsed: Namespace) -> dict[str, tuple["Suite", list["Case"]]]:
    """Each suite and its cases, evenly spaced.

    Raises:
        ValueError: a suite is unknown, broken or named twice.
    """
    from drafter.evaluation.suites import evenly, read_cases, read_suite

    found: dict[str, tuple[Suite, list[Case]]] = {}
    for word in parsed.suites:
        suite = read_suite(word)
        if suite.name in found:
            raise ValueError(f"suites: {suite.name!r} is named twice; leave one out")
        found[suite.name] = suite, evenly(read_cases(suite), parsed.prompts)
    return found


def load_verifier(parsed: Namespace) -> "Verifier":
    """The verifier in the dtype and on the device asked for; it thinks before it answers if it did in training."""
    from torch import device as torch_device

    from drafter.attention import choose_kernel
    from drafter.export.record import keeps_reasoning, read_record
    from drafter.machine.devices import choose_device
    from drafter.models.storage import find
    from drafter.verifier import Verifier
    from drafter.verifier.compiling import check_compile

    device = choose_device(parsed.device)
    dtype = choose_dtype(parsed.dtype, device)
    choose_kernel(parsed.attention, torch_device(device), dtype)  # what can't run is told before anything loads
    check_compile(parsed.compile, torch_device(device), dtype)
    verifier = Verifier.load(parsed.verifier, dtype, device, parsed.attention, parsed.compile)
    if parsed.drafter is not None:
        verifier.keep_reasoning = keeps_reasoning(read_record(find(parsed.drafter)))
    return verifier


def load_drafter(source: str, verifier: "Verifier", vocabulary: list[int] | None = None) -> "Drafter":
    """A drafter of any kind beside its verifier; a warning where it was trained against other weights of that shape.

    Args:
        vocabulary: as `draft_vocabulary` returns it.
    """
    import torch

    from drafter.export.record import read_record
    from drafter.models import BlockDiffusionDrafter, kind_of
    from drafter.models.storage import find

    drafter = kind_of(source).beside(source, verifier)
    trained = read_record(find(source)).get("verifier")
    if trained is not None and not verifier.is_of(trained):
        log.warning(
            "drafter=%r: trained against other weights (%s, these are %s); tokens stay the verifier's, fewer drafts "
            "may be kept",
            source,
            trained,
            verifier.fingerprint(),
        )
    if vocabulary is not None and isinstance(drafter, BlockDiffusionDrafter):
        drafter.vocabulary = torch.tensor(vocabulary, device=verifier.device) if vocabulary else None
    return drafter


def costs_of(
    verifier: "Verifier",
    drafter: "Drafter",
    drafts: tuple[int | str | None, int | str | None],
    context: int,
) -> "Costs | None":
    """Costs of passes of one row, measured here where a draft length or a number of tree nodes is `auto`."""
    from drafter.evaluation.grid import Drafts

    return Drafts(*drafts).costs(verifier, drafter, context)


def choose_dtype(requested: str, device: str) -> "torch.dtype":
    """A torch dtype by name; `auto` measures which is faster here."""
    from drafter.machine.precision import choose

    return choose(requested, device)


def settings(parsed: Namespace) -> dict[str, Any]:
    """What a command was asked for, as `--json` keeps it."""
    plain = (int, float, list, str, type(None))
    return {
        name: value if isinstance(value, plain) else str(value)
        for name, value in vars(parsed).items()
        if name not in ("run", "command", "json", "out", "prompt")
    }


def encode(verifier: "Verifier", prompt: str, raw: bool) -> list[int]:
    """Ids of a prompt: as they are, or one user turn in the chat template."""
    return verifier.tokenizer.encode(prompt) if raw else verifier.chat_ids(prompt)
