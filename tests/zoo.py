"""Every family of causal language models that transformers knows, tiny: exact as a verifier, or refused in one line.

    python tests/zoo.py

sweeps them all and writes the table of docs/verifiers.md. Models are in float64, so that exact means exact, and no
constant is left at the value that hides its loss: scales, caps, sinks, biases and gains are all set.
"""

import copy
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from zoo_configs import config_of

from drafter.verifier import Verifier
from drafter.verifier.loading import FOREIGN

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
PAGE = Path(__file__).parents[1] / "docs/verifiers.md"
MARK = "<!-- below: python tests/zoo.py -->"
TAPS_ONLY = "it can't be decoded here, only its taps can be read"
LENGTH, LARGEST = 24, 3_000_000
NEAR = 1e-4  # some families' own softmax is in float32 whatever comes in

# Of their configs transformers makes no model: it lacks a package, or fails itself.
UNMADE = ("gemma3n", "gemma4_assistant", "gemma4_unified_assistant", "musicgen", "musicgen_melody")
DELTA_RULE = ("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next")
NEAR_IN_FLOAT32 = 1e-3  # their states are in float32 whatever comes in, and round apart by how many tokens a pass has
FLOAT32 = ("inkling2_text", "xglm")  # their own code takes no float64


class Unbuilt(Exception):
    """No tiny model of the family comes of the sizes here."""


def build(family, seed=0, **overrides):
    """A model whose every weight is random.

    Raises:
        Unbuilt: transformers makes none of these sizes, or none that runs on token ids alone.
    """
    dtype = torch.float32 if family in FLOAT32 else torch.float64
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            config = config_of(family, **overrides)
            with torch.device("meta"):
                size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
            if size > LARGEST:
                raise Unbuilt(f"{size} weights")
            model = AutoModelForCausalLM.from_config(config).eval()
            if model._can_set_experts_implementation():
                model.set_experts_implementation("eager")  # others take no float64
            randomise(model, seed)
            with torch.no_grad():
                model.to(dtype)(input_ids=torch.ones(1, 3, dtype=torch.long), use_cache=False)
        except FOREIGN as error:
            raise Unbuilt(f"{type(error).__name__}: {error}") from error
    return model


@torch.no_grad()
def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        spread = torch.randn(weight.shape, generator=generator)
        gain = weight.dim() == 1 and "norm" in name and "bias" not in name
        weight.copy_(gain + (0.3 if weight.dim() == 1 else 0.2) * spread)


def total_variation(got, own):
    """The largest over all positions of two sets of logits."""
    return float((got.softmax(-1) - own.softmax(-1)).abs().sum(-1).max() / 2)


