"""`system: language_model` and `system: distillation`, whole: text in, models out, killed and gone on with."""

import csv
import json
import re
import time

import pytest
import torch
from conftest import make_verifier

from drafter import config as configs
from drafter.__main__ import main
from drafter.check import check
from drafter.config import RunConfig
from drafter.data.rows import is_held_out
from drafter.data.texts import make_text_rows, read_documents
from drafter.decode import FreeDecoder
from drafter.models import PushForwardModel, kind_of
from drafter.training import fitting
from drafter.training.batches.texts import TextSteps
from drafter.training.checkpoints import seconds_of
from drafter.training.distillation.module import DistillationModule
from drafter.training.language_model import LanguageModelModule
from drafter.training.runs import run
from drafter.training.runs.distillation import warn_of_coarse_weights
from drafter.verifier import Verifier

TRAINING = "{max_steps: 4, rows: 2, log_every: 1, validate_every: 2, learning_rate: 1.0e-3, precision: float32}"
TEXT = "{sources: [{kind: files, path: '%s'}], sequence_length: 12, validation_share: 0.3, validation_rows: 4}"
TRIAL = "{prompts: 2, prompt_tokens: 4, new_tokens: 6, batch_sizes: [2]}"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for number in range(12):
        (folder / f"{number}.txt").write_text(f"This is text {number}, with words in it. " * 3)
    return f"{folder}/*.txt"


def recipe(folder, texts, name="run", **lines):
    path = folder / f"{name}.yaml"
    said = {"name": name, "output": str(folder), "text": TEXT % texts, "training": TRAINING, **lines}
    path.write_text("\n".join(f"{key}: {value}" for key, value in said.items()))
    return path


