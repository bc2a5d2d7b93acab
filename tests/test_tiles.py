"""Passes of decoding in tiles: the layers bit by bit against transformers' own, products, and when they are refused."""

import copy
import logging

import pytest
import torch
from conftest import make_drafter
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from drafter.attention import flash_cpu
from drafter.decode.proposers import BlockDiffusionProposer
from drafter.machine import tiling
from drafter.machine.tiling import Tiled, why_not_tiled
from drafter.verifier import Verifier, tiled, tiny
from drafter.verifier.between import Between
from drafter.verifier.compiling import check_compile
from drafter.verifier.tiled import TiledPass

CPU = torch.device("cpu")
BEGINNINGS, NEW = (9, 4, 7), 5
here = pytest.mark.skipif(bool(why_not_tiled(CPU, torch.bfloat16)), reason="no bfloat16 products of oneDNN here")


def side_by_side(linears):
    """The plain product that tiles stand for."""
    return lambda x: torch.cat([linear(x) for linear in linears], dim=-1)


def make_sliding(family, **settings):
    """A family whose layers, all or some, look back a few tokens only."""
    sizes = tiny.build("llama")[0].config.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    shape = {name: sizes[name] for name in names} | {"num_hidden_layers": 4, "initializer_range": 0.2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, sliding_window=5, **shape, **settings)
        return AutoModelForCausalLM.from_config(config).eval()


MODELS = {name: lambda name=name: tiny.build(name)[0] for name in ("llama", "qwen2", "qwen3")}
EVERY_OTHER = {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 2}
MODELS |= {"mistral": lambda: make_sliding("mistral"), "sliding": lambda: make_sliding("qwen3", **EVERY_OTHER)}


@pytest.fixture(params=MODELS)
def model(request):
    """A model whose gains and biases are no neutral ones."""
    made = MODELS[request.param]()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return made


def passes(verifier, taps=(0, 2)):
    """States and taps of beginnings, what follows them behind different lengths, and a tree."""
    cache, found = verifier.new_cache(3, 32), []
    ids = torch.randint(3, 259, (3, 16), generator=torch.Generator().manual_seed(0))
    for row, length in enumerate(BEGINNINGS):
        found += verifier.step(ids[row : row + 1, :length], cache.row(row), taps)
    cache.set_lengths(list(BEGINNINGS))
    found += verifier.step(ids[:, :NEW], cache, taps)
    depths = torch.tensor([0, 1, 1, 2, 2]).expand(3, -1)
    follows = torch.eye(NEW, dtype=torch.bool)
    follows[:, 0] = follows[3, 1] = follows[4, 2] = True
    with cache.branching(depths, follows.expand(3, -1, -1)):
        found += verifier.step(ids[:, NEW : 2 * NEW], cache, taps)
    cache.advance(1)
    return [*found, *verifier.step(ids[:, -1:], cache, taps)]