@torch.inference_mode()
def furthest(verifier, own):
    """How far the verifier's laws and taps are from those of `own`, the model as transformers runs it."""
    ids = torch.randint(3, 90, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    taps = {}
    layers = [0, verifier.num_layers - 2]
    name = next(name for name, module in verifier.model.named_modules() if module is verifier.layers)
    for layer in layers:
        own.get_submodule(name)[layer].register_forward_hook(
            lambda _module, _arguments, out, layer=layer: taps.update(
                {layer: out[0] if isinstance(out, tuple) else out}
            )
        )
    logits = own(input_ids=ids, use_cache=False).logits
    taps = torch.cat([taps[layer] for layer in layers], dim=-1)
    states = verifier.states(ids, layers)
    found = [
        float((verifier.taps(ids, layers) - taps).abs().max()),
        total_variation(verifier.logits(states[..., taps.shape[-1] :]), logits),
    ]
    cache = verifier.new_cache(3, LENGTH)
    for start, end in ((0, 11), (11, 12), (12, LENGTH)):
        hidden, some = verifier.step(ids[:, start:end], cache, layers)
        found.append(total_variation(verifier.logits(hidden), logits[:, start:end]))
        found.append(float((some - taps[:, start:end]).abs().max()))
        cache.set_lengths([end] * 3)
    cache, lengths = verifier.new_cache(3, LENGTH), [5, 15, 20]
    for row, length in enumerate(lengths):
        verifier.step(ids[row : row + 1, :length], cache.row(row))
    cache.set_lengths(lengths)
    new = torch.stack([ids[row, length : length + 4] for row, length in enumerate(lengths)])
    hidden, _ = verifier.step(new, cache)
    for row, length in enumerate(lengths):
        found.append(total_variation(verifier.logits(hidden[row]), logits[row, length : length + 4]))
    return max(found)


def outcome(family, **overrides):
    """What becomes of a family: `exact`, or the line that refuses it.

    Raises:
        Unbuilt: see `build`.
        AssertionError: neither.
    """
    if family in UNMADE:
        return refused_by_loading(family)
    model = build(family, **overrides)
    own = copy.deepcopy(model)
    try:
        verifier = Verifier(model)
        verifier.new_cache(1, 1)
    except ValueError as error:
        what = str(error)
        if "\n" in what:
            raise AssertionError(f"{family}: more than a line: {what}") from error
        return what.removeprefix("verifier: ")
    far = furthest(verifier, own)
    assert far < (NEAR_IN_FLOAT32 if family in DELTA_RULE else NEAR), f"{family}: {far} from the model's own"
    return "exact"


def refused_by_loading(family):
    """The line that a user reads who names a directory of such a model."""
    with TemporaryDirectory() as folder:
        config_of(family).save_pretrained(folder)
        save_file({"weight": torch.zeros(1)}, Path(folder) / "model.safetensors", {"format": "pt"})
        try:
            Verifier.load(folder)
        except ValueError as error:
            what = str(error).removeprefix(f"verifier.source={folder!r}: ")
            assert "\n" not in what, what
            return what
    raise AssertionError(f"{family}: loads; take it out of UNMADE")


def sweep(families=FAMILIES):
    """Each family with its outcome."""
    return {family: outcome(family) for family in families}


def reason(what):
    """A refusal without the names and numbers of one model."""
    what = re.sub(r"; name a hub id, .*| but it was not found in your environment\. .*(?=\))", "", what)
    what = re.sub(r" \(by [^)]*\)", "", what.removesuffix(TAPS_ONLY).rstrip("; ").removesuffix("; choose another"))
    what = re.sub(r"\w+(ForCausalLM|LMHeadModel|Decoder|WithLMHead)\b:? ?", "", what).strip()
    return what.replace("of  ", "of it ").replace("of are", "are").replace("the layers of do not", "its layers do not")


def page(found):
    """What docs/verifiers.md says below its introduction."""
    exact = {family for family, what in found.items() if what == "exact"}
    tapped = {family: reason(what) for family, what in found.items() if what.endswith(TAPS_ONLY)}
    refused = {family: reason(what) for family, what in found.items() if family not in {*exact, *tapped}}
    lines = [
        f"With transformers {transformers.__version__}, of {len(FAMILIES)} families:",
        "",
        f"**Exact, {len(exact)}:** {named(exact)}",
        "",
        f"**Trained for, not decoded, {len(tapped)}.** A run ends with the walk; decoding says why not: “{TAPS_ONLY}”.",
        "",
        *rows(tapped),
        "",
        f"**Refused when loaded, {len(refused)}.**",
        "",
        *rows(refused),
    ]
    return "\n".join(lines) + "\n"


def named(families):
    return ", ".join(f"`{family}`" for family in sorted(families))


def rows(reasons):
    """A line of a table for each reason, with the families that it holds for."""
    together = {what: [family for family in reasons if reasons[family] == what] for what in reasons.values()}
    lines = [f"| {what} | {named(families)} |" for what, families in sorted(together.items())]
    return ["| what it says | families |", "|---|---|", *lines]


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    kept = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(kept + MARK + "\n\n" + page(sweep()))
