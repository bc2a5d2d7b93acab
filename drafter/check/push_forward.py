"""A push-forward export against its teacher: what it says of itself, its weights, and that its passes agree."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drafter.check.behaviour import default_prompts
from drafter.check.report import Finding, Report
from drafter.check.tensors import check_files, check_tokenizer
from drafter.check.verifier import VerifierFacts
from drafter.decode import SpeculativeDecoder, tokens_per_cycle
from drafter.export.record import checksum
from drafter.models import PushForwardModel
from drafter.verifier import Verifier
from drafter.verifier.tokenizer import load_tokenizer, tokenizer_hash

NEW_TOKENS, LISTED, NEAR = 24, 4, 1e-3


def check_push_forward(
    path: Path,
    config: Mapping[str, Any],
    record: dict[str, Any],
    theirs: VerifierFacts,
    report: Report,
    dynamic: bool,
    device: str,
) -> Report:
    """Findings, notes and numbers of a push-forward export go into `report`, which is returned."""
    report.layout = "push-forward"
    report.findings += check_config(config, theirs)
    report.findings += check_files(path)
    report.findings += check_tokenizer(record, theirs)
    report.findings += _own_tokenizer(path, theirs)
    if not record.get("sha256"):
        report.notes.append("training.json holds no checksums: these weights were not compared with those of training")
    if report.ok:
        try:
            model = PushForwardModel.load(str(path), None, device)
        except ValueError as error:
            report.findings.append(Finding("weights", str(error)))
            return report
        report.findings += check_weights(model, record.get("sha256") or {})
    if dynamic and report.ok:
        _behaviour(path, theirs, record, report, device)
    elif dynamic:
        report.notes.append("nothing was decoded: correct the above first")
    if report.ok:
        where, teacher = shlex.quote(str(path)), shlex.quote(theirs.name)
        report.serve = {"here, alone": f"drafter generate {where} 'The beginning of a text'"}
        report.serve["here, without loss"] = f"drafter generate {where} --verifier {teacher} --temperature 1 TEXT"
    return report


def check_config(config: Mapping[str, Any], theirs: VerifierFacts) -> Iterator[Finding]:
    """What `config.json` says, by itself and beside the teacher's."""
    backbone, count = config.get("backbone"), config.get("tokens_per_pass")
    if not isinstance(backbone, dict) or "model_type" not in backbone:
        yield Finding("backbone", f"backbone={backbone!r}: is no config of a language model; export again")
    if not (isinstance(count, int) and not isinstance(count, bool) and count >= 1):
        yield Finding("tokens_per_pass", f"tokens_per_pass={count!r}: must be a whole number >= 1; export again")
    warmth = config.get("temperatures")
    if not (isinstance(warmth, list) and len(warmth) == 2 and all(map(_number, warmth)) and 0 < warmth[0] <= warmth[1]):
        yield Finding("temperatures", f"temperatures={warmth!r}: must be the lowest and the highest, > 0; export again")
    periods: Any = config.get("noise_periods")
    if not (_number(periods) and periods > 0):
        yield Finding("noise_periods", f"noise_periods={periods!r}: must be a number > 0; export again")
    stops, size = config.get("stop_ids"), theirs.truths["vocab_size"]
    if not (isinstance(stops, list) and all(isinstance(one, int) and 0 <= one < size for one in stops)):
        yield Finding("stop_ids", f"stop_ids={stops!r}: must be ids of the teacher's, below {size}; export again")
    elif not stops:
        yield Finding("stop_ids", "stop_ids=[]: nothing would end a text; write the teacher's")
    own = _text(backbone).get("vocab_size") if isinstance(backbone, dict) else None
    if own is not None and own != size:
        yield Finding("backbone.vocab_size", f"backbone.vocab_size={own}: the teacher has {size}; name its own teacher")


