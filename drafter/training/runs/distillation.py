"""`system: distillation`, from recipe to summary: text → rows → a stage after the other → export → what it writes.

Every stage has a folder of its own and goes on after a kill; one that has ended is read from there.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from transformers import AutoConfig

from drafter.config import DistillationConfig, Stage, require
from drafter.data.texts import TextRows, make_text_rows, read_documents
from drafter.evaluation.free_running import compare_speed, compare_writing, nats_of_text, stages_table
from drafter.evaluation.measured import cells, table
from drafter.evaluation.report import Picture
from drafter.export import push_forward
from drafter.export.original import weights_of
from drafter.export.record import provenance
from drafter.files import write_csv, write_json
from drafter.machine.devices import choose_device
from drafter.machine.precision import choose
from drafter.machine.ranks import own_device, ranks
from drafter.models import PushForwardModel
from drafter.models.push_forward import PushForwardConfig
from drafter.training.batches.texts import TextFeed
from drafter.training.checkpoints import read_checkpoint, seconds_of
from drafter.training.claim import begun_in, claim
from drafter.training.distillation.module import MONITOR, DistillationModule, stage_figures
from drafter.training.fitting import fit
from drafter.training.logs import Metrics
from drafter.training.pictures import draw_metrics, rates, read_metrics
from drafter.training.plan import absent, config_here, steps
from drafter.training.report import close_page, open_page
from drafter.training.room import Fit, expected, weights_of_model
from drafter.verifier import Verifier
from drafter.verifier.conversion import resolve
from drafter.verifier.tokenizer import tokenizer_hash

log = logging.getLogger(__name__)
JUDGED = (
    "Nothing checks these tokens: how far they are from what the teacher writes is in the tables. Perplexity under "
    "another model falls where a model repeats itself; read it beside distinct n-grams, entropy and repetition (the "
    "share of an answer's 4-grams that it had before)."
)


def train(config: DistillationConfig) -> dict[str, Any]:
    """Run a recipe; returns what `summary.json` holds (nothing on all ranks but the first).

    Raises:
        ValueError: something does not fit, or the directory holds a run of another recipe.
    """
    began = time.perf_counter()
    directory = claim(config)
    device = own_device(config.training.devices, choose_device(config.verifier.device))
    verifier = Verifier.load(config.verifier.source, torch.float32, device, config.verifier.attention)
    warn_of_coarse_weights(config.verifier.source)
    context, length = verifier.config.max_position_embeddings, config.text.sequence_length
    require(length <= context, "text.sequence_length", length, f"the teacher reads {context} tokens; lower it")
    known, new = config.trial.prompt_tokens, config.trial.new_tokens
    remedy = f"the teacher reads {context} tokens, {known} of the prompt among them; lower it"
    require(known + new <= context, "trial.new_tokens", new, remedy)
    rows = make_text_rows(read_documents(config.text), verifier.tokenizer, config.text)
    log.info("%d documents: %d training rows, %d held out", rows.documents, len(rows.training), len(rows.held_out))
    lightning.seed_everything(config.seed, verbose=False)
    given = {0: beginning(config, verifier)}
    finished: dict[int, PushForwardModel] = {}
    if config.student.start != "verifier":
        finished[given[0].tokens_per_pass] = given[0]
    student, found = given[0], []
    prepared = time.perf_counter() - began
    for at, stage in enumerate(config.stages):
        teacher = teacher_of(config, stage, verifier, finished)
        student, scores = run_stage(config, at, stage, student, teacher, rows, device)
        finished[stage.tokens_per_pass] = student
        found.append({"tokens_per_pass": stage.tokens_per_pass, **scores})
    if rank_zero_only.rank:
        return {}
    trained = time.perf_counter()
    summary: dict[str, Any] = {"stages": found, "provenance": provenance()}
    export(config, verifier, student, directory / "export", summary)
    offsets = stages_table(found, nats_of_text(verifier, rows.held_out))
    write_csv(directory / "stages.csv", offsets)
    print(table(offsets), end="\n\n")
    texts, tables = trial(config, verifier, student, rows.held_out, directory)
    summary |= {"offsets": offsets, **tables}
    each = [seconds_of(stage_folder(config, at) / "checkpoints")["train"] for at in range(len(found))]
    seconds = {"prepare": prepared, "train": sum(each), "evaluate": time.perf_counter() - trained}
    summary |= {"seconds": sum(seconds.values()), "seconds_by_stage": seconds}
    write_json(directory / "summary.json", summary)
    report(config, summary, texts, device)
    return summary


def outlook(config: DistillationConfig) -> list[str]:
    """Steps of every stage, the student's size, and what all checkpoints take of the disk."""
    device, lines = choose_device(config.verifier.device), []
    for one in config.stages:
        told = steps(one, ranks(one.devices, device, one.nodes))
        lines.append(f"stage of {one.tokens_per_pass} tokens per pass: {told}")
    teacher = config_here(config.verifier.source)
    if teacher is None:
        return [*lines, absent(config.verifier.source)]
    with torch.device("meta"):
        weights = weights_of_model(PushForwardModel(PushForwardConfig(backbone=teacher.to_dict())))
    saved = weights * (2 if config.student.average else 1)
    return [
        *lines,
        f"student: {weights / 4e6:.4g} M parameters",
        expected([Fit(stage, saved, weights, weights) for stage in config.stages], config.directory),
    ]


def beginning(config: DistillationConfig, verifier: Verifier) -> PushForwardModel:
    """The student before its first stage.

    Raises:
        ValueError: it has another vocabulary than the teacher, or none can be read.
    """
    start = config.student
    low, high = start.temperatures
    if start.start == "verifier":
        return PushForwardModel.from_verifier(verifier, 1, (low, high), start.noise_periods)
    model = PushForwardModel.load(start.start, torch.float32, verifier.device)
    ours, theirs = len(model.head), len(verifier.head)
    remedy = f"has a vocabulary of {ours} tokens, the teacher of {theirs}; start from a student of this teacher"
    require(ours == theirs, "student.start", start.start, remedy)
    return model


