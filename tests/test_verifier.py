"""The verifier: its steps over a cache against whole passes of transformers, its taps, its head, its errors."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import naive
import pytest
import torch
from conftest import make_verifier
from transformers import AutoModelForCausalLM, LlamaConfig, RecurrentGemmaConfig

from drafter.machine.devices import choose_device
from drafter.verifier import Verifier, tiny
from drafter.verifier.attention import _attention

TAPS = (0, 2, 4)


@pytest.fixture
def whole(verifier):
    """A function: logits and hidden states of transformers' own pass over rows of one length, in float64."""
    model = naive.wide(verifier.model)
    return lambda ids: model(input_ids=ids, use_cache=False, output_hidden_states=True)


def ids_of(batch, length, seed=0):
    return torch.randint(3, 259, (batch, length), generator=torch.Generator().manual_seed(seed))


def taps_of(hidden_states, layers):
    return torch.cat([hidden_states[layer + 1] for layer in layers], dim=-1)


def close(got, expected):
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunks", [[50], [1, 40, 9], [16, 16, 16, 2]], ids=str)
def test_steps_equal_one_pass(verifier, whole, chunks):
    ids = ids_of(2, 50)
    expected = whole(ids)
    cache = verifier.new_cache(2, 50)
    start = 0
    for size in chunks:
        hidden, taps = verifier.step(ids[:, start : start + size], cache, TAPS)
        part = slice(start, start + size)
        close(verifier.logits(hidden), expected.logits[:, part])
        close(taps, taps_of(expected.hidden_states, TAPS)[:, part])
        start += size
        cache.set_lengths([start, start])


def test_ragged_rows_equal_their_own_pass(verifier, whole):
    lengths, width = [45, 7, 33], 4
    ids = ids_of(3, 60)
    cache = verifier.new_cache(3, 60)
    for row, length in enumerate(lengths):
        alone = cache.row(row)
        verifier.step(ids[row : row + 1, :length], alone)
    cache.set_lengths(lengths)
    new = torch.stack([ids[row, length : length + width] for row, length in enumerate(lengths)])
    hidden, taps = verifier.step(new, cache, TAPS)
    for row, length in enumerate(lengths):
        expected = whole(ids[row : row + 1, : length + width])
        close(verifier.logits(hidden[row]), expected.logits[0, -width:])
        close(taps[row], taps_of(expected.hidden_states, TAPS)[0, -width:])


def test_a_step_commits_nothing(verifier):
    ids, cache = ids_of(1, 12), verifier.new_cache(1, 24)
    verifier.step(ids, cache)
    cache.set_lengths([8])
    first, _ = verifier.step(ids[:, 8:], cache)
    verifier.step(ids_of(1, 4, seed=1), cache)
    again, _ = verifier.step(ids[:, 8:], cache)
    assert torch.equal(first, again)


def test_taps_are_the_layers_outputs(verifier, whole):
    ids = ids_of(2, 50)
    close(verifier.taps(ids, TAPS), taps_of(whole(ids).hidden_states, TAPS))
    close(verifier.taps(ids, [3]), taps_of(whole(ids).hidden_states, [3]))


def test_tokens_behind_a_row_change_no_tap(verifier):
    ids = ids_of(2, 50)
    changed = ids.clone()
    changed[:, 40:] = ids_of(2, 10, seed=1)
    assert torch.equal(verifier.taps(changed, TAPS)[:, :40], verifier.taps(ids, TAPS)[:, :40])


def test_taps_stop_at_the_highest(verifier):
    ran = []
    hooks = [
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, layer in enumerate(verifier.layers)
    ]
    verifier.taps(ids_of(1, 5), [0, 2])
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1, 2]
    assert len(verifier.layers) == 6


@pytest.mark.parametrize("family", ["gemma3"])
def test_the_sliding_window_is_felt(verifier):
    """Not a check of the code but of the tests above: past the window of 32, sliding and full attention differ."""
    ids = ids_of(1, 60)
    wide = naive.wide(verifier.model)
    sliding = wide(input_ids=ids).logits
    for layer in wide.model.layers:
        layer.self_attn.sliding_window = None
    wide.config.sliding_window = 1000
    full = wide(input_ids=ids).logits
    assert torch.allclose(sliding[0, :32], full[0, :32])
    assert not torch.allclose(sliding[0, 40:], full[0, 40:], rtol=1e-2, atol=1e-2)


def test_embedding_and_head_are_the_models(verifier, whole):
    ids = ids_of(1, 9)
    expected = whole(ids)
    close(verifier.embed(ids), expected.hidden_states[0])
    assert verifier.head.shape == (288, 64)
    hidden, _ = verifier.step(ids, verifier.new_cache(1, 9))
    close(hidden @ verifier.head.T, expected.logits)


@pytest.mark.parametrize("family", ["gemma3"])
def test_soft_capped_logits_are_the_models(family):
    config = tiny.build(family)[0].config
    config.final_logit_softcapping = 2.0
    verifier = Verifier(AutoModelForCausalLM.from_config(config).eval())
    ids = ids_of(1, 9)
    expected = naive.wide(verifier.model)(input_ids=ids).logits
    hidden, _ = verifier.step(ids, verifier.new_cache(1, 9))
    assert verifier.output.softcap == 2.0
    assert expected.abs().max() > 1.5
    close(verifier.logits(hidden), expected)


def test_plain_attention_is_given_back(verifier):
    ids = ids_of(1, 9)
    before, _ = verifier.step(ids, verifier.new_cache(1, 9), TAPS)
    with verifier.plain_attention() as model:
        close(model(ids).logits, verifier.logits(before).double())
    after, taps = verifier.step(ids, verifier.new_cache(1, 9), TAPS)
    assert torch.equal(before, after)
    assert taps is not None


