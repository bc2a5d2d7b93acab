"""Passes as CUDA graphs, on a recorder that bakes in what a graph bakes in: addresses, and what the host knew."""

import copy

import pytest
import torch
from conftest import NEW_TOKENS, make_memorising, make_prompts, make_verifier
from flash_stand_in import flash_attn_with_kvcache
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from drafter.attention import KVCache, LayerShape, Replay, choose_replay, flash, replay
from drafter.decode import FreeDecoder, SpeculativeDecoder, tokens_per_cycle
from drafter.models import PushForwardModel
from drafter.verifier import Verifier

SYNCHRONISES = ("item", "_local_scalar_dense", "nonzero", "masked_select", "unique")


class Recorder(TorchDispatchMode):
    """Runs operations and remembers them, to run again on the same tensors; refuses what makes the host wait."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in func.__name__ for name in SYNCHRONISES):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func.__name__}")
        out = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, out))
        return out

    def again(self):
        for func, args, kwargs, out in self.steps:
            new = func(*args, **kwargs)
            for old, value in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != value.data_ptr():  # else a view, or in place
                    old.copy_(value)


@pytest.fixture
def recorded(monkeypatch):
    """Names and shapes of the passes that were captured."""
    captured = []

    def capture(run, inputs):
        run(*inputs)  # as on a GPU: the first run warms up
        with Recorder() as recorder:
            outputs = run(*inputs)
        captured.append([tuple(one.shape) for one in inputs])
        for one in outputs:
            if one is not None:
                one.fill_(torch.nan)  # capturing computes nothing
        return recorder.again, outputs

    monkeypatch.setattr(replay, "capture", capture)
    return captured


def test_the_recorder_bakes_in_what_a_graph_bakes_in(recorded):
    graphs, factor = replay.Graphs(), [2.0]
    run = lambda x: (x * factor[0],)  # noqa: E731
    assert graphs("a", run, (torch.ones(2),))[0].tolist() == [2, 2]
    factor[0] = 3.0
    assert graphs("a", run, (torch.full((2,), 5.0),))[0].tolist() == [10, 10]
    assert graphs("b", run, (torch.full((2,), 5.0),))[0].tolist() == [15, 15]
    assert len(recorded) == 2


@pytest.fixture
def replayed(verifier, monkeypatch):
    monkeypatch.setattr(verifier, "replayed", True)
    monkeypatch.setattr("drafter.attention.cache.STEP", 32)  # so that rows outgrow a graph
    return verifier


@pytest.mark.parametrize("batch_size", [1, 3])
def test_decoding_by_graphs_is_decoding(replayed, memorising, answers, prompts, batch_size, recorded):
    found = SpeculativeDecoder(replayed, memorising).generate(prompts, NEW_TOKENS, batch_size=batch_size)
    assert [one.token_ids for one in found] == answers
    assert tokens_per_cycle(found[:4]) > 1.5
    cycles = sum(len(one.emitted) for one in found)
    assert 6 <= len(recorded) < cycles  # verify, extend, draft, at several lengths; then replayed


@pytest.mark.parametrize("family", ["llama"])
def test_graphs_are_kept_from_call_to_call(replayed, memorising, answers, prompts, recorded):
    decoder = SpeculativeDecoder(replayed, memorising)
    captured = []
    for _ in range(2):
        assert decoder.generate(prompts[1:2], NEW_TOKENS)[0].token_ids == answers[1]
        captured.append(len(recorded))
    assert captured[0] == captured[1]
    assert decoder.generate(prompts[:1], NEW_TOKENS)[0].token_ids == answers[0]  # shorter: the same caches
    assert decoder.generate(prompts[:2], NEW_TOKENS, batch_size=2)[1].token_ids == answers[1]


def test_a_push_forward_model_keeps_its_graphs_from_call_to_call(recorded, monkeypatch):
    monkeypatch.setattr("drafter.attention.cache.STEP", 32)
    model = PushForwardModel.from_verifier(make_verifier("llama"), 2).eval()
    plain, decoder, captured = FreeDecoder(model), FreeDecoder(model), []
    decoder.replayed = Replay.WANTED
    for prompts, seed in ((make_prompts()[:3], 0), (make_prompts()[2::-1], 1)):  # other rows over what the first left
        found = decoder.generate(prompts, NEW_TOKENS, seed=seed, batch_size=3)
        captured.append(len(recorded))
        wanted = plain.generate(prompts, NEW_TOKENS, seed=seed, batch_size=3)
        assert [one.token_ids for one in found] == [one.token_ids for one in wanted]
    assert 1 <= captured[0] == captured[1]
    assert len(decoder.generate(make_prompts()[:1], NEW_TOKENS)[0].token_ids) == NEW_TOKENS  # one row: a new cache


@pytest.mark.parametrize("family", ["llama"])
def test_trees_are_no_graphs(replayed, memorising, answers, prompts, recorded):
    found = SpeculativeDecoder(replayed, memorising, tree_nodes=5).generate(prompts[:2], NEW_TOKENS, batch_size=2)
    assert [one.token_ids for one in found] == answers[:2]
    assert [(2, 6)] not in recorded  # the verifier's pass over the anchor and five nodes


@pytest.mark.parametrize("family", ["llama"])
@pytest.mark.parametrize("settings", [{"draft_length": 0}, {"draft_length": 2}], ids=str)
def test_other_widths_have_graphs_of_their_own(replayed, memorising, answers, prompts, settings, recorded):
    found = SpeculativeDecoder(replayed, memorising, **settings).generate(prompts[:2], NEW_TOKENS)
    assert [one.token_ids for one in found] == answers[:2]
    assert recorded


@pytest.mark.parametrize("family", ["gemma3"])
def test_the_flash_kernel_needs_one_graph_for_all_lengths(
    replayed, memorising, answers, prompts, recorded, monkeypatch
):
    def kernel(query, keys, values, *, cache_seqlens, **settings):
        return torch.ops.drafter_tests.flash(query, keys, values, settings["k"], settings["v"], cache_seqlens,
            settings["softmax_scale"], settings["causal"], list(settings["window_size"]))  # fmt: skip

    monkeypatch.setattr(flash, "kernel", lambda: kernel)
    monkeypatch.setattr(replayed, "kernel", "flash_attn")
    found = SpeculativeDecoder(replayed, memorising).generate(prompts[:1], 12)
    assert found[0].token_ids == answers[0][:12]
    assert len(recorded) == 3  # verify, extend, draft


@torch.library.custom_op("drafter_tests::flash", mutates_args=("keys", "values"))
def opaque_flash(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    causal: bool,
    window: list[int],
) -> torch.Tensor:
    """One operation to the recorder, as a kernel is to a graph."""
    return flash_attn_with_kvcache(
        query, keys, values, key, value, lengths, scale, causal, tuple(window), dtypes=(torch.float32,)
    )


def test_what_makes_the_host_wait_is_no_part_of_a_cycle(recorded, monkeypatch, caplog):
    """The recorder refuses it, and then everything runs as it is, which is told once."""
    verifier = make_verifier("llama")
    monkeypatch.setattr(verifier, "replayed", True)
    embed = verifier._body.get_input_embeddings().forward
    monkeypatch.setattr(verifier._body.get_input_embeddings(), "forward", lambda ids: embed(ids + 0 * int(ids[0, 0])))
    plain = SpeculativeDecoder(verifier).generate(make_prompts()[:1], 8)
    assert plain[0].token_ids == SpeculativeDecoder(make_verifier("llama")).generate(make_prompts()[:1], 8)[0].token_ids
    assert recorded == []
    assert caplog.text.count("CUDA graphs: off, a pass can't be captured (operation not permitted") == 1


@pytest.mark.parametrize("way", [{}, {"drafter": True}], ids=["plain", "drafts"])
def test_graphs_that_are_required_and_can_not_be_are_an_error(recorded, monkeypatch, way):
    verifier, drafter = make_verifier("llama"), make_memorising("llama") if way else None
    monkeypatch.setattr(verifier, "replayed", Replay.REQUIRED)
    embed = verifier._body.get_input_embeddings().forward
    monkeypatch.setattr(verifier._body.get_input_embeddings(), "forward", lambda ids: embed(ids + 0 * int(ids[0, 0])))
    decoder = SpeculativeDecoder(verifier, drafter)
    with pytest.raises(ValueError, match=r"compile='on': a pass can't be captured as a CUDA graph \(operation not"):
        decoder.generate(make_prompts()[:1], 8)


def test_rows_are_filled_without_graphs():
    cache = KVCache([LayerShape(2, 8, 8)], 2, 100, torch.float32, torch.device("cpu"), replayed=True)
    assert cache.capacity == 256
    assert cache.row(1).graphs is None


def test_graphs_are_chosen_or_refused_by_name():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [choose_replay(each, cpu) for each in ("auto", "off")] == [Replay.OFF, Replay.OFF]
    found = [choose_replay(each, cuda) for each in ("auto", "on", "off")]
    assert found == [Replay.WANTED, Replay.REQUIRED, Replay.OFF]
    assert choose_replay("auto", cuda, "reads lengths") is Replay.OFF
    for wanted, device, reason, named in (
        ("on", cpu, None, "compile='on': CUDA graphs need a CUDA device; use compile=auto"),
        ("on", cuda, "reads lengths", "compile='on': reads lengths; use compile=auto"),
        ("yes", cpu, None, "compile='yes': choose auto, on or off"),
    ):
        with pytest.raises(ValueError, match=named):
            choose_replay(wanted, device, reason)


@pytest.mark.gpu
@pytest.mark.parametrize("batch_size", [1, 3])
def test_graphs_on_a_gpu(batch_size):
    """Token for token in float32 against the same loop without graphs."""
    made, drafter = make_verifier("llama"), make_memorising("llama")
    found = []
    for compile in ("on", "off"):
        verifier = Verifier(copy.deepcopy(made.model).cuda(), made.tokenizer, compile=compile)
        decoder = SpeculativeDecoder(verifier, copy.deepcopy(drafter).cuda())
        found.append([one.token_ids for one in decoder.generate(make_prompts(), NEW_TOKENS, batch_size=batch_size)])
    assert found[0] == found[1]