def check_weights(model: PushForwardModel, sums: Mapping[str, str]) -> list[Finding]:
    """Values and checksums; that names and shapes fit, loading has seen."""
    found = []
    for name, value in model.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            found.append(Finding(name, f"{name}: holds NaN or infinity; export an earlier checkpoint"))
        elif sums and sums.get(name) != checksum(value):
            found.append(Finding(name, f"{name}: is not what was exported (checksum in training.json); export again"))
    if len(found) > LISTED:
        found[LISTED:] = [Finding("tensors", f"{len(found) - LISTED} more tensors like these; export again")]
    return found


@torch.no_grad()
def check_passes(model: PushForwardModel, temperature: float) -> Iterator[Finding]:
    """Fewer tokens are the first of more; a cache changes nothing; the packed pass of training is that of decoding."""
    count, generator = model.tokens_per_pass, torch.Generator().manual_seed(0)
    ids = torch.randint(len(model.head), (1, 9), generator=generator).to(model.device)
    noise = torch.rand(1, count, generator=generator, dtype=torch.float64).to(model.device)
    warmth = torch.full((1,), temperature, device=model.device)

    def alone(known: Tensor, noise: Tensor) -> Tensor:
        return model.push(known, noise, warmth, model.new_cache(1, known.shape[1] + count))

    whole = alone(ids, noise)  # [1, G, D]
    for fewer in range(1, count):
        if not _near(alone(ids, noise[:, :fewer]), whole[:, :fewer]):
            yield Finding("prefix", f"prefix: {fewer} tokens are not the first of {count}; a slot sees those behind it")
            break
    cache = model.new_cache(1, ids.shape[1] + 2 * count)
    model.push(ids[:, :6], noise, warmth, cache)  # what is behind the six is not committed
    cache.set_lengths([6])
    if not _near(model.push(ids[:, 6:], noise, warmth, cache), whole):
        yield Finding("cache", "cache: passes over a cache differ from one over the whole row; noise was kept in it")
    packed = model(ids, noise[:, None].expand(-1, ids.shape[1], -1), warmth)
    if not _near(packed[:, -1], whole):
        yield Finding("packed", "packed: the pass of training differs from that of decoding; correct its masks")


def _behaviour(path: Path, theirs: VerifierFacts, record: Mapping[str, Any], report: Report, device: str) -> None:
    """Both models in float32: passes that agree, and drafts that change nothing."""
    verifier = Verifier.load(theirs.name, torch.float32, device, "sdpa")
    recorded = record.get("verifier")
    if recorded is None:
        report.notes.append("training.json names no teacher: whether this is the one of training was not checked")
    elif not verifier.is_of(recorded):
        report.findings.append(
            Finding(
                "verifier",
                f"verifier={theirs.name!r}: has other weights than the teacher ({verifier.fingerprint()}, not "
                f"{recorded}); name the model that this one was distilled from",
            )
        )
    model = PushForwardModel.load(str(path), torch.float32, device)
    warmth = float(model.config.temperatures[1])
    report.findings += check_passes(model, warmth)
    prompts = default_prompts(verifier)
    ways = (SpeculativeDecoder(verifier, drafter, "shared_noise") for drafter in (None, model))
    plain, drafted = (way.generate(prompts, NEW_TOKENS, warmth, batch_size=len(prompts)) for way in ways)
    differ = sum(one.token_ids != other.token_ids for one, other in zip(plain, drafted, strict=True))
    report.measured |= {
        "prompts": len(prompts),
        "tokens_per_pass": model.tokens_per_pass,
        "sampled_mismatches": differ,
        "tokens_per_cycle": tokens_per_cycle(drafted),
    }


def _own_tokenizer(path: Path, theirs: VerifierFacts) -> Iterator[Finding]:
    if not (path / "tokenizer_config.json").is_file():
        return
    try:
        own = tokenizer_hash(load_tokenizer(str(path)))
    except ValueError as error:
        yield Finding("tokenizer", str(error))
        return
    if own != theirs.tokenizer:
        yield Finding("tokenizer", f"{path}: its tokenizer is not the teacher's ({theirs.name!r}); export again")


def _near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=NEAR, atol=NEAR * float(other.abs().max()))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(backbone: Mapping[str, Any]) -> Mapping[str, Any]:
    found = backbone.get("text_config")
    return found if isinstance(found, dict) else backbone
