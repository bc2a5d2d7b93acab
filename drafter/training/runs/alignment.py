"""One run, from recipe to summary: rows → taps → training → export → decoding. Every stage goes on after a kill."""

import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from drafter import config as configs
from drafter.config import Config, require
from drafter.decode import Costs, SpeculativeDecoder, tokens_per_cycle
from drafter.evaluation.agreement import best_draft_length, compare_answers, compare_greedy, measure_speed, table
from drafter.evaluation.probe import probe, walk_along
from drafter.evaluation.timing import measure_costs
from drafter.evaluation.walk import Walk, walk
from drafter.export import export
from drafter.export.card import add_results
from drafter.export.record import licence, provenance
from drafter.files import write_json
from drafter.machine.ranks import lightning_devices, ranks
from drafter.models import BlockDiffusionDrafter
from drafter.taps import TapCache
from drafter.training.batches import Steps, Streamed, loader, readers
from drafter.training.logs import Metrics, callbacks, loggers
from drafter.training.module import Batches, DrafterModule
from drafter.training.pictures import curves, kept_per_slot
from drafter.training.prepare import Material, held_out_batches, prepare, taps_of
from drafter.verifier import Verifier
from drafter.verifier.tokenizer import tokenizer_hash

log = logging.getLogger(__name__)


def train(config: Config) -> dict[str, Any]:
    """Run a recipe; returns what `summary.json` holds (nothing on all ranks but the first).

    Raises:
        ValueError: something does not fit, or the directory holds a run of another recipe.
    """
    began = time.perf_counter()
    directory = claim(config)
    material = settle(directory, prepare(config))
    drafter, verifier = material.drafter, material.verifier
    exactly = replace(config.data.cache, dtype="auto")
    exact = taps_of(material.held_out, verifier, drafter, "held-out rows", settings=exactly)
    fast = Verifier.load(config.verifier.source, material.fast, material.device, config.verifier.attention)
    taps = training_taps(config, material, fast)
    module = DrafterModule(config, drafter, verifier if taps else fast, held_out_batches(material, exact))
    untrained = module.walk()
    log.info("tokens per cycle before training: %.3f", untrained.tokens_per_cycle)
    prepared = time.perf_counter()

    metrics = Metrics(directory)
    best = fit(config, module, taps, material, metrics)
    if rank_zero_only.rank:
        return {}
    state = torch.load(best, map_location=material.device, weights_only=True)
    drafter.load_state_dict({name.removeprefix("drafter."): value for name, value in state["state_dict"].items()})
    trained = time.perf_counter()

    module.drafter = drafter = export(drafter, directory / "export", describe(config, material, module, state))
    leading = module.leading()
    found = walk(leading, drafter.block_size - 1)
    result = decode_both_ways(config, material, fast, drafter, leading)
    curves(metrics.merged(), directory / "curves.png")
    kept_per_slot(untrained.kept_share, found.kept_share, directory / "accepted_per_slot.png")
    now = time.perf_counter()
    summary = {
        "tokens_per_cycle": found.tokens_per_cycle,
        "accepted_per_cycle": found.accepted_per_cycle,
        "tokens_per_cycle_untrained": untrained.tokens_per_cycle,
        **result,
        "parameters": sum(weight.numel() for weight in drafter.parameters()),
        "steps": state["global_step"],
        "train_rows": material.train_rows,
        "train_tokens": material.train_tokens,
        "anchor_coverage": module.coverage.share,
        "draft_vocabulary": verifier.head.shape[0] if drafter.vocabulary is None else len(drafter.vocabulary),
        "precision": str(material.fast).removeprefix("torch."),
        "seconds": now - began,
        "seconds_by_stage": {"prepare": prepared - began, "train": trained - prepared, "evaluate": now - trained},
    }
    write_json(directory / "summary.json", summary)
    low, high = found.interval()
    suite = {"tokens_per_cycle": found.tokens_per_cycle, "low": low, "high": high, "prompts": len(material.held_out)}
    add_results(directory / "export", {**summary, "suites": {"held-out": suite}})
    return summary


