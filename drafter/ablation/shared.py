"""What all runs of an ablation use, made once: the verifier, rows, answers to the suites' prompts, taps."""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from drafter import answers
from drafter.ablation.spec import HELD_OUT, Ablation, differences, recipe_of
from drafter.answers import digest
from drafter.config import AlignmentConfig, require
from drafter.config.data import ELSEWHERE
from drafter.data.conversations import Prompt
from drafter.data.rows import Row, Rows, make_rows, pad, split
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.walk import exact_head, leading_matches, walk
from drafter.export.record import hardware, provenance
from drafter.files import write_json
from drafter.models import BlockDiffusionDrafter
from drafter.regenerate import regenerate
from drafter.taps import LocalTaps, TapCache, TapsElsewhere, TapSource
from drafter.training.claim import begun_in
from drafter.training.elsewhere import taps_elsewhere
from drafter.training.prepare import (
    ROWS_PER_PASS,
    Material,
    batches_of,
    check_answers,
    open_verifier,
    prepare,
    taps_of,
)
from drafter.verifier import Verifier, VerifierHead

RECORD = "ablation.json"
TRAINING = "training rows"


class Shared:
    """The part of an ablation that does not depend on the arm.

    Args:
        spec: of the ablation; its directory is claimed for it.
    Raises:
        ValueError: the directory holds runs that can't be compared with these; or what `prepare` raises.
    """

    def __init__(self, spec: Ablation):
        self.spec, self.base = spec, spec.base_config()
        remedy = "the runs of an ablation share rows and taps in memory; take a part of the data, data.streaming=false"
        require(not self.base.data.streaming, "data.streaming", self.base.data.streaming, remedy)
        if set(spec.suites) != {HELD_OUT}:
            self.base.verifier.require_body("answering a suite", f"compare on suites=[{HELD_OUT}] alone")
        prompts = spec.prompts()
        self.material = prepare(self.base)
        self.needs_states = any(spec.config(*run).needs_states for run in spec.runs())
        self._rows = {self.base.data.answers: self.material.training}
        for arm in spec.arms:
            path = spec.config(arm, spec.seeds[0]).data.answers
            if path not in self._rows:
                self._rows[path] = self._read(arm)
        self._claim()
        self.suites = {
            name: self.material.test if name == HELD_OUT else self._answered(name, prompts[name])
            for name in spec.suites
        }
        whole = self.material.verifier
        self._verifiers = dict.fromkeys({torch.float32, whole.dtype}, whole)
        if whole.dtype is not torch.float32:  # one copy was asked for
            self._verifiers |= dict.fromkeys((torch.bfloat16, torch.float16), whole)
        self._taps: dict[tuple, TapCache | TapsElsewhere] = {}
        self._validation: dict[tuple[int, ...], list[tuple[Rows, Tensor]]] = {}

    def about(self) -> dict[str, str]:
        """What a report says of all runs."""
        return {
            "base recipe": " ".join([self.spec.base, *self.spec.overrides]),
            "verifier": f"{self.base.verifier.source} ({self.material.verifier.fingerprint()})",
            **{self._named(path): _size(rows) for path, rows in self._rows.items()},
            "precision": str(self.material.fast).removeprefix("torch."),
            **{name: value for name, value in provenance().items()},
            "hardware": hardware(self.material.device),
        }

    def training(self, config: AlignmentConfig) -> list[Row]:
        """The rows that a run trains on: its own answers where its arm names some, never a held-out document's."""
        return self._rows[config.data.answers]

    def precision(self, config: AlignmentConfig) -> torch.dtype:
        """What a run trains in: the base's choice, measured once, unless the arm names another."""
        same = config.training.precision == self.base.training.precision
        return self.material.fast if same else begun_in(config.directory, config.training, self.material.device)

    def verifier(self, dtype: torch.dtype) -> VerifierHead:
        if dtype not in self._verifiers:
            self._verifiers[dtype] = open_verifier(self.base.verifier, dtype, self.material.device)
        return self._verifiers[dtype]

    def taps(
        self, what: str, rows: list[Row], drafter: BlockDiffusionDrafter, dtype: torch.dtype, final: bool = False
    ) -> TapCache | TapsElsewhere:
        key = (what, tuple(drafter.tap_layers), dtype, final)
        if key not in self._taps:
            settings, verifier = self.base.data.cache, self.verifier(dtype)
            settings = settings if what.startswith(TRAINING) else replace(settings, dtype="auto")
            if isinstance(verifier, Verifier):
                self._taps[key] = taps_of(rows, verifier, drafter, what, final, settings)
            else:
                self._taps[key] = self._elsewhere(self.base, rows, drafter, dtype, final)
        return self._taps[key]

    def training_taps(self, config: AlignmentConfig, drafter: BlockDiffusionDrafter, dtype: torch.dtype) -> TapSource:
        """Of the training rows; from the disk with the final states where any arm wants them."""
        verifier = self.verifier(dtype)
        if self.base.data.taps in ELSEWHERE:
            return self._elsewhere(config, self.training(config), drafter, dtype, config.needs_states)
        if self.base.data.taps == "online" and isinstance(verifier, Verifier):
            return LocalTaps(verifier, drafter.tap_layers, config.needs_states)
        return self.taps(self._named(config.data.answers), self.training(config), drafter, dtype, self.needs_states)

    def _elsewhere(
        self, config: AlignmentConfig, rows: list[Row], drafter: BlockDiffusionDrafter, dtype: torch.dtype, final: bool
    ) -> TapsElsewhere:
        states, verifier = self.material.states, self.verifier(dtype)
        assert states is not None
        return taps_elsewhere(config, states, verifier, rows, drafter.tap_layers, final, dtype)

    def validation(self, drafter: BlockDiffusionDrafter) -> list[tuple[Rows, Tensor]]:
        """Batches that training validates on."""
        key = tuple(drafter.tap_layers)
        if key not in self._validation:
            taps = self.taps("validation rows", self.material.validation, drafter, torch.float32)
            self._validation[key] = batches_of(self.material.validation, taps)
        return self._validation[key]

    def walks(self, drafter: BlockDiffusionDrafter) -> dict[str, list[Cycles]]:
        """Cycles along the answer to each prompt of each suite, in float32."""
        verifier, length = self.material.verifier, drafter.block_size - 1
        head, found = exact_head(drafter, verifier), {}
        for name, rows in self.suites.items():
            taps = self.taps(name, rows, drafter, torch.float32)
            order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
            walks: dict[int, Cycles] = {}
            for start in tqdm(range(0, len(order), ROWS_PER_PASS), desc=f"walk of {name}", leave=False):
                some = order[start : start + ROWS_PER_PASS]
                batch = pad([rows[index] for index in some]).to(verifier.device)
                leading = leading_matches(drafter, verifier, batch, taps.padded(some).to(verifier.device), head)
                walks |= {index: walk([row], length) for index, row in zip(some, leading, strict=True)}
            found[name] = [walks[index] for index in range(len(rows))]
        return found

    def _read(self, arm: str) -> list[Row]:
        config, verifier = self.spec.config(arm, self.spec.seeds[0]), self.material.verifier
        found, manifest = answers.read(Path(config.data.answers))
        check_answers(config, verifier, manifest)
        rows = make_rows(found, verifier, config.data.sequence_length, config.data.cut_loops)
        return split(rows, config.data.validation_share)[0][: config.data.max_rows]

    def _named(self, path: str) -> str:
        return TRAINING if path == self.base.data.answers else f"{TRAINING} of {path}"

    def _answered(self, name: str, prompts: list[Prompt]) -> list[Row]:
        """Prompts of a suite with the verifier's own greedy answers, made in float32 and kept beside the runs."""
        settings = self.base.data
        made_by = {"verifier": self.material.verifier.fingerprint(), "max_new_tokens": settings.max_new_tokens}
        path = self.spec.directory / "answers" / f"{Path(name).stem}-{digest([*prompts, made_by])}.parquet"
        verifier = self.material.verifier
        if not path.is_file() and isinstance(verifier, Verifier):
            with tqdm(total=len(prompts), desc=f"answers to {name}", unit="row") as bar:
                regenerate(
                    verifier,
                    prompts,
                    path,
                    settings.max_new_tokens,
                    settings.batch_size,
                    lambda done, _: bar.update(done - bar.n),
                )
        rows, _ = answers.read(path)
        return make_rows(rows, self.material.verifier, self._context, settings.cut_loops)

    @cached_property
    def _context(self) -> int:
        return self.material.verifier.config.max_position_embeddings

    def _claim(self) -> None:
        """Take the directory for these runs, or go on with the runs in it.

        Raises:
            ValueError: other runs are in it.
        """
        material: Material = self.material
        rows = [*material.training, *material.validation, *material.test]
        record = {
            "recipe": recipe_of(self.base),
            "verifier": material.verifier.fingerprint(),
            "answers": digest([{"ids": row.ids, "start": row.start} for row in rows]),
            **{path: digest([{"ids": row.ids} for row in own]) for path, own in list(self._rows.items())[1:]},
            "suites": {"names": self.spec.suites, "suite_prompts": self.spec.suite_prompts},
        }
        path = self.spec.directory / RECORD
        runs = self.spec.directory / "runs"
        begun = any(runs.glob("*/*/result.json")) or any(runs.glob("*/*/checkpoints"))  # without one, nothing to lose
        if path.is_file() and begun:
            known: dict[str, Any] = json.loads(path.read_text())
            precision = known.pop("precision")
            found = json.loads(json.dumps(record))
            other = list(differences({"known": known, "now": found})["now"])
            if other:
                raise ValueError(
                    f"output={self.spec.output!r}: holds runs that can't be compared with these (other "
                    f"{', '.join(key.removeprefix('recipe.') for key in other)}); choose another output or delete it"
                )
            self.material = replace(material, fast=getattr(torch, precision))
        else:
            self.spec.directory.mkdir(parents=True, exist_ok=True)
            write_json(path, {**record, "precision": str(material.fast).removeprefix("torch.")})


def _size(rows: list[Row]) -> str:
    return f"{len(rows)}, {sum(len(row.answer) for row in rows)} answer tokens"
