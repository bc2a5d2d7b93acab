"""What a run needs before its first step: the verifier, rows, their taps, a started drafter. Settings fail here."""

import logging
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from tqdm import tqdm

from drafter import answers
from drafter.attention.over_blocks import check_over_blocks
from drafter.config import AlignmentConfig, CacheConfig, VerifierConfig, require
from drafter.config.data import ELSEWHERE
from drafter.data.counts import draft_vocabulary, most_frequent
from drafter.data.coverage import expected_coverage
from drafter.data.on_disk import RowsOnDisk, open_rows
from drafter.data.order import check_enough
from drafter.data.rows import Cuts, Row, Rows, pad, rows_and_cuts, split, validation_and_test
from drafter.data.stream import Stream
from drafter.files import cache_directory
from drafter.machine.devices import choose_device
from drafter.machine.precision import choose_together
from drafter.machine.ranks import own_device, ranks
from drafter.models import BlockDiffusionDrafter
from drafter.models.block_config import config_for, evenly_spaced
from drafter.models.start import adopt, kept_of, start_from_verifier
from drafter.models.storage import find
from drafter.taps import StateFiles, StateServer, TapCache, TapsElsewhere
from drafter.training.batches import packs_of
from drafter.training.budget import fitting_anchors
from drafter.training.claim import begun_in
from drafter.training.elsewhere import states_of
from drafter.verifier import Verifier, VerifierHead
from drafter.verifier.chat import template_hash
from drafter.verifier.tokenizer import tokenizer_hash

ROWS_PER_PASS = 8
LEAST_COVERAGE = 0.5
log = logging.getLogger(__name__)


@dataclass
class Material:
    """What a run needs before its first step; made, and its settings checked, before any training."""

    device: str
    verifier: VerifierHead  # held-out taps and exact decoding, float32 unless asked; its layers may be elsewhere
    fast: torch.dtype  # what training and timed decoding run in
    training: list[Row]
    validation: list[Row]  # held out: they choose the checkpoint and the draft length
    test: list[Row]  # held out, of other documents: they give the headline
    drafter: BlockDiffusionDrafter
    manifest: dict[str, Any]  # of the answers
    states: StateFiles | StateServer | None = None  # where taps are made elsewhere
    on_disk: RowsOnDisk | None = None  # where the training rows stay on disk; `training` is then empty
    limits: dict[str, int] = field(default_factory=dict)  # rows that limits took

    def close(self) -> None:
        """No more taps are asked for."""
        if self.states is not None:
            self.states.close()

    @property
    def train_rows(self) -> int:
        return self.on_disk.survey.rows if self.on_disk else len(self.training)

    @property
    def train_tokens(self) -> int:
        """Answer tokens; of a stream, before rows are cut."""
        if self.on_disk:
            return self.on_disk.survey.tokens
        return sum(len(row.answer) for row in self.training)

    @property
    def test_prompts(self) -> list[list[int]]:
        return [row.ids[: row.start] for row in self.test]


