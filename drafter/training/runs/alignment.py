"""`system: alignment`, from recipe to summary: rows → taps → training → export → decoding.

Every stage goes on after a kill.
"""

import logging
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from drafter.config import AlignmentConfig
from drafter.config.data import ELSEWHERE
from drafter.data.rows import Rows
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.probe import probe
from drafter.evaluation.walk import walk
from drafter.export import export
from drafter.export.card import add_results
from drafter.export.record import licence, provenance
from drafter.files import write_json
from drafter.machine.ranks import ranks
from drafter.taps import LocalTaps, TapSource
from drafter.training.batches import Steps
from drafter.training.batches.feed import Feed
from drafter.training.checkpoints import read_checkpoint, seconds_of
from drafter.training.claim import claim
from drafter.training.elsewhere import taps_elsewhere
from drafter.training.fitting import fit
from drafter.training.logs import Metrics
from drafter.training.module import MONITOR, DrafterModule, trained_weights
from drafter.training.pictures import curves, kept_per_slot, rates, read_metrics
from drafter.training.plan import outlook as outlook
from drafter.training.plan import plan
from drafter.training.prepare import Material, batches_of, prepare, taps_of
from drafter.training.report import close_page, open_page
from drafter.training.trial import decode_both_ways
from drafter.verifier import Verifier, VerifierHead
from drafter.verifier.tokenizer import tokenizer_hash

log = logging.getLogger(__name__)


def train(config: AlignmentConfig) -> dict[str, Any]:
    """Run a recipe; returns what `summary.json` holds (nothing on all ranks but the first).

    Raises:
        ValueError: something does not fit, or the directory holds a run of another recipe.
    """
    began = time.perf_counter()
    directory = claim(config)
    with closing(prepare(config, directory)) as material:
        return stages(config, directory, material, began)


def stages(config: AlignmentConfig, directory: Path, material: Material, began: float) -> dict[str, Any]:
    """The stages of a run whose material is ready."""
    drafter, verifier = material.drafter, material.verifier
    first = rank_zero_only.rank == 0  # the others train, and see no held-out row
    validation = exact_batches(config, material, "validation") if first else []
    test = exact_batches(config, material, "test") if first else []
    fast = verifier  # one serves both where both are float32, or where half precision was asked for
    exact = verifier.dtype is torch.float32
    if exact and material.fast is not verifier.dtype and isinstance(verifier, Verifier):
        fast = Verifier.load(config.verifier.source, material.fast, material.device, config.verifier.attention)
    with closing(training_taps(config, material, fast)) as taps:
        module = DrafterModule(config, drafter, verifier, validation)
        untrained = walk(module.leading(test), drafter.block_size - 1)
        if first:
            log.info("tokens per cycle before training: %.3f", untrained.tokens_per_cycle)

        prepared = time.perf_counter() - began
        world = ranks(config.training.devices, material.device, config.training.nodes)
        batches = Feed(config, material.training, material.on_disk, taps, world)
        if first:
            for line in plan(config, material, batches, world):
                log.info(line)
        best = fit(
            module,
            batches,
            directory,
            config.training,
            MONITOR,
            device=material.device,
            dtype=material.fast,
            prepared=prepared,
            left=module.left,
            more=True,
        )
    if not first:
        return {}
    state, trained = read_checkpoint(best), time.perf_counter()
    module.drafter = drafter.to(material.device)  # whole again, where ranks shared it out
    drafter.load_state_dict(trained_weights(state))

    module.drafter = drafter = export(drafter, directory / "export", describe(config, material, module, state))
    chosen_by, leading = module.leading(validation), module.leading(test)
    found = walk(leading, drafter.block_size - 1)
    prompts = material.test_prompts[: config.decoding.prompts]
    exported = directory / "export"
    result: dict[str, Any] = {}
    if isinstance(verifier, Verifier) and isinstance(fast, Verifier) and not verifier.undecodable:
        result = decode_both_ways(config.decoding, prompts, verifier, drafter, fast, exported, chosen_by, leading)
    else:
        log.info("%s: the run ends with the walk; nothing was decoded", verifier.undecodable)
    Metrics(directory).merged()
    seconds = seconds_of(best.parent) | {"evaluate": time.perf_counter() - trained}
    summary = {
        "tokens_per_cycle": found.tokens_per_cycle,
        "accepted_per_cycle": found.accepted_per_cycle,
        "tokens_per_cycle_untrained": untrained.tokens_per_cycle,
        "tokens_per_cycle_validation": walk(chosen_by, drafter.block_size - 1).tokens_per_cycle,
        **result,
        "parameters": sum(weight.numel() for weight in drafter.parameters()),
        "steps": state["global_step"],
        "train_rows": material.train_rows,
        "train_tokens": material.train_tokens,
        "limits": material.limits,
        "anchor_coverage": module.coverage.share,
        "draft_vocabulary": verifier.head.shape[0] if drafter.vocabulary is None else len(drafter.vocabulary),
        "not_decoded": verifier.undecodable,  # why, or None
        "precision": str(material.fast).removeprefix("torch."),
        "seconds": sum(seconds.values()),
        "seconds_by_stage": seconds,
    }
    write_json(directory / "summary.json", summary)
    report(config, summary, untrained, found, material.device)
    sure = found.interval()
    suite = {"tokens_per_cycle": sure.value, "low": sure.low, "high": sure.high, "prompts": len(material.test)}
    add_results(directory / "export", {**summary, "suites": {"held-out": suite}})
    return summary


