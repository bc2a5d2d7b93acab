"""`system: language_model`, from text to a model of transformers: tokenizer → rows → training → export."""

import logging
import math
import time
from functools import partial
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from transformers import AutoConfig, AutoModelForCausalLM

from drafter.config import LanguageModelConfig, require
from drafter.data.rows import is_held_out
from drafter.data.texts import make_text_rows, read_documents
from drafter.evaluation.report import Picture
from drafter.export.original import weights_of
from drafter.export.record import provenance
from drafter.files import atomically, write_json
from drafter.machine.devices import choose_device
from drafter.machine.ranks import own_device, ranks
from drafter.training.batches.texts import TextFeed
from drafter.training.checkpoints import read_checkpoint, seconds_of
from drafter.training.claim import begun_in, claim
from drafter.training.fitting import fit
from drafter.training.language_model import MONITOR, LanguageModelModule
from drafter.training.logs import Metrics
from drafter.training.pictures import draw_metrics, read_metrics
from drafter.training.plan import steps
from drafter.training.report import close_page, open_page
from drafter.training.room import Fit, expected, weights_of_model
from drafter.training.tokenizers import make_tokenizer

log = logging.getLogger(__name__)


def train(config: LanguageModelConfig) -> dict[str, Any]:
    """Run a recipe; returns what `summary.json` holds (nothing on all ranks but the first).

    Raises:
        ValueError: something does not fit, or the directory holds a run of another recipe.
    """
    began = time.perf_counter()
    directory, settings = claim(config), config.training
    device = own_device(settings.devices, choose_device("auto"))
    dtype = begun_in(directory, settings, device)
    documents = read_documents(config.text)
    share = config.text.validation_share
    tokenizer = make_tokenizer((text for name, text in documents if not is_held_out(name, share)), config.tokenizer)
    rows = make_text_rows(documents, tokenizer, config.text)
    log.info("%d documents: %d training rows, %d held out", rows.documents, len(rows.training), len(rows.held_out))
    lightning.seed_everything(config.seed, verbose=False)
    model = make_model(config, len(tokenizer), tokenizer.eos_token_id)
    module = LanguageModelModule(model, settings, rows.held_out, config.seed)
    feed = TextFeed(rows.training, settings, config.seed, ranks(settings.devices, device, settings.nodes))
    taken = time.perf_counter() - began
    best = fit(module, feed, directory, settings, MONITOR, device=device, dtype=dtype, prepared=taken, more=True)
    if rank_zero_only.rank:
        return {}
    state, trained = read_checkpoint(best), time.perf_counter()
    model.load_state_dict(weights_of(state, "model"))
    model.eval()  # the trainer leaves it as it trains: with dropout, where it has some
    nll = module.nll()
    with atomically(directory / "export", folder=True, over=True) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
    seconds = seconds_of(best.parent) | {"evaluate": time.perf_counter() - trained}
    summary = {
        "nll_held_out": nll,
        "perplexity_held_out": math.exp(nll),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "vocabulary": len(tokenizer),
        "train_tokens": rows.training.numel(),
        "steps": state["global_step"],
        "seconds": sum(seconds.values()),
        "seconds_by_stage": seconds,
        "provenance": provenance(),
    }
    write_json(directory / "summary.json", summary)
    page, records = open_page(config, summary), read_metrics(Metrics(directory).merged())
    names = {"loss": "training, nats per token", MONITOR: "held out, log-likelihood"}
    panels = [partial(draw_metrics, records, {column: name}, name) for column, name in names.items()]
    page.picture(Picture("curves", "training loss and held-out likelihood over steps", panels))
    close_page(page, config, summary, device)
    print(f"{nll:.3f} nats per token on held-out text (perplexity {math.exp(nll):.1f})")
    return summary


def outlook(config: LanguageModelConfig) -> list[str]:
    """Steps, the model's size, and what its checkpoints take of the disk.

    Raises:
        ValueError: transformers can't make the model.
    """
    settings = config.training
    world = ranks(settings.devices, choose_device("auto"), settings.nodes)
    size = config.tokenizer.size
    if config.tokenizer.source is not None:
        try:
            size = len(make_tokenizer((), config.tokenizer))
        except ValueError as error:
            return [steps(settings, world), f"{error}: sizes follow from it"]
    with torch.device("meta"):
        weights = weights_of_model(make_model(config, size, 0))
    return [
        steps(settings, world),
        f"model: {weights / 4e6:.4g} M parameters, {size} tokens",
        expected([Fit(settings, weights, weights, weights, more=True)], config.directory),
    ]


def make_model(config: LanguageModelConfig, size: int, end: int) -> Any:
    """A model with random weights, by `model` of the recipe.

    Args:
        size: of its vocabulary; end: the token that ends a text.
    Raises:
        ValueError: transformers has no such model, or it does not fit the rows.
    """
    ids = {"vocab_size": size, "eos_token_id": end, "pad_token_id": end, "bos_token_id": None}
    try:
        made = AutoConfig.for_model(**{**ids, **config.model})
        model = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"model={config.model}: transformers can't make it ({reason}); check its keys") from None
    context, length = made.get_text_config().max_position_embeddings, config.text.sequence_length
    require(length <= context, "text.sequence_length", length, f"the model reads {context}; lower it")
    model.generation_config.eos_token_id = end
    return model