def settle(directory: Path, material: Material) -> Material:
    """The precision that this run began in: asked anew, a busy machine, or another one, may find another faster."""
    path = directory / "precision.json"
    if (directory / "checkpoints").exists() and path.is_file():
        return replace(material, fast=getattr(torch, json.loads(path.read_text())["precision"]))
    write_json(path, {"precision": str(material.fast).removeprefix("torch.")})
    return material


def training_taps(config: Config, material: Material, verifier: Verifier) -> TapCache | None:
    """The cache of the training rows' taps, as `data.taps` asks for; None where steps make their own."""
    if config.data.taps == "online":
        return None
    rows, settings = material.training, config.data.cache
    lazily = config.data.taps == "cached_on_first_epoch"
    passes = Steps(rows, None, config).first_epoch() if lazily else None
    return taps_of(rows, verifier, material.drafter, "training rows", config.needs_states, settings, passes)


def describe(config: Config, material: Material, module: DrafterModule, state: dict[str, Any]) -> dict[str, Any]:
    """What an export remembers of its run; the drafter still holds the weights as trained."""
    walked = state.get("drafter", {}).get("tokens_per_cycle")  # None where this checkpoint was not the one validated
    return {
        "recipe": asdict(config),
        "step": state["global_step"],
        "data": material.manifest,
        "verifier": material.verifier.fingerprint(),
        "verifier_licence": licence(config.verifier.source),
        "tokenizer": tokenizer_hash(material.verifier.tokenizer),
        "tokens_per_cycle": module.walk().tokens_per_cycle if walked is None else walked,
        "probe": probe(material.verifier, material.drafter, material.held_out_ids).as_dict(),
        "provenance": provenance(),
    }


def claim(config: Config) -> Path:
    """The run's directory, holding its resolved recipe.

    Raises:
        ValueError: it holds a run of another recipe.
    """
    directory = config.directory
    path = directory / "config.yaml"
    if (directory / "checkpoints").exists() and not _holds(path, config):  # without one there is nothing to lose
        raise ValueError(
            f"name={config.name!r}: {directory} holds a run of another recipe; choose another name or delete it"
        )
    directory.mkdir(parents=True, exist_ok=True)
    configs.save(config, path)
    return directory


def _holds(path: Path, config: Config) -> bool:
    try:
        return configs.load(path) == config
    except ValueError:  # missing, or of another version
        return False


def fit(config: Config, module: DrafterModule, taps: TapCache | None, material: Material, metrics: Metrics) -> Path:
    """Train, from the last checkpoint if there is one; returns the path of the best."""
    settings = config.training
    folder = config.directory / "checkpoints"
    world = ranks(settings.devices, material.device)
    module.readers = readers(config, world) if material.streaming else 0
    last = folder / "last.ckpt"
    state = torch.load(last, map_location="cpu", weights_only=True) if last.is_file() else {}
    first = state.get("global_step", 0)
    if first:
        module.on_load_checkpoint(state)  # now: a run that has ended is not loaded by the trainer
        log.info("resuming %s at step %d of %d", config.name, first, settings.max_steps)
        found = state["readers"]
        remedy = f"the checkpoint is of a stream's {found} readers; train with as many, or under another name"
        require(found == module.readers, "training.devices", settings.devices, remedy)
    trainer = lightning.Trainer(
        accelerator="cpu" if material.device == "cpu" else "gpu",
        devices=lightning_devices(settings.devices, material.device),
        strategy=settings.strategy,
        precision="bf16-mixed" if material.fast is torch.bfloat16 else "32-true",
        max_steps=settings.max_steps,
        accumulate_grad_batches=settings.accumulate,
        val_check_interval=(settings.validate_every or steps_per_epoch(config, material, world)) * settings.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=settings.log_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        callbacks=callbacks(folder, settings.max_steps),
        logger=loggers(metrics.part(first), config.directory),
    )

    begin, end = first * settings.accumulate, settings.max_steps * settings.accumulate
    places = dict(module.places)

    def batches(rank: int) -> DataLoader:
        disk = material.streaming
        if disk:
            made = Streamed(disk.stream, disk.make, config, rank, world, begin, places)
            return loader(made, begin, end, settings.workers)
        return loader(Steps(material.training, taps, config, rank, world), begin, end, settings.workers)

    if first < settings.max_steps:
        trainer.fit(module, datamodule=Batches(batches), ckpt_path=last if first else None, weights_only=True)
        if taps:
            taps.close()
        module.to(material.device)  # the trainer leaves a module on the CPU
    best = folder / "best.ckpt"
    return best if best.is_file() else last