@pytest.mark.parametrize("family", ["llama"])
def test_nothing_of_it_learns(verifier):
    assert not any(weight.requires_grad for weight in verifier.model.parameters())
    assert not verifier.model.training
    assert not isinstance(verifier, torch.nn.Module)


@pytest.mark.parametrize("family", ["llama"])
def test_fingerprint_is_of_the_weights_not_of_the_dtype(verifier):
    half = Verifier(tiny.build("llama")[0].bfloat16())
    other = Verifier(tiny.build("llama", seed=1)[0])
    assert half.fingerprint() == verifier.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("family", ["llama"])
def test_chat_ids_end_where_the_answer_begins(verifier):
    ids = verifier.chat_ids("hi")
    assert verifier.tokenizer.decode(ids) == "<|start|>user\nhi<|end|>\n<|start|>assistant\n"
    silent = Verifier(tiny.build("llama")[0], None)
    with pytest.raises(ValueError, match="no chat template"):
        silent.chat_ids("hi")


def test_stop_ids_are_those_of_model_and_tokenizer(monkeypatch):
    verifier = Verifier(*tiny.build("llama"))
    assert verifier.stop_ids == (0,)
    monkeypatch.setattr(verifier.model.generation_config, "eos_token_id", [7, 5])
    assert verifier.stop_ids == (0, 5, 7)
    verifier.tokenizer = None
    assert verifier.stop_ids == (5, 7)


def small(config_class, **fields):
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3}
    return AutoModelForCausalLM.from_config(config_class(**sizes, num_attention_heads=2, **fields))


def test_layers_that_cannot_be_rewound_are_tapped_but_not_decoded():
    verifier = Verifier(small(RecurrentGemmaConfig, num_key_value_heads=1, lru_width=16, attention_window_size=8))
    ids = torch.arange(9)[None]
    with verifier.plain_attention() as model:
        expected = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(verifier.taps(ids, [1]), expected)
    with pytest.raises(ValueError, match=r"only its taps can be read$"):
        verifier.new_cache(1, 9)


@pytest.mark.parametrize("scaling", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_longest_row_are_kept_short(scaling):
    rope = {"rope_type": scaling, "rope_theta": 1e4, "factor": 2.0}
    if scaling == "longrope":
        rope |= {"original_max_position_embeddings": 16, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    length = {"max_position_embeddings": 32 if scaling == "longrope" else 16}
    verifier = Verifier(small(LlamaConfig, rope_parameters=rope, **length))
    assert verifier.context_length == 16
    verifier.new_cache(2, 16)
    with pytest.raises(ValueError, match="more than 16 tokens all positions depend on the longest row"):
        verifier.new_cache(2, 17)
    with pytest.raises(ValueError, match=r"\(17 here\); use shorter rows"):
        verifier.taps(torch.ones(1, 17, dtype=torch.long), [0])


@pytest.mark.parametrize(
    "asked",
    [{"head_mask": torch.ones(1)}, {"attention_mask": torch.ones(1)}, {"is_causal": False}, {"dropout": 0.1}],
    ids=str,
)
def test_an_argument_of_attention_that_is_not_known_is_never_ignored(asked):
    states = torch.zeros(1, 2, 3, 4)
    layer = SimpleNamespace(layer_idx=0)
    _attention(layer, states, states, states, **{"attention_mask": None, "head_mask": None})
    with pytest.raises(ValueError, match="its attention takes "):
        _attention(layer, states, states, states, **{"attention_mask": None, **asked})


QUANTISED = {
    "awq": ({"bits": 4, "group_size": 16, "zero_point": True}, "awq|gptqmodel"),
    "gptq": ({"bits": 4, "group_size": 16}, "optimum|gptqmodel"),
    "bitsandbytes": ({"load_in_4bit": True}, "bitsandbytes"),
    "compressed-tensors": ({"format": "pack-quantized"}, "none has a scale"),
}


@pytest.mark.parametrize("method", QUANTISED)
def test_a_quantised_verifier_without_its_package_is_refused_in_a_line(tmp_path, method):
    tiny.save("llama", tmp_path)
    settings, named = QUANTISED[method]
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, **settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"verifier\.source=.*: can't be loaded as a causal LM \(.+\); name") as error:
        Verifier.load(str(tmp_path))
    assert "\n" not in str(error.value)
    assert re.search(named, str(error.value), re.IGNORECASE)


@pytest.mark.parametrize("taps", [[], [5], [-1, 2], [2, 1], [1, 1]], ids=str)
def test_taps_out_of_range_or_order_are_refused(taps):
    with pytest.raises(ValueError, match=r"drafter\.tap_layers.*from 0 to 4"):
        make_verifier("llama").check_taps(taps)


def test_untied_heads_work():
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2
    )
    verifier = Verifier(AutoModelForCausalLM.from_config(config))
    hidden, _ = verifier.step(torch.tensor([[1, 2, 3]]), verifier.new_cache(1, 3))
    expected = naive.wide(verifier.model)(input_ids=torch.tensor([[1, 2, 3]])).logits
    close(hidden @ verifier.head.T, expected)


def test_devices_are_chosen_or_taken():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


def test_passes_of_two_threads_hear_what_they_ask_for():
    verifier, both = make_verifier("llama"), Barrier(2, timeout=60)

    def taps(layers):
        return verifier.step(torch.tensor([[5, 6, 7]]), verifier.new_cache(1, 3), layers)[1]

    def meet(*_):
        both.wait()

    asked = [[1, 3], [0, 4]]
    alone = [taps(layers) for layers in asked]
    hook = verifier.layers[2].register_forward_hook(meet)
    try:
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(taps, asked))
    finally:
        hook.remove()
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))