def test_the_layers_do_bit_by_bit_what_transformers_do(model):
    """In float32, with plain products: the same operations in the same order."""
    verifier = Verifier(model)
    own = passes(verifier)
    verifier.tiled = TiledPass(verifier, side_by_side)
    for ours, theirs in zip(passes(verifier), own, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("rows", [(1,), (3, 4), (33,)], ids=str)
@here
def test_a_product_in_tiles(rows, bias):
    torch.manual_seed(0)
    linears = [nn.Linear(40, size, bias=bias and index != 1).bfloat16() for index, size in enumerate((7, 24))]
    x = torch.randn(*rows, 40).bfloat16()
    expected = torch.cat([one.double()(x.double()) for one in copy.deepcopy(linears)], dim=-1)
    torch.testing.assert_close(Tiled.of(linears)(x).double(), expected, rtol=2**-8, atol=1e-6)


@here
def test_decoding_in_tiles(model, caplog):
    """bfloat16: as near to float32 as transformers' own passes are."""
    exact = passes(Verifier(copy.deepcopy(model)))
    half = model.bfloat16()
    own = passes(Verifier(copy.deepcopy(half), compile="off"))
    with caplog.at_level(logging.INFO, "drafter"):
        verifier = Verifier(half, compile="on")
        ours = passes(verifier)
    assert verifier.tiled is not None
    assert f"tiles: {verifier.num_layers} layers and the head" in caplog.text
    errors = [
        sum((one.double() - wide.double()).norm() for one, wide in zip(got, exact, strict=True)) for got in (ours, own)
    ]
    assert 0 < errors[0] < 1.1 * errors[1]
    hidden = ours[0]
    torch.testing.assert_close(
        verifier.logits(hidden), nn.functional.linear(hidden, verifier.head), rtol=2**-7, atol=1e-2
    )


@here
@pytest.mark.parametrize("inputs", [64, 576, 1536, 4096])
def test_a_row_of_a_product_has_the_same_bits_alone_and_beside_others(inputs):
    torch.manual_seed(0)
    product = Tiled(torch.randn(600, inputs).bfloat16() * inputs**-0.5)
    x = torch.randn(48, inputs).bfloat16()
    whole = product(x)
    for count in (1, 2, 3, 4, 7, 16, 33):
        assert torch.equal(torch.cat([product(part) for part in x.split(count)]), whole)
    assert torch.equal(product(x[:1, None]), whole[:1, None])
    assert torch.equal(product(x[0]), whole[0])


@here
@pytest.mark.parametrize(("uneven", "twice"), [([], False), ([1], True), ([1, 2], False)], ids=str)
def test_where_other_numbers_of_rows_round_otherwise_it_is_told(uneven, twice, monkeypatch, caplog):
    monkeypatch.setattr(Tiled, "_uneven", lambda self, *_: uneven)
    monkeypatch.setattr(tiling, "_known", {})
    products = [Tiled(torch.zeros(8, 8).bfloat16()) for _ in range(2)]
    assert [one.twice for one in products] == [twice] * 2
    told = "tiles: products of 1, 2 rows have bits of their own here; near ties, drafts may change tokens"
    assert [record.message for record in caplog.records] == ([told] if 2 in uneven else [])


@here
def test_a_token_has_the_same_bits_in_any_pass(model):
    """Token by token, several at once, alone and in a batch: drafts in a row change no bit."""
    if flash_cpu.missing():
        pytest.skip("no kernels of our own here, and torch's keep no such promise")
    verifier, layers = Verifier(model.bfloat16(), compile="on"), range(4)
    ids = torch.randint(3, 259, (3, 16), generator=torch.Generator().manual_seed(0))

    def states(rows, steps):
        cache, found = verifier.new_cache(len(rows), 40), []
        for row, at in enumerate(rows):
            verifier.step(ids[at : at + 1, : BEGINNINGS[at]], cache.row(row))
        cache.set_lengths([BEGINNINGS[at] for at in rows])
        for part in ids[rows, :8].split(steps, dim=1):
            hidden, taps = verifier.step(part, cache, layers)
            found.append(torch.cat([hidden, taps, verifier.logits(hidden)], dim=-1))
            cache.advance(part.shape[1])
        return torch.cat(found, dim=1)

    whole = states([0, 1, 2], 8)
    for steps in (1, 3, 8):
        assert torch.equal(states([0, 1, 2], steps), whole)
        for row in range(3):
            assert torch.equal(states([row], steps)[0], whole[row])


@here
def test_weights_that_change_are_laid_out_again():
    verifier = Verifier(tiny.build("llama")[0].bfloat16(), compile="on")
    before = passes(verifier)[-2]
    with torch.no_grad():
        for layer in verifier.layers:
            layer.mlp.down_proj.weight.mul_(-1)
    changed = passes(verifier)[-2]
    assert not torch.equal(before, changed)
    plain = passes(Verifier(copy.deepcopy(verifier.model), compile="off"))[-2]
    torch.testing.assert_close(changed.float(), plain.float(), rtol=0.1, atol=0.1)


@here
def test_a_layer_that_does_something_else_is_found(monkeypatch, caplog):
    model = tiny.build("llama")[0].bfloat16()
    own = passes(Verifier(copy.deepcopy(model), compile="off"))
    monkeypatch.setattr(Between, "gate", lambda self, both, act: act(both.chunk(2, dim=-1)[0]))
    monkeypatch.setattr(tiled, "choose_between", lambda *_: Between())
    verifier = Verifier(model)
    found = passes(verifier)
    assert verifier.tiled is None
    assert "tiles: off, layer 0 in tiles is not the model's own (off by " in caplog.text
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, own, strict=True))
    with pytest.raises(ValueError, match=r"compile='on': layer 0 in tiles is not the model's own \(off by .*auto"):
        Verifier(copy.deepcopy(model), compile="on").new_cache(1, 8)


@here
def test_copies_must_fit_into_memory(monkeypatch, caplog):
    monkeypatch.setattr(tiling, "free_memory", lambda: 100_000)
    verifier = Verifier(tiny.build("llama")[0].bfloat16())
    verifier.new_cache(1, 8)
    assert verifier.tiled is None
    assert "tiles: off, copies of all matrices would take 0.0 of the 0.0 GB that are free" in caplog.text
    monkeypatch.setattr(tiling, "free_memory", lambda: None)  # a system that does not say
    verifier = Verifier(tiny.build("llama")[0].bfloat16())
    verifier.new_cache(1, 8)
    assert verifier.tiled is not None