def teacher_of(
    config: DistillationConfig, stage: Stage, verifier: Verifier, finished: dict[int, PushForwardModel]
) -> Verifier | PushForwardModel:
    """The verifier, or the student that gives half as many tokens.

    Raises:
        ValueError: there is no such student.
    """
    if config.objective != "self_forcing" or stage.tokens_per_pass == 1:
        return verifier
    half = stage.tokens_per_pass // 2
    remedy = f"its teacher gives {half} tokens, and none was trained; add the stage before it"
    require(half in finished, "stages: tokens_per_pass", stage.tokens_per_pass, remedy)
    return finished[half]


def run_stage(
    config: DistillationConfig,
    at: int,
    stage: Stage,
    student: PushForwardModel,
    teacher: Verifier | PushForwardModel,
    rows: TextRows,
    device: str,
) -> tuple[PushForwardModel, dict[str, float]]:
    """One stage, or what it left; the model, without gradients, and its held-out scores."""
    folder = stage_folder(config, at)
    torch.manual_seed(config.seed)
    module = DistillationModule(config, stage, student.widened(stage.tokens_per_pass), teacher, rows.held_out)
    feed = TextFeed(rows.training, stage, config.seed + at, ranks(stage.devices, device, stage.nodes))
    dtype = begun_in(folder, stage, device)
    best = fit(module.to(device), feed, folder, stage, MONITOR, device=device, dtype=dtype, left=module.left)
    module.to(device).result.load_state_dict(weights_of(read_checkpoint(best), module.left))
    model = module.result.requires_grad_(False).eval()
    scores = {name: float(value) for name, value in stage_figures("held_out", module.held_out_scores()).items()}
    if not rank_zero_only.rank:
        Metrics(folder).merged()
    return model, scores


def export(
    config: DistillationConfig, verifier: Verifier, model: PushForwardModel, folder: Path, summary: dict[str, Any]
) -> None:
    """Model, tokenizer, what is remembered of the run, and a card."""
    made_for = {"verifier": verifier.fingerprint(), "tokenizer": tokenizer_hash(verifier.tokenizer)}
    push_forward.write(model, verifier.tokenizer, folder, {"recipe": asdict(config), **made_for, **summary})


def trial(
    config: DistillationConfig, verifier: Verifier, model: PushForwardModel, held_out: Tensor, directory: Path
) -> tuple[dict[str, str], dict[str, Any]]:
    """Let teacher and student write, and time them; tables are printed and kept: (a text of each way, tables)."""
    settings, rows = config.trial, held_out.tolist()
    judge = None if settings.judge is None else Verifier.load(settings.judge, torch.float32, str(verifier.device))
    writing, texts = compare_writing(verifier, model, rows, settings, judge)
    speed = compare_speed(*timed(config, verifier, model), rows, settings)
    write_csv(directory / "writing.csv", writing)
    write_csv(directory / "speed.csv", speed)
    for name, text in texts.items():
        print(f"--- {name}\n{text}\n")
    print(table(writing), table(speed), sep="\n\n")
    return texts, {"writing": writing, "speed": speed}


def report(config: DistillationConfig, summary: dict[str, Any], texts: Mapping[str, str], device: str) -> None:
    """`report.html`: how fast, what was written and how it scores, stage by stage."""
    page, speeds = open_page(config, summary), defaultdict[str, dict[str, float]](dict)
    for one in summary["speed"]:
        speeds[f"batch {one['batch_size']}"][one["way"]] = one["tokens_per_second"]
    page.picture(rates(speeds))
    page.text(JUDGED)
    for title, records in (("How fast", summary["speed"]), ("What was written", summary["writing"])):
        page.heading(title)
        page.table(*cells(records))
    for name, text in texts.items():
        page.passage(name, text)
    page.heading("Stage by stage")
    panels = []
    for at, stage in enumerate(config.stages):
        count = stage.tokens_per_pass
        records = read_metrics(stage_folder(config, at) / "metrics.csv")
        columns = {f"train/nll_{offset}": f"token {offset}" for offset in range(1, count + 1)}
        panels.append(partial(draw_metrics, records, columns, f"{count} per pass: nats behind the teacher's token"))
    page.picture(Picture("curves", "training loss of every token over steps, stage by stage", panels))
    page.table(*cells(summary["offsets"]))
    close_page(page, config, summary, device)


def stage_folder(config: DistillationConfig, at: int) -> Path:
    """Where a stage writes."""
    return config.directory / "stages" / f"{at}_gives_{config.stages[at].tokens_per_pass}"


def timed(config: DistillationConfig, verifier: Verifier, model: PushForwardModel) -> tuple[Verifier, PushForwardModel]:
    """Teacher and student in the precision of `trial`: read again, not cast, where that is another."""
    device = str(verifier.device)
    dtype = choose(config.trial.precision, device)
    if dtype == verifier.dtype:
        return verifier, model
    teacher = Verifier.load(config.verifier.source, dtype, device, config.verifier.attention)
    return teacher, PushForwardModel.load(str(config.directory / "export"), dtype, device)


def warn_of_coarse_weights(source: str) -> None:
    """Say so where the teacher is stored in 16 bits: its law is that of rounded weights, though computed in float32."""
    stored = AutoConfig.from_pretrained(resolve(source), trust_remote_code=False).dtype
    if stored in (torch.bfloat16, torch.float16):
        log.warning(
            "verifier.source=%r: stored in %s; targets are computed in float32: none contradict", source, stored
        )