def distillation(folder, texts, name="run", **lines):
    said = {
        "system": "distillation",
        "verifier": "{source: tiny-llama, device: cpu}",
        "stages": "[{tokens_per_pass: 1}, {tokens_per_pass: 2, max_steps: 3}]",
        "trial": TRIAL,
    }
    return configs.load_as(RunConfig, recipe(folder, texts, name, **{**said, **lines}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("distillation")
    config = distillation(folder, texts)
    return config, run(config)


def test_a_run_ends_with_a_model_that_writes(finished):
    config, summary = finished
    export = config.directory / "export"
    assert [stage["tokens_per_pass"] for stage in summary["stages"]] == [1, 2]
    assert {"held_out/nll_1", "held_out/nll_2", "held_out/match_2", "held_out/whole_match"} <= set(summary["stages"][1])
    assert [record["way"] for record in summary["writing"]] == [
        "held-out text",
        "teacher, token by token",
        "k = 1",
        "k = 2",
        "k = 2, verified",
    ]
    assert summary["writing"][-1]["same_as_teacher"] == 1
    fast = {record["way"]: record for record in summary["speed"]}
    assert fast["teacher, token by token"]["tokens_per_pass"] == fast["k = 1"]["tokens_per_pass"] == 1
    assert 1 < fast["k = 2"]["tokens_per_pass"] <= 2
    assert json.loads((config.directory / "summary.json").read_text())["speed"]
    model = PushForwardModel.load(str(export))
    assert kind_of(str(export)) is PushForwardModel
    assert model.tokens_per_pass == 2
    tokenizer = make_verifier("llama").tokenizer
    (answer,) = FreeDecoder(model, tokenizer).generate(["This is"], 6)
    assert 0 < len(answer.token_ids) <= 6
    for stage in ("0_gives_1", "1_gives_2"):
        assert (config.directory / "stages" / stage / "metrics.csv").is_file()
    page = (config.directory / "report.html").read_text()
    assert '<p class="lead">2 tokens per pass, k = ' in page
    assert page.count("<svg") == 3  # speeds of one batch size, two stages
    assert "likelier" not in page  # no judge was asked
    assert {"held-out text", "k = 2", "The recipe, resolved"} <= set(re.findall("<summary>(.*?)</summary>", page))


def test_losses_by_offset_are_kept_beside_the_teachers_own(finished):
    config, summary = finished
    verifier = make_verifier("llama")
    rows = make_text_rows(read_documents(config.text), verifier.tokenizer, config.text).held_out.long()
    with verifier.plain_attention() as model, torch.no_grad():
        expected = torch.stack([model(input_ids=row[None], labels=row[None]).loss for row in rows]).mean()
    with (config.directory / "stages.csv").open() as file:
        teacher, one, two = csv.DictReader(file)
    assert list(two) == ["k", "nats 1", "nats 2", "match 1", "match 2", "whole block"]
    assert float(teacher["nats 1"]) == pytest.approx(float(expected), rel=1e-5)
    assert (one["nats 2"], teacher["match 1"]) == ("", "")
    assert float(two["nats 2"]) == summary["stages"][1]["held_out/nll_2"]
    assert one["whole block"] == one["match 1"]


def test_the_checkpoint_of_a_stage_becomes_what_the_run_exported(finished, tmp_path):
    """The last stage's is the run's model; an earlier one's gives fewer tokens."""
    config, _ = finished
    stages = config.directory / "stages"
    for name, count in (("0_gives_1", 1), ("1_gives_2", 2)):
        source = stages / name / "checkpoints/best.ckpt"
        assert main(["export", str(source), str(tmp_path / name), "--dtype", "keep", "--verifier", "tiny-llama"]) == 0
        assert PushForwardModel.load(str(tmp_path / name)).tokens_per_pass == count
        assert check(tmp_path / name, "tiny-llama", dynamic=False).ok
    ours, theirs = (PushForwardModel.load(str(one)) for one in (tmp_path / "1_gives_2", config.directory / "export"))
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


def test_a_stage_that_has_ended_leaves_what_is_read_of_it(finished):
    """One model of 4 bytes a weight, under two names where the last is the best: no optimiser, no weights beside it."""
    config, _ = finished
    size = sum(weight.nbytes for weight in PushForwardModel.load(str(config.directory / "export")).parameters())
    for stage in (config.directory / "stages").iterdir():
        assert names(stage) == ["checkpoints", "metrics", "metrics.csv", "precision.json", "tensorboard"]
        assert names(stage / "checkpoints") == ["best.ckpt", "last.ckpt"]
        files = {path.stat().st_ino: path.stat().st_size for path in (stage / "checkpoints").iterdir()}
        state = torch.load(stage / "checkpoints/best.ckpt", weights_only=True)
        assert all(name.startswith("average.model.") for name in state["state_dict"])
        assert max(files.values()) < 1.1 * size + 100_000
        assert len(files) == 1 + (state["global_step"] < config.stages[int(stage.name[0])].max_steps)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_run_ends_as_an_undisturbed_one(finished, tmp_path, texts, monkeypatch):
    """Killed behind the first stage, before what nobody reads of it is dropped, and within the second."""
    config, summary = finished
    step, died = DistillationModule.training_step, []

    def dies(self, batch, index):
        if self.stage.tokens_per_pass == 2 and self.global_step == 2 and not died:
            died.append(True)
            raise InterruptedError
        return step(self, batch, index)

    monkeypatch.setattr(DistillationModule, "training_step", dies)
    again = distillation(tmp_path, texts)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "leave", lambda *_: (_ for _ in ()).throw(KeyError("killed")))
        with pytest.raises(KeyError, match="killed"):
            run(again)
    first = again.directory / "stages/0_gives_1/checkpoints"
    assert names(first) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    with pytest.raises(InterruptedError):
        run(again)
    assert names(first) == ["best.ckpt", "last.ckpt"]
    resumed = run(again)
    assert died
    assert resumed["stages"] == summary["stages"]
    each = [seconds_of(again.directory / "stages" / name / "checkpoints") for name in ("0_gives_1", "1_gives_2")]
    assert resumed["seconds_by_stage"]["train"] == sum(stage["train"] for stage in each)
    ours, theirs = (PushForwardModel.load(str(one.directory / "export")) for one in (again, config))
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize("objective", ["noise_inversion", "independent"])
def test_baselines_run_by_the_same_recipe(objective, tmp_path, texts):
    """Timed in another precision than judged."""
    trial = TRIAL.replace("}", ", precision: bfloat16}")
    stages = "[{tokens_per_pass: 2, max_steps: 2}]"
    found = run(distillation(tmp_path, texts, objective=objective, stages=stages, trial=trial))
    assert found["stages"][0]["tokens_per_pass"] == 2
    assert min(record["tokens_per_second"] for record in found["speed"]) > 0


def test_a_language_model_is_made_of_text_and_read_as_a_verifier(tmp_path, texts):
    model = "{model_type: qwen3, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 2, num_attention_heads: 2, "
    model += "num_key_value_heads: 1, head_dim: 8}"
    path = recipe(tmp_path, texts, system="language_model", model=model, tokenizer="{size: 300}")
    summary = run(configs.load_as(RunConfig, path))
    assert summary["vocabulary"] <= 300
    verifier = Verifier.load(str(tmp_path / "run" / "export"))
    assert verifier.tokenizer.decode(verifier.tokenizer.encode("This is text.")) == "This is text."
    assert verifier.stop_ids == (verifier.tokenizer.eos_token_id,)
    assert verifier.chat_ids("Hello")


def test_what_a_language_model_draws_survives_a_kill_and_is_not_drawn_where_it_is_measured(
    tmp_path, texts, monkeypatch
):
    """Dropout, and the seconds of both processes."""
    model = "{model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 16}"
    whole, killed = (
        configs.load_as(
            RunConfig, recipe(tmp_path, texts, name, system="language_model", model=model, tokenizer="{size: 300}")
        )
        for name in ("whole", "killed")
    )
    undisturbed, step = run(whole), LanguageModelModule.training_step

    def dies(self, batch, index):
        if batch.number == 3:
            time.sleep(0.01)
            raise InterruptedError
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", dies)
        with pytest.raises(InterruptedError):
            run(killed)
    before = seconds_of(killed.directory / "checkpoints")
    resumed = run(killed)
    measured = [each for each in column(killed, "likelihood_held_out") if each]
    assert measured == [each for each in column(whole, "likelihood_held_out") if each]
    assert resumed["nll_held_out"] == undisturbed["nll_held_out"] == pytest.approx(-max(map(float, measured)), rel=1e-6)
    after = resumed["seconds_by_stage"]
    assert all(after[stage] > before[stage] for stage in ("prepare", "train"))
    again = run(killed)
    assert (again["nll_held_out"], again["seconds_by_stage"]["train"]) == (resumed["nll_held_out"], after["train"])


def column(config, name):
    with (config.directory / "metrics.csv").open() as file:
        return [record[name] for record in csv.DictReader(file)]


def test_every_row_is_text_of_one_side_and_every_epoch_sees_each_once(texts):
    verifier = make_verifier("llama")
    config = distillation_text(texts)
    documents = [(f"{number}", "abc" * (number + 4)) for number in range(40)]
    rows = make_text_rows(documents, verifier.tokenizer, config)
    end = verifier.tokenizer.eos_token_id
    kept = [text for name, text in documents if not is_held_out(name, 0.3)]
    stream = [token for text in kept for token in [*verifier.tokenizer.encode(text), end]]
    assert rows.training.flatten().tolist() == stream[: len(stream) // 12 * 12]
    steps = [TextSteps(rows.training, 2, 5, rank, 2) for rank in range(2)]
    seen = [tuple(row) for number in range(steps[0].per_epoch) for rank in steps for row in rank[number].ids.tolist()]
    assert len(seen) == len(rows.training) // 4 * 4
    whole = [tuple(row) for row in rows.training.tolist()]
    assert all(seen.count(row) <= whole.count(row) for row in seen)


def distillation_text(texts):
    sources = [{"kind": "files", "path": texts}]
    return configs.TextConfig(sources=sources, sequence_length=12, validation_share=0.3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"stages": "[{tokens_per_pass: 3}]"}, "tokens_per_pass=3: must be a power of two"),
        ({"stages": "[{tokens_per_pass: 1}, {tokens_per_pass: 4}]"}, r"tokens_per_pass=\[1, 4\]: must begin with 1"),
        ({"stages": "[{tokens_per_pass: 2}]"}, "must begin with 1"),
        ({"stages": "[{tokens: 2}]"}, r"stages\[0\].tokens: unknown key"),
        ({"stages": "[{tokens_per_pass: 1, max_steps: 0}]"}, "max_steps=0: must be >= 1"),
        ({"objective": "ptp"}, "objective='ptp': choose one of self_forcing, noise_inversion, independent"),
        ({"student": "{temperatures: [1.0, 0.5]}"}, "student.temperatures"),
        ({"trial": "{precision: float8}"}, "trial.precision='float8': choose one of auto, float32, bfloat16"),
        ({"trial": "{new_tokens: 2}"}, "trial.new_tokens=2: a pass gives 2, and speed is of what follows the first"),
        ({"student": "{average: 1.0}"}, "student.average=1.0: must lie in"),
        ({"trial": "{batch_sizes: []}"}, r"trial.batch_sizes=\[\]: name at least one"),
        ({"trial": "{prompt_tokens: 12}"}, "trial.prompt_tokens=12: leaves nothing of a row of 12 tokens"),
        ({"drafter": "{mask_token_id: 2}"}, "drafter: unknown key"),
        ({"text": "{sources: [{kind: web}]}"}, r"text.sources\[0\].kind='web': choose among docstrings"),
    ],
)
def test_recipes_that_can_not_be_are_refused(lines, message, tmp_path, texts):
    with pytest.raises(ValueError, match=message):
        distillation(tmp_path, texts, **lines)


