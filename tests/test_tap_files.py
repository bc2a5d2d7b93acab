"""Taps out of an engine's files: the verifier's own, or one line that says what is wrong with them."""

import fcntl
import os
import threading

import pytest
import torch
from conftest import make_verifier
from safetensors.torch import save_file

from drafter.config import load
from drafter.config.tap_files import TapFilesConfig
from drafter.data.packing import pad_packed
from drafter.data.rows import Row, pad
from drafter.models import BlockDiffusionDrafter
from drafter.taps import StateFiles, TapsElsewhere
from drafter.taps.trust import check_states
from drafter.training.prepare import prepare
from drafter.training.runs.alignment import train
from drafter.verifier import Verifier, tiny

LAYERS = [1, 3]
WIDTH = 64


def make_rows(count=4):
    generator = torch.Generator().manual_seed(0)
    lengths = (9, 30, 17, 23)[:count]
    return [Row(torch.randint(3, 259, (n,), generator=generator).tolist(), ((2, n),), f"{n}.py") for n in lengths]


def outputs(verifier, ids):
    """What vLLM calls layer 0, 1, ...: the embedding, and the output of every layer, the last before its norm."""
    kept = []
    hook = verifier.layers[-1].register_forward_hook(lambda module, args, output: kept.append(output))
    row = torch.tensor([ids])
    inner = verifier.states(row, list(range(verifier.num_layers - 1)))[0].unflatten(-1, (-1, WIDTH))
    hook.remove()
    last = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    return torch.cat([verifier.embed(row)[0, :, None], inner[:, :-1], last[0, :, None]], dim=1)  # [S, 1 + layers, D]


def write(folder, rows, verifier=None, layers=(2, 4), change=lambda tensors: tensors):
    """Files as vLLM writes them; `layers` as it counts them."""
    verifier = verifier or make_verifier("llama")
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        states = outputs(verifier, row.ids)[:, list(layers)].clone()
        tensors = change({"hidden_states": states, "token_ids": torch.tensor(row.ids)})
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / f"cmpl-{number}.safetensors")
    return folder


def opened(folder, rows=None, final=False, verifier=None, **settings):
    verifier, rows = verifier or make_verifier("llama"), rows or make_rows()
    states = StateFiles(TapFilesConfig(path=str(folder), **settings), LAYERS, WIDTH)
    states.require(rows)
    taps = TapsElsewhere(states, verifier, rows, LAYERS, final)
    check_states(taps, verifier, rows, greedy=False)
    return taps


def taps_of(taps, row):
    """Taps of one row, [S, T*D]."""
    return taps.padded([taps.rows.index(row)])[0]


@pytest.mark.parametrize(
    ("layers", "settings"),
    [
        ((2, 4), {}),
        ((2, 4, 6), {"last": "prenorm"}),
        ((4, 0, 2), {"layers": [4, 0, 2], "numbering": "vllm"}),
        ((4, 1, 2, 6), {"layers": [3, 0, 1], "last": "prenorm"}),
    ],
    ids=["taps", "with the last", "as vLLM counts, with others", "as we count, with others"],
)
def test_taps_are_the_verifiers(tmp_path, layers, settings):
    rows, verifier = make_rows(), make_verifier("llama")
    taps = opened(write(tmp_path, rows, layers=layers), final="last" in settings, **settings)
    read = verifier.states if "last" in settings else verifier.taps
    found = taps(pad(rows), [[0], [1], [2], [3]])
    for at, row in enumerate(rows):
        true = read(torch.tensor([row.ids]), LAYERS)[0]
        torch.testing.assert_close(found[at, : len(row.ids)], true, rtol=1e-5, atol=1e-5)
        assert (found[at, len(row.ids) :] == 0).all()
    packed = taps(pad_packed([[rows[0], rows[2]], [rows[1]]]), [[0, 2], [1]])
    assert torch.equal(packed[0, :26], torch.cat([found[0, :9], found[2, :17]]))
    assert torch.equal(packed[1, :30], found[1, :30])


def test_last_states_behind_the_norm_are_taken_as_they_are(tmp_path):
    rows, verifier = make_rows(), make_verifier("llama")

    def normed(tensors):
        states = tensors["hidden_states"]
        return tensors | {"hidden_states": torch.cat([states[:, :-1], verifier.norm(states[:, -1:])], dim=1)}

    folder = write(tmp_path, rows, layers=(2, 4, 6), change=normed)
    found = taps_of(opened(folder, final=True, last="postnorm"), rows[0])
    true = verifier.states(torch.tensor([rows[0].ids]), LAYERS)[0]
    torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-5)
    folder = write(tmp_path / "before", rows, layers=(2, 4, 6))
    with pytest.raises(ValueError, match=r"last states are before the final norm, and not behind it .*; check layers"):
        opened(folder, final=True, last="postnorm")


def in_eight_bits(tensors):
    states = tensors["hidden_states"]
    scales = states.abs().amax((1, 2), keepdim=True) / 448
    return tensors | {"hidden_states": (states / scales).to(torch.float8_e4m3fn), "hidden_states_scales": scales}


def test_eight_bits_are_read_with_their_scales(tmp_path):
    rows = make_rows()
    found = taps_of(opened(write(tmp_path, rows, change=in_eight_bits)), rows[1])
    true = make_verifier("llama").taps(torch.tensor([rows[1].ids]), LAYERS)[0]
    assert 0.001 < float((found - true).norm() / true.norm()) < 0.05


def states(change):
    return lambda tensors: tensors | {"hidden_states": change(tensors["hidden_states"])}


def with_nan(found):
    found[3, 1, 5] = float("nan")
    return found