def steps_per_epoch(config: Config, material: Material, world: int) -> int:
    """Optimiser steps in which the training rows in memory are seen once."""
    return max(1, Steps(material.training, None, config, 0, world).order.steps_per_epoch // config.training.accumulate)


def choose_length(config: Config, costs: Costs, leading: list[list[int]]) -> tuple[int, Walk]:
    """The recipe's draft length, or the best by the costs measured here; with the held-out walk at that length."""
    length = config.decoding.draft_length
    return (length, walk(leading, length)) if length else best_draft_length(costs, leading)


def decode_both_ways(
    config: Config, material: Material, fast: Verifier, drafter: BlockDiffusionDrafter, leading: list[list[int]]
) -> dict[str, Any]:
    """Decode held-out prompts plainly and speculatively: exactly in float32, then against the clock.

    Args:
        leading: matches of the drafter at every anchor of the held-out rows.
    """
    settings = config.decoding
    prompts = material.held_out_ids[: settings.prompts]
    agreement = compare_greedy(material.verifier, drafter, prompts, settings.max_new_tokens)
    same = walk_along(agreement.plain, prompts, material.verifier, drafter)
    compared = [agreement]
    if settings.tree_nodes:
        decoder = SpeculativeDecoder(material.verifier, drafter, tree_nodes=settings.tree_nodes)
        answers = decoder.generate(prompts, settings.max_new_tokens, batch_size=len(prompts))
        compared.append(compare_answers(material.verifier, prompts, agreement.plain, answers))
    mismatches, ties = sum(one.mismatches for one in compared), sum(one.ties for one in compared)

    exported = config.directory / "export"  # read, not cast: `.to` would round the frequencies of the positions, too
    quick = BlockDiffusionDrafter.from_pretrained(exported, dtype=fast.dtype, device=material.device)
    wide = measure_costs(fast, quick, widest=1 + (settings.tree_nodes or 0))
    costs = Costs(wide.draft, wide.verify[: quick.block_size])
    length, ideal_walk = choose_length(config, costs, leading)
    speeds = measure_speed(fast, quick, prompts, settings.max_new_tokens, length, settings.tree_nodes)
    plain, speculative = max(speeds[:2], key=lambda one: one.tokens_per_second), speeds[2]
    ideal = costs.ideal(ideal_walk.tokens_per_cycle, length)
    if settings.tree_nodes:
        ideal = wide.ideal(speculative.tokens_per_cycle, settings.tree_nodes)
    print(table(speeds))
    print(f"float32: {mismatches} mismatches, {ties} ties in {len(prompts)} prompts")
    return {
        "tokens_per_cycle_decoded": tokens_per_cycle(agreement.speculative),
        "tokens_per_cycle_walk_of_decoded": same.tokens_per_cycle,
        "greedy_mismatches": mismatches,
        "greedy_ties": ties,
        "verifier_calls": speculative.verifier_calls,
        "verifier_calls_plain": plain.verifier_calls,
        "speedup": speculative.tokens_per_second / plain.tokens_per_second,
        "speedup_ideal": ideal,
        "draft_length": length,
        "tree_nodes": settings.tree_nodes,
        "tokens_per_cycle_timed": speculative.tokens_per_cycle,
        "tokens_per_second": {one.name: one.tokens_per_second for one in speeds},
        "milliseconds": {"draft": costs.draft * 1e3, "verify": [seconds * 1e3 for seconds in costs.verify]},
    }
