"""Every family of causal language models is exact as a verifier or refused in one line; the docs say which."""

import pytest
import torch
import transformers
import zoo

from drafter.attention import KVCache, plain, sdpa
from drafter.verifier import Verifier
from drafter.verifier.recurrent import RecurrentCache

SAID = zoo.PAGE.read_text()
# One of each kind: plain, mixtures, scaled, capped, sinks, latent, sliding, recurrent, learned positions, refused.
OF_EACH_KIND = {"llama", "qwen3", "qwen3_moe", "granite", "gemma2", "gemma3_text", "gpt_oss", "deepseek_v3", "cohere2"}
OF_EACH_KIND |= {"mistral", "qwen3_next", "qwen3_5", "lfm2", "falcon_h1", "mamba2", "mamba", "gpt2", "opt", "bert"}


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=[] if one in OF_EACH_KIND else pytest.mark.slow) for one in zoo.FAMILIES]
)
def test_a_family_is_exact_or_refused(family):
    """And, with the version of transformers that the page names, as the page says."""
    what = zoo.outcome(family)
    if f"With transformers {transformers.__version__}," not in SAID:
        return
    start = "**Exact" if what == "exact" else f"| {zoo.reason(what)} |"
    assert any(line.startswith(start) and f"`{family}`" in line for line in SAID.splitlines())


def test_loading_draws_no_random_number_and_leaves_the_model():
    model = zoo.build("gemma3_text")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    window, state = model.config.sliding_window, torch.get_rng_state()
    Verifier(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert model.config.sliding_window == window == model.model.layers[0].self_attn.sliding_window


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "granite", "gemma2", "phi"])
def test_half_precision_passes_its_own_check(family, dtype):
    verifier = Verifier(zoo.build(family).to(dtype))
    assert verifier.undecodable is None


def without_sinks(query, keys, values, mask, scale, softcap=None, sinks=None, whole=plain.attend):
    return whole(query, keys, values, mask, scale, softcap)


def without_window(*arguments, whole=sdpa.visible):
    return whole(*arguments[:4], None, *arguments[5:])


def from_the_start(cache, count, whole=KVCache.positions):
    return whole(cache, count) - cache.lengths[:, None]


def without_replay(cache, parts, lengths):
    """What was accepted in part is taken for what the whole pass ended with."""
    cache._memory.keep([cache._rows[place] for places in parts.values() for place in places])


def as_if_of_one_length(lengths, count, start=None, whole=sdpa.behind):
    return whole(lengths.max().expand_as(lengths), count, start)


@pytest.mark.parametrize(
    ("family", "place", "name", "bug"),
    [
        ("gpt_oss", plain, "attend", without_sinks),
        ("mistral", sdpa, "visible", without_window),
        ("llama", KVCache, "positions", from_the_start),
        ("llama", sdpa, "behind", as_if_of_one_length),
        ("qwen3_next", RecurrentCache, "_replay", without_replay),
        ("lfm2", RecurrentCache, "_replay", without_replay),
    ],
    ids=["sinks", "window", "positions", "ragged", "states", "convolutions"],
)
def test_the_check_finds_a_bug_of_ours(family, place, name, bug, monkeypatch):
    Verifier(zoo.build(family)).new_cache(1, 1)
    monkeypatch.setattr(place, name, bug)
    with pytest.raises(ValueError, match="differ"):
        Verifier(zoo.build(family)).new_cache(1, 1)