def report(config: AlignmentConfig, summary: dict[str, Any], untrained: Cycles, found: Cycles, device: str) -> None:
    """`report.html`: curves, slots before and after training, speeds."""
    page = open_page(config, summary)
    shown = [curves(read_metrics(config.directory / "metrics.csv"))]
    shown.append(kept_per_slot(untrained.kept_share, found.kept_share))
    if "tokens_per_second" in summary:
        shown.append(rates({"test prompts, one by one": summary["tokens_per_second"]}))
    page.picture(*shown)
    close_page(page, config, summary, device)


def exact_batches(config: AlignmentConfig, material: Material, part: str) -> list[tuple[Rows, Tensor]]:
    """The `validation` or the `test` rows with their taps in float32, whatever training runs in."""
    rows = material.validation if part == "validation" else material.test
    verifier, drafter, settings = material.verifier, material.drafter, replace(config.data.cache, dtype="auto")
    if isinstance(verifier, Verifier):
        return batches_of(rows, taps_of(rows, verifier, drafter, f"{part} rows", settings=settings))
    assert material.states is not None
    exact = taps_elsewhere(config, material.states, verifier, rows, drafter.tap_layers, False, torch.float32)
    return batches_of(rows, exact)


def training_taps(config: AlignmentConfig, material: Material, verifier: VerifierHead) -> TapSource:
    """Where the taps of the training rows come from, as `data.taps` asks."""
    rows, settings, layers = material.training, config.data.cache, material.drafter.tap_layers
    if config.data.taps in ELSEWHERE:
        assert material.states is not None
        return taps_elsewhere(config, material.states, verifier, rows, layers, config.needs_states, material.fast)
    assert isinstance(verifier, Verifier)
    if config.data.taps == "online":
        return LocalTaps(verifier, layers, config.needs_states)
    lazily = config.data.taps == "cached_on_first_epoch"
    passes = Steps(rows, None, config).first_epoch() if lazily else None
    return taps_of(rows, verifier, material.drafter, "training rows", config.needs_states, settings, passes)


def describe(
    config: AlignmentConfig, material: Material, module: DrafterModule, state: dict[str, Any]
) -> dict[str, Any]:
    """What an export remembers of its run; the drafter still holds the weights as trained."""
    verifier, probed = material.verifier, None
    if isinstance(verifier, Verifier) and not verifier.undecodable:
        probed = probe(verifier, material.drafter, material.test_prompts).as_dict()
    walked = state.get("drafter", {}).get("tokens_per_cycle")  # None where this checkpoint was not the one validated
    return {
        "recipe": asdict(config),
        "step": state["global_step"],
        "data": material.manifest,
        "verifier": material.verifier.fingerprint(),
        "verifier_licence": licence(config.verifier.source),
        "tokenizer": tokenizer_hash(material.verifier.tokenizer),
        "tokens_per_cycle": module.walk().tokens_per_cycle if walked is None else walked,
        "probe": probed,
        "provenance": provenance(),
    }
