"""A dry run: what is told of a recipe before anything of it is there; and the recipes for one node of GPUs."""

import re
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT

from drafter.__main__ import main
from drafter.config import AlignmentConfig, as_yaml, load_as
from drafter.training.plan import outlook

VERIFIERS = {  # layers, width, width of the MLP, vocabulary, context
    "qwen3_4b": (36, 2560, 9728, 151936, 40960),
    "qwen3_8b": (36, 4096, 12288, 151936, 40960),
    "llama31_8b": (32, 4096, 14336, 128256, 131072),
}
PUBLISHED = {
    "qwen3_4b": ([1, 9, 17, 25, 33], 537.4),
    "qwen3_8b": ([1, 9, 17, 25, 33], 1049),
    "llama31_8b": (None, 1174),
}


def verifier(name):
    layers, width, inner, vocabulary, context = VERIFIERS[name]
    return SimpleNamespace(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=vocabulary,
        max_position_embeddings=context,
    )


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_recipe_for_a_node_says_what_it_takes(name):
    config = load_as(AlignmentConfig, name)
    said = "\n".join(outlook(config, verifier(name)))
    taps, parameters = PUBLISHED[name]
    assert "150000 of 32 rows (rows 1 x accumulate 4 x 8 ranks)" in said
    assert f"drafter: {parameters} M parameters" in said
    assert taps is None or f"taps of layers {', '.join(map(str, taps))}" in said
    (head,) = re.findall(r"about (\d+) GB of a step", (ROOT / f"recipes/{name}.yaml").read_text())
    assert float(re.search(r"memory of a step: about ([\d.]+) GB", said)[1]) == pytest.approx(int(head), rel=0.05)
    weights = 4 * parameters / 1000  # in GB: the best ones, twice while written anew, and two with both moments
    (most, left) = re.search(r"checkpoints: up to ([\d.]+) GB in runs/\w+, ([\d.]+) once it has ended", said).groups()
    assert (float(most), float(left)) == pytest.approx((8 * weights, 2 * weights), rel=0.01)
    settings = config.training
    assert (settings.anchors, settings.learning_rate, settings.warmup) == (512, 6e-4, 0.04)


def test_a_dry_run_of_a_verifier_that_is_not_here_says_so_and_what_it_can(capsys):
    assert main(["train", "qwen3_8b", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out) == yaml.safe_load(as_yaml(load_as(AlignmentConfig, "qwen3_8b")))
    assert re.search(r"^# fault +answers ", out, re.MULTILINE)
    assert re.search(r"^# fault +verifier ", out, re.MULTILINE)
    assert "# steps: 150000 of 32 rows" in out
    assert "# verifier: the config of Qwen/Qwen3-8B is not here" in out


@pytest.mark.parametrize(
    ("recipe", "words", "told"),
    [
        (
            "k_forcing_quickstart",
            ["verifier.source=tiny-llama", "training.keep=1"],  # 245 056 weights and as many in an average
            ["stage of 4 tokens per pass: steps: 250 of 8 rows", "student: 0.2451 M", (10 + 2 * 2, 3 * 2, 0.2451)],
        ),
        (
            "diversed_quickstart",
            ["verifier.source=tiny-llama", "pair.layers=2"],  # of 80 192 weights the tied embedding's stay
            [
                "steps: 24 of 4",
                "pair: 0.08019 M parameters, 2 layers",
                (4 + 4 * (1 - 18432 / 80192), 0, 0.08019),
            ],
        ),
        (
            "k_forcing_teacher",
            ["training.schedule=constant"],  # more steps may follow
            ["steps: 800 of 16 rows", "model: 1.115 M parameters, 1024 tokens", (8, 4, 1.115)],
        ),
    ],
)
def test_a_dry_run_tells_what_the_checkpoints_of_every_system_take(recipe, words, told, capsys):
    assert main(["train", recipe, *words, "--dry-run"]) == 0
    out = capsys.readouterr().out
    *said, (most, left, millions) = told
    assert all(each in out for each in said)
    found = re.search(r"^# checkpoints: up to ([\d.]+) GB in [\w/]+, ([\d.]+) once it has ended$", out, re.MULTILINE)
    assert [float(each) for each in found.groups()] == pytest.approx(
        [most * millions * 4e-3, left * millions * 4e-3], rel=0.01
    )


def test_a_dry_run_finds_the_anchors_that_fit(tiny_words, tmp_path, capsys):
    words = tiny_words(tmp_path, "training.anchors=auto", "training.memory_gb=0.05")
    assert main(["train", *words, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^# ok +answers .*48 rows", out, re.MULTILINE)
    memory, anchors = re.search(
        r"^# memory of a step: about ([\d.]+) GB .* with (\d+) anchors", out, re.MULTILINE
    ).groups()
    assert 0.045 < float(memory) <= 0.05
    assert 8 < int(anchors) < 512
    assert not (tmp_path / "tiny").exists()