def prepare(config: AlignmentConfig, directory: Path | None = None) -> Material:
    """Load the verifier and the answers, split them, start the drafter.

    Args:
        directory: of a run that may have begun; None: there is none yet.
    Raises:
        ValueError: a setting, a file or a model does not fit; one line, before training.
    """
    settings = config.training
    device = own_device(settings.devices, choose_device(config.verifier.device))
    world = ranks(settings.devices, device, settings.nodes)
    fast = begun_in(directory, settings, device) if directory else choose_together(settings, device)
    found = answers.open_answers(Path(config.data.answers))
    verifier = open_verifier(config.verifier, getattr(torch, config.verifier.dtype), device)
    if isinstance(verifier, Verifier) and verifier.recurrent:
        remedy = "the verifier's recurrent layers read no tree; leave it out"
        require(not config.decoding.tree_nodes, "decoding.tree_nodes", config.decoding.tree_nodes, remedy)
    if verifier.undecodable:
        log.info("%s; it is trained for, and the run ends with the walk", verifier.undecodable)
    verifier.keep_reasoning = config.data.keep_reasoning
    check_answers(config, verifier, found.manifest)
    per_step = settings.rows * settings.accumulate * world
    training: list[Row] = []
    on_disk = None
    if config.data.streaming:
        stream = Stream(found.files, found.checksums, config.seed)
        on_disk, (validation, test) = open_rows(stream, verifier, config.data)
        limits = taken(on_disk.cuts)
        check_enough(on_disk.survey.rows, per_step)
    else:
        rows, cuts = rows_and_cuts(found.all(), verifier, config.data.sequence_length, config.data.cut_loops)
        training, held_out = split(rows, config.data.validation_share)
        limits = taken(cuts, len(training) - len(training[: config.data.max_rows]))
        training, counts = training[: config.data.max_rows], (config.data.validation_rows, config.data.test_rows)
        validation, test = validation_and_test(held_out, config.data.validation_share, *counts)
        check_enough(len(packs_of(training, config.data)), per_step)
    sample = on_disk.sample if on_disk else training
    say_what_is_normalised_apart(config)
    longest = max(row.start for row in test[: config.decoding.prompts])
    context, new = verifier.context_length, config.decoding.max_new_tokens
    remedy = f"a test prompt has {longest} tokens, the verifier's context is {context}; lower it"
    require(longest + new <= context, "decoding.max_new_tokens", new, remedy)
    lightning.seed_everything(config.seed, verbose=False)
    drafter = start(config, verifier, training, on_disk)
    check_over_blocks(settings.attention, device, drafter.config.head_dim)
    if settings.anchors == "auto":
        longest = max(len(row.ids) for row in sample)
        length = config.data.sequence_length if config.data.packing or on_disk else longest
        settings.anchors = fitting_anchors(drafter.config, settings, length, fast, len(verifier.head), length)
        log.info("training.anchors=auto: %d fit into %g GB", settings.anchors, settings.memory_gb)
    anchors = int(settings.anchors)
    warn_of_coverage(expected_coverage(sample, anchors, config.drafter.block_size), anchors)
    states = states_of(config, verifier, drafter.tap_layers) if config.data.taps in ELSEWHERE else None
    return Material(
        device, verifier, fast, training, validation, test, drafter, found.manifest, states, on_disk, limits
    )


def open_verifier(settings: VerifierConfig, dtype: torch.dtype, device: str) -> VerifierHead:
    """The verifier, whole or its ends alone, as a recipe says.

    Raises:
        ValueError: it can't be loaded.
    """
    if settings.body == "none":
        return VerifierHead.load(settings.source, dtype, device)
    return Verifier.load(settings.source, dtype, device, settings.attention)


def check_answers(config: AlignmentConfig, verifier: VerifierHead, manifest: dict[str, Any]) -> None:
    """Refuse answers of another verifier, of another tokenizer, or with reasoning where none is wanted."""
    path, tokens = Path(config.data.answers), tokenizer_hash(verifier.tokenizer)
    if not isinstance(verifier, Verifier) and "verifier" in manifest:
        if "verifier_ends" not in manifest:
            log.warning("data.answers=%s: records no more of its verifier's ends than the tokenizer", path)
        manifest = {**manifest, "verifier": manifest.get("verifier_ends")}
    answers.check_origin(path, manifest, verifier.fingerprint(), tokens, template_hash(verifier.tokenizer))
    made_with = manifest.get("recipe", {}).get("data", {}).get("keep_reasoning", verifier.keep_reasoning)
    remedy = f"the answers were made with {made_with}; say the same, or make them again"
    require(made_with == verifier.keep_reasoning, "data.keep_reasoning", verifier.keep_reasoning, remedy)


def taken(cuts: Cuts, beyond: int = 0) -> dict[str, int]:
    """What `summary.json` says of limits: rows looked at, left out and cut by the length, beyond `data.max_rows`."""
    return {**asdict(cuts), "beyond_max_rows": beyond}


def say_what_is_normalised_apart(config: AlignmentConfig) -> None:
    """Micro-batches add up to one batch for losses whose weights are known before the drafter has seen it."""
    slots = torch.ones(config.drafter.block_size - 1)
    apart = [name for name, loss in config.losses.active.items() if loss.known_weight(slots) is None]
    if config.training.accumulate > 1 and apart:
        words = "training.accumulate=%d: normalised in each micro-batch, since weights follow what it hits: %s"
        log.info(words, config.training.accumulate, ", ".join(apart))