def test_what_no_context_holds_is_refused_before_training(tmp_path, texts):
    config = distillation(tmp_path, texts, trial=TRIAL.replace("new_tokens: 6", "new_tokens: 2045"))
    with pytest.raises(ValueError, match=r"trial.new_tokens=2045: the teacher reads 2048 tokens, 4 of the prompt"):
        run(config)
    assert not (config.directory / "stages").exists()


def test_a_student_of_another_vocabulary_is_refused_before_training(finished, tmp_path, texts):
    config, _ = finished
    folder = tmp_path / "other"
    small = make_verifier("llama").model.config.to_dict() | {"vocab_size": 32, "eos_token_id": 0, "pad_token_id": 0}
    PushForwardModel(
        type(PushForwardModel.load(str(config.directory / "export")).config)(backbone=small)
    ).save_pretrained(folder)
    with pytest.raises(ValueError, match="has a vocabulary of 32 tokens, the teacher of 288"):
        run(distillation(tmp_path, texts, student=f"{{start: '{folder}'}}"))


def test_the_command_writes_with_and_without_a_verifier(finished, tmp_path, capsys):
    export, told = str(finished[0].directory / "export"), tmp_path / "told.json"
    alone = ["generate", export, "--raw", "--max-new-tokens", "7", "--dtype", "float32"]
    assert main([*alone, "--json", str(told), "This is"]) == 0
    found = json.loads(told.read_text())
    assert capsys.readouterr().out.rstrip("\n") == found["text"].rstrip("\n")
    assert (found["tokens"], found["passes"]) in ((7, 4), *((n, -(-n // 2)) for n in range(1, 7)))
    assert main([*alone, "--draft-length", "1", "--frequency-penalty", "0.5", "This is"]) == 0
    beside = [*alone, "--verifier", "tiny-llama", "--temperature", "1"]
    assert main([*beside, "This is"]) == 0
    for words, message in (
        ([*alone, "--draft-length", "3"], "tokens_per_pass=3: the model was trained to give 1 to 2"),
        ([*alone, "--top-k", "5"], "top-p, top-k: a push-forward model has no law to cut"),
        ([*alone, "--rule", "match"], "rule='match': goes with --verifier"),
        ([*beside, "--frequency-penalty", "1"], "frequency-penalty=1.0: a verifier's law has none"),
        (["generate", "--plain"], "verifier: none is named"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*words, "This is"])


def test_a_teacher_in_sixteen_bits_is_warned_of(tmp_path, caplog):
    model = make_verifier("llama").model
    for dtype, said in ((torch.bfloat16, True), (torch.float32, False)):
        caplog.clear()
        folder = tmp_path / str(dtype)
        type(model)(model.config).to(dtype).save_pretrained(folder)
        warn_of_coarse_weights(str(folder))
        assert ("stored in torch.bfloat16" in caplog.text) == said