DEFECTS = {
    "lacks hidden_states (it holds token_ids)": lambda tensors: {"token_ids": tensors["token_ids"]},
    "lacks token_ids (it holds weight)": lambda tensors: {"weight": torch.ones(3)},
    "holds 1 layers, not 2; say which": states(lambda found: found[:, :1]),
    "is 63 wide, the verifier 64": states(lambda found: found[..., :-1]),
    "holds states of shape [8, 2, 64] for 9 tokens; serve without prefix caching": states(lambda found: found[1:]),
    "is torch.int32 without scales": states(lambda found: found.int()),
    "holds token ids of shape []": lambda tensors: tensors | {"token_ids": torch.tensor(9)},
    "holds scales of shape [9]; write one": lambda tensors: (
        in_eight_bits(tensors) | {"hidden_states_scales": torch.ones(9)}
    ),
    "is torch.float8_e4m3fn without scales": states(lambda found: found.to(torch.float8_e4m3fn)),
    "has NaN or infinite numbers, first at token 3, layer 1 of it": states(with_nan),
    "layer 1 differs from the verifier's by": states(lambda found: found.flip(1)),
    "it is layer 3's; check layers, numbering and last": states(lambda found: found.flip(1)),
    "1 of 1 rows have no file, the first of '9.py' (9 tokens)": lambda tensors: (
        tensors | {"token_ids": torch.arange(9)}
    ),
}


@pytest.mark.parametrize("said", DEFECTS)
def test_what_is_wrong_with_a_file_is_named_in_a_line(tmp_path, said):
    folder = write(tmp_path, make_rows(1), change=DEFECTS[said])
    with pytest.raises(ValueError) as caught:
        opened(folder, make_rows(1))
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_becomes_of_a_file_later_is_named_in_a_line(tmp_path):
    rows = make_rows()
    taps = opened(write(tmp_path, rows))
    path = tmp_path / "cmpl-3.safetensors"
    whole = path.read_bytes()
    for content, said in ((whole[:-100], "is cut off or no safetensors file"), (b"", "is cut off"), (None, "is gone")):
        path.write_bytes(content) if content is not None else path.unlink()
        with pytest.raises(ValueError, match=rf"cmpl-3\.safetensors {said}.*; let the engine write it again") as caught:
            taps(pad(rows[3:]), [[3]])
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)  # the engine wrote it again
    assert taps(pad(rows[3:]), [[3]]).shape == (1, 23, 128)
    save_file({"hidden_states": torch.ones(23, 2, 64), "token_ids": torch.arange(23)}, path)
    with pytest.raises(ValueError, match="holds other token ids than the row, from token 0 on"):
        taps(pad(rows[3:]), [[3]])


def test_layers_that_are_not_there_are_refused(tmp_path):
    write(tmp_path, make_rows())
    said = r"tap_layers=\[1, 3\]: the hidden states hold layers \[0, 2\].* and lack \[1, 3\]"
    with pytest.raises(ValueError, match=said):
        opened(tmp_path, layers=[1, 3], numbering="vllm")
    with pytest.raises(ValueError, match=r"data\.tap_files\.last='none': losses on the verifier's law"):
        opened(tmp_path, final=True)
    with pytest.raises(ValueError, match=r"4 of 4 rows have no file"):
        opened(tmp_path / "elsewhere")


def test_layers_off_by_one_and_another_verifiers_files_are_found_at_once(tmp_path):
    rows = make_rows(1)
    with pytest.raises(ValueError, match=r"layer 1 differs from the verifier's by .* it is layer 0's; check layers"):
        opened(write(tmp_path / "a", rows, layers=(1, 3)), rows)
    other = Verifier(*tiny.build("llama", seed=1))
    with pytest.raises(ValueError, match=r"layer 1 differs from the verifier's by .* of its norm; check layers"):
        opened(write(tmp_path / "b", rows, verifier=other), rows)


def test_a_file_is_read_once_its_writer_lets_go_of_it(tmp_path):
    rows = make_rows(1)
    folder = write(tmp_path, rows)
    lock = folder / "cmpl-0.safetensors.lock"
    handle = os.open(lock, os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    whole = (folder / "cmpl-0.safetensors").read_bytes()
    (folder / "cmpl-0.safetensors").write_bytes(whole[:50])
    done = []
    reader = threading.Thread(target=lambda: done.append(opened(folder, rows)))
    reader.start()
    reader.join(0.2)
    assert reader.is_alive()
    (folder / "cmpl-0.safetensors").write_bytes(whole)
    os.close(handle)
    reader.join(60)
    assert done
    assert not lock.exists()


def test_a_run_on_files_is_a_run_on_taps_made_here(tiny_words, tmp_path):
    steps = ["training.max_steps=8", "training.validate_every=8", "decoding.prompts=1", "decoding.max_new_tokens=4"]
    steps += ["training.precision=float32"]
    recipe, *here = tiny_words(tmp_path, "name=here", "data.taps=online", *steps)
    material = prepare(load(recipe, here))
    write(tmp_path / "states", material.training, layers=[layer + 1 for layer in material.drafter.tap_layers])
    _, *there = tiny_words(tmp_path, "name=there", "data.taps=files", f"data.tap_files.path={tmp_path}/states", *steps)
    local, files = train(load(recipe, here)), train(load(recipe, there))
    assert files["tokens_per_cycle"] == pytest.approx(local["tokens_per_cycle"], abs=0.01)
    exports = [BlockDiffusionDrafter.from_pretrained(tmp_path / name / "export") for name in ("here", "there")]
    ours, theirs = (one.state_dict() for one in exports)
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-4, atol=1e-4)
        assert not torch.equal(weight, material.drafter.state_dict()[name]), f"{name} was not trained"
