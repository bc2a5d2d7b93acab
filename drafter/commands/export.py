"""A checkpoint, or a drafter in any layout → a directory that engines load: weights, config, model card.

A push-forward model, or the checkpoint of a stage that trains one, becomes a directory that `generate` loads.
"""

import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="CHECKPOINT", help="checkpoint of a run, directory of a drafter, or hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to write; an old export there is replaced")
    parser.add_argument("--layout", default="canonical", help="canonical, transformers or speculators")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16, float16, float32, or keep")
    parser.add_argument("--verifier", help="what it drafts for; default: the verifier that training recorded")
    parser.add_argument(
        "--verifier-dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="where it is run; default: float32",
    )
    parser.add_argument("--shard-gigabytes", type=float, default=5.0, help="largest weights file")
    parser.add_argument("--evaluation", type=Path, help="JSON with `suites`, for the model card")
    parser.add_argument("--push", metavar="REPO", help="check, then upload to this repository of the hub")
    parser.add_argument("--public", action="store_true", help="let everyone see the pushed repository")


def run(parsed: Namespace) -> None:
    from drafter.export import convert, open_original, push_forward
    from drafter.export.card import add_results
    from drafter.export.hub import check_name, push
    from drafter.export.suites import read_suites

    suites = read_suites(parsed.evaluation) if parsed.evaluation else None
    if parsed.shard_gigabytes <= 0:
        raise ValueError(f"shard-gigabytes={parsed.shard_gigabytes}: must be > 0")
    if parsed.push:
        check_name(parsed.push)
    if push_forward.recognises(parsed.source):
        return _push_forward(parsed, None if parsed.dtype == "keep" else parsed.dtype)
    source = open_original(parsed.source)
    verifier = parsed.verifier or source.verifier
    if parsed.push and verifier is None:
        raise ValueError(f"push={parsed.push!r}: is checked first; say against what with --verifier")
    known: dict[str, Any] = {}
    if parsed.verifier and Path(parsed.source).is_file() and "probe" not in source.training:
        known = _measured(source, parsed.verifier, parsed.verifier_dtype)
    convert(
        parsed.source,
        parsed.out,
        parsed.layout,
        dtype=None if parsed.dtype == "keep" else parsed.dtype,
        verifier=parsed.verifier,
        known=known,
        shard_bytes=int(parsed.shard_gigabytes * 1e9),
    )
    if suites:
        add_results(parsed.out, {"suites": suites})
    print(f"{parsed.out}: written in the {parsed.layout} layout; check it: {_check(parsed.out, verifier)}")
    if parsed.push and verifier:
        from drafter.check import check

        report = check(parsed.out, verifier, verifier_dtype=parsed.verifier_dtype)
        print(report)
        if not report.ok:
            raise ValueError(f"push={parsed.push!r}: the check found something wrong; nothing was uploaded")
        print(push(parsed.out, parsed.push, private=not parsed.public))


def _push_forward(parsed: Namespace, dtype: str | None) -> None:
    from drafter.export.push_forward import export_push_forward

    for name, given in (
        ("layout", parsed.layout != "canonical"),
        ("evaluation", parsed.evaluation),
        ("push", parsed.push),
    ):
        if given:
            raise ValueError(
                f"{name}={getattr(parsed, name)!r}: is of block-diffusion drafters, and this is none; leave it out"
            )
    teacher = export_push_forward(parsed.source, parsed.out, dtype, parsed.verifier, int(parsed.shard_gigabytes * 1e9))
    print(f"{parsed.out}: written; check it: {_check(parsed.out, teacher)}")


def _check(directory: Path, verifier: str | None) -> str:
    """The command that checks what was written."""
    return f"drafter check {shlex.quote(str(directory))} --verifier {shlex.quote(verifier or 'VERIFIER')}"


def _measured(source: Any, verifier: str, dtype: str) -> dict[str, Any]:
    """What training would have recorded, of a checkpoint whose run recorded nothing."""
    import torch

    from drafter.check.behaviour import default_prompts
    from drafter.evaluation.probe import probe
    from drafter.export.record import licence
    from drafter.models import BlockDiffusionDrafter
    from drafter.models.block_config import BlockDiffusionConfig
    from drafter.models.storage import settings_of
    from drafter.verifier import Verifier
    from drafter.verifier.tokenizer import tokenizer_hash

    loaded = Verifier.load(verifier, getattr(torch, dtype), attention="sdpa")
    drafter = BlockDiffusionDrafter(BlockDiffusionConfig(**settings_of(source.facts))).eval()
    drafter.load_state_dict({name: source.tensor(name) for name in drafter.state_dict()})
    drafter.vocabulary = source.vocabulary
    drafter.check_verifier(loaded)
    return {
        "verifier": loaded.fingerprint(),
        "verifier_licence": licence(verifier),
        "tokenizer": tokenizer_hash(loaded.tokenizer),
        "probe": probe(loaded, drafter, default_prompts(loaded)).as_dict(),
    }