def warn_of_coverage(share: float, anchors: int) -> None:
    """Say so where most of what the verifier wrote would be passed over."""
    if share < LEAST_COVERAGE:
        log.warning(
            "training.anchors=%d: in an epoch, slots predict only %.1f %% of the supervised tokens; raise it, or take "
            "larger blocks, unless the run has many epochs",
            anchors,
            100 * share,
        )


def start(
    config: AlignmentConfig, verifier: VerifierHead, training: list[Row], on_disk: RowsOnDisk | None = None
) -> BlockDiffusionDrafter:
    """Build the drafter and give it its first weights and its draft vocabulary.

    Raises:
        ValueError: its shape, its mask token, what it starts from or what it may propose does not fit the verifier.
    """
    settings = config.drafter
    layers = verifier if isinstance(verifier, Verifier) and settings.start == "verifier" else None
    shape = config_for(
        verifier,
        num_layers=settings.num_layers,
        block_size=settings.block_size,
        tap_layers=settings.tap_layers or evenly_spaced(verifier.num_layers, settings.num_taps),
        mask_token_id=settings.mask_token_id,
        **(kept_of(layers) if layers else {}),
    )
    for use in ("bos", "pad"):  # an export with one of these is refused
        taken = [getattr(one, f"{use}_token_id", None) for one in (verifier.tokenizer, verifier.config)]
        remedy = f"is the verifier's {use} token; choose an id that text never uses"
        require(settings.mask_token_id not in taken, "drafter.mask_token_id", settings.mask_token_id, remedy)
    if settings.start in ("random", "verifier"):
        drafter = BlockDiffusionDrafter(shape)
        if layers:
            start_from_verifier(drafter, layers)
    else:
        drafter = BlockDiffusionDrafter.from_pretrained(find(settings.start, "drafter.start"), dtype=torch.float32)
        drafter.check_verifier(verifier)
        adopt(drafter, shape)
    ids = proposed(config, len(verifier.head), training, on_disk)
    drafter.vocabulary = torch.tensor(ids, device=verifier.device) if ids else None
    return drafter.to(verifier.device)


def proposed(config: AlignmentConfig, size: int, training: list[Row], on_disk: RowsOnDisk | None) -> list[int]:
    """The draft vocabulary as `drafter.vocabulary` asks for it, ascending; empty for the whole vocabulary.

    Args:
        size: of the verifier's vocabulary.
    """
    asked, number = config.drafter.counted()
    if asked == "full":
        return []
    if asked != "answers":
        ids = draft_vocabulary(asked, number, size)
    elif on_disk:
        ids = most_frequent(dict(enumerate(on_disk.survey.counts.tolist())), number)
    else:
        ids = most_frequent(Counter(token for row in training for token in row.answer), number)
    if number is not None and len(ids) < number:
        log.warning(
            "drafter.vocabulary=%s: only %d tokens occur there; it has those", config.drafter.vocabulary, len(ids)
        )
    return ids


def taps_of(
    rows: list[Row],
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    what: str,
    final: bool = False,
    settings: CacheConfig | None = None,
    passes: list[list[int]] | None = None,
) -> TapCache:
    """Taps of rows, from the cache or computed now with a progress bar; or, by `passes`, when they are asked for."""
    folder = cache_directory() / "taps"
    with tqdm(total=len(rows), desc=f"taps of {what}", unit="row", disable=passes is not None) as bar:

        def show(done: int, _: int) -> None:
            bar.update(done - bar.n)

        taps = TapCache(verifier, rows, drafter.tap_layers, folder, show, final, settings, passes)
    log.info("taps of %s: %.3g GB in %s", what, taps.bytes / 1e9, taps.folder)
    if lost := taps.shards.distortion.relative:
        log.info(
            "kept as %s they are off by %.2g of their norm, at worst by %.2g of a tap's",
            taps.codec.name,
            lost,
            taps.shards.distortion.worst,
        )
    return taps


def batches_of(rows: list[Row], taps: TapCache | TapsElsewhere) -> list[tuple[Rows, Tensor]]:
    """Rows to walk over with their taps, rows of similar length together."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    groups = [order[at : at + ROWS_PER_PASS] for at in range(0, len(order), ROWS_PER_PASS)]
    return [(pad([rows[i] for i in group]), taps.padded(group)) for group in groups]