@here
def test_other_layers_and_matrices_stay_as_they_are(caplog):
    gemma = tiny.build("gemma3")[0].bfloat16()
    with caplog.at_level(logging.INFO, "drafter"):
        verifier = Verifier(copy.deepcopy(gemma))
    verifier.new_cache(1, 8)
    assert verifier.tiled is None
    assert "tiles: off, layers of type Gemma3DecoderLayer stay as they are" in caplog.text
    with pytest.raises(ValueError, match="compile='on': layers of type Gemma3DecoderLayer stay as they are; use"):
        Verifier(gemma, compile="on")

    class Adapted(nn.Linear):
        pass

    llama = tiny.build("llama")[0].bfloat16()
    llama.model.layers[1].mlp.up_proj.__class__ = Adapted
    with pytest.raises(ValueError, match="compile='on': a LlamaDecoderLayer here has other matrices than its own"):
        Verifier(llama, compile="on")


@here
def test_a_head_in_tiles_gives_gradients_and_rows():
    verifier = Verifier(tiny.build("llama")[0].bfloat16(), compile="on")
    verifier.new_cache(1, 8)
    assert verifier.output.tiled is not None
    hidden = torch.randn(2, 3, 64).bfloat16().requires_grad_()
    verifier.logits(hidden).sum().backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad[0, 0], verifier.head.float().sum(0).bfloat16(), rtol=0.02, atol=0.05)
    some = verifier.output.rows(torch.tensor([3, 5]))
    assert some.tiled is None
    torch.testing.assert_close(some.tile()(hidden.detach()), some(hidden.detach()), rtol=2**-7, atol=1e-2)


@here
@pytest.mark.parametrize("vocabulary", [None, torch.arange(3, 40)], ids=["all", "some"])
def test_drafts_in_tiles(vocabulary, caplog):
    model = tiny.build("llama")[0].bfloat16()
    drafts, kept = [], []
    for compile in ("off", "on"):
        verifier = Verifier(copy.deepcopy(model), compile=compile)
        drafter = make_drafter(verifier).bfloat16()
        drafter.vocabulary = vocabulary
        with caplog.at_level(logging.INFO, "drafter"), torch.inference_mode():
            proposer = BlockDiffusionProposer(verifier, drafter, 3)
            state, anchors = proposer.new_state(2, 20), torch.tensor([[5], [9]])
            proposer.read(state, anchors, torch.randn(2, 6, 128, generator=torch.Generator().manual_seed(0)))
            state.set_lengths([6, 4])
            kept.append(state.keys[1][:, :4])
            drafts.append(proposer.logits(proposer.hidden(state, anchors)))
        assert isinstance(proposer.drafter.fc, Tiled) == (compile == "on")
        assert type(drafter.fc) is nn.Linear  # it goes on training as it was
    assert "tiles: a BlockDiffusionDrafter" in caplog.text
    for plain, ours in (drafts, kept):
        torch.testing.assert_close(ours, plain, rtol=0.05, atol=0.05)


@here
def test_a_drafter_without_room_stays_as_it_is(monkeypatch, caplog):
    verifier = Verifier(tiny.build("llama")[0].bfloat16())
    drafter = make_drafter(verifier).bfloat16()
    monkeypatch.setattr(tiling, "free_memory", lambda: 1000)
    assert BlockDiffusionProposer(verifier, drafter, 3).drafter is drafter
    assert "tiles: off for a BlockDiffusionDrafter, copies of all matrices would take" in caplog.text


def test_compile_is_chosen_or_refused_by_name():
    for word in ("auto", "off"):
        check_compile(word, CPU, torch.float32)
    for word, dtype, named in (
        ("on", torch.float32, "compile='on': tiles are for bfloat16, and float32 stays as it is; use compile=auto"),
        ("on", torch.float16, "compile='on': tiles are for bfloat16, and float16 stays as it is"),
        ("yes", torch.float32, "compile='yes': choose auto, on or off"),
    ):
        with pytest.raises(ValueError, match=named):
            check_compile(word, CPU, dtype)
    verifier = Verifier(tiny.build("llama")[0])
    verifier.new_cache(1, 8)
    assert verifier.tiled is None  # float32 is never touched
    assert "cuda" in str(why_not_tiled(torch.device("cuda"), torch.bfloat16))


@here
def test_nothing_is_tiled_where_it_is_off():
    verifier = Verifier(tiny.build("llama")[0].bfloat16(), compile="off")
    verifier.new_cache(1, 8)
    assert verifier.tiled is None
    assert verifier.output.tiled is None
