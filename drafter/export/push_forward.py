"""Push-forward models on disk: written as a whole beside their tokenizer, with checksums and a card."""

import shlex
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from drafter.export import DTYPES, check_place
from drafter.export.card import markdown_table
from drafter.export.original import read_state, weights_of
from drafter.export.record import RECORD, checksum, read_record
from drafter.files import atomically, write_json
from drafter.layouts.weights import SHARD_BYTES
from drafter.models.push_forward import PushForwardConfig, PushForwardModel
from drafter.models.storage import find, read_config
from drafter.verifier.tokenizer import load_tokenizer

KEPT = "push_forward"  # of a checkpoint: the config, and where the weights stand


def recognises(source: str) -> bool:
    """Whether `source` is the checkpoint of a stage, or the directory or hub id of a push-forward model."""
    path = Path(source).expanduser()
    if path.is_file():
        return KEPT in read_state(path)
    if path.is_dir() and not (path / "config.json").is_file():
        return False
    return PushForwardModel.recognises(read_config(find(source)))


def export_push_forward(
    source: str, directory: Path, dtype: str | None, verifier: str | None = None, shard_bytes: int = SHARD_BYTES
) -> str | None:
    """Write the push-forward model of a checkpoint, a directory or a hub id; returns its teacher's name, if known.

    Args:
        dtype: of the weights; None keeps the source's.
        verifier: whose tokenizer is written beside a checkpoint's model; None for that of the source, if it has one.
    Raises:
        ValueError: the source is none, or its weights are not those that were recorded.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
    path = Path(source).expanduser()
    if path.is_file():
        model, record = of_checkpoint(path)
    else:
        model, record = PushForwardModel.load(source), read_record(find(source))
        check_sums(model, record, str(find(source)))
    teacher = verifier or ((record.get("recipe") or {}).get("verifier") or {}).get("source")
    tokenizer = None
    if verifier:
        tokenizer = load_tokenizer(verifier)
    elif not path.is_file() and (find(source) / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(find(source), trust_remote_code=False)
    write(model.to(getattr(torch, dtype) if dtype else model.dtype), tokenizer, directory, record, shard_bytes)
    return teacher


def of_checkpoint(path: Path) -> tuple[PushForwardModel, dict[str, Any]]:
    """The model that a stage would leave at this checkpoint, and what the checkpoint says of its run.

    Raises:
        ValueError: weights are missing, or of another shape.
    """
    state = read_state(path)
    kept = state[KEPT]
    model = PushForwardModel(PushForwardConfig.from_dict(kept["config"]))
    try:
        model.load_state_dict(weights_of(state, kept["weights"]))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"checkpoint={str(path)!r}: its weights are not its model's ({reason}); train again") from None
    return model.eval(), {"recipe": kept["recipe"], "step": state.get("global_step")}


def write(
    model: PushForwardModel,
    tokenizer: Any,
    directory: Path,
    record: dict[str, Any],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model; an older export in `directory` is replaced once all is written and read back.

    Args:
        tokenizer: None writes none.
        record: what is known of the run, for `training.json` and the card.
    """
    check_place(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    sums = {name: checksum(value) for name, value in model.state_dict().items()}
    record = {**record, "sha256": sums}
    with atomically(directory, folder=True, over=True) as scratch:
        model.save_pretrained(scratch, max_shard_size=shard_bytes)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
        write_json(scratch / RECORD, record)
        check_sums(PushForwardModel.load(str(scratch)), record, str(directory))
        (scratch / "README.md").write_text(card(model, record, directory))


def check_sums(model: PushForwardModel, record: dict[str, Any], where: str) -> None:
    """Raise a ValueError unless the weights are those that were recorded, where they were."""
    sums = record.get("sha256") or {}
    for name, value in model.state_dict().items():
        if sums and sums.get(name) != checksum(value):
            raise ValueError(
                f"{where}: {name} is not what was exported (training.json has another checksum); export the checkpoint "
                "again, or delete training.json"
            )


def card(model: PushForwardModel, record: dict[str, Any], directory: Path) -> str:
    """What the model is, and what its run found."""
    recipe = record.get("recipe") or {}
    teacher = (recipe.get("verifier") or {}).get("source") or "its teacher"
    stages = record.get("stages") or []
    columns = list(stages[-1]) if stages else []
    rows = [[_short(stage.get(name, "")) for name in columns] for stage in stages]
    name = recipe.get("name") or directory.name
    return (
        f"# {name}\n\nA push-forward model (K-Forcing, arXiv:2606.10820) of `{teacher}`: "
        f"{model.tokens_per_pass} tokens per pass, sampled jointly; no verifier checks them, so what it writes is not "
        f"what its teacher would. Held out, stage by stage:\n\n{markdown_table(columns, rows)}\n\n"
        f"    drafter generate {shlex.quote(str(directory))} 'The beginning of a text'\n"
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
