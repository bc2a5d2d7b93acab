"""Ablations: what is asked, what is shared, what a kill or a failing arm leaves, what the report is made from."""

import csv
import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import make_verifier
from tiny_run import write_answers

from drafter import answers
from drafter.__main__ import main
from drafter.ablation import report, runner, tables
from drafter.ablation.shared import Shared
from drafter.ablation.spec import load_ablation
from drafter.evaluation.statistics import Estimate

RECIPES = Path(__file__).parent.parent / "recipes"
UNIFORM = (
    "\n  uniform: [losses.decayed_ce.decay_slots=null, losses.first_error.weight=0, losses.chain_reward.weight=0]\n"
)
ARMS = f"{UNIFORM}  full:\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Answers, a suite of three prompts, and room for ablations."""
    folder = tmp_path_factory.mktemp("ablation")
    write_answers(folder, times=4)
    (folder / "suite.jsonl").write_text("".join(json.dumps({"prompt": f"Tell me {i}"}) + "\n" for i in range(3)))
    return folder


@pytest.fixture
def write_spec(place, tmp_path):
    """Write an ablation of a few steps, and return its path."""

    def write(arms=ARMS, base=RECIPES / "tiny.yaml", suites=None, **settings):
        suites = suites or ["held_out", str(place / "suite.jsonl")]
        said = {"baseline": "uniform", "seeds": [0, 1], "output": str(tmp_path / "out"), "suites": suites} | settings
        shorter = ["training.max_steps=3", "training.log_every=1", "training.validate_every=2"]
        small = ["data.validation_rows=3", "data.test_rows=3", "data.max_new_tokens=8"]
        answers_are = f"data.answers={place / 'answers.parquet'}"
        lines = [f"base: {base}", f"arms:{arms}", f"overrides: {json.dumps([*shorter, *small, answers_are])}"]
        path = tmp_path / "ablation.yaml"
        path.write_text("\n".join([*lines, *(f"{key}: {json.dumps(value)}" for key, value in said.items())]))
        return path

    return write


def trained_runs(monkeypatch):
    """(arm, seed) of each run that is trained from now on."""
    done = []
    train_one = runner.train_one

    def watch(shared, config):
        done.append((config.directory.parent.name, config.seed))
        return train_one(shared, config)

    monkeypatch.setattr(runner, "train_one", watch)
    return done


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """A finished ablation: its YAML file and its directory."""
    folder = tmp_path_factory.mktemp("finished")
    overrides = [
        "training.max_steps=4",
        "training.log_every=1",
        "training.validate_every=2",
        "data.validation_rows=4",
        "data.test_rows=4",
        "data.max_new_tokens=8",
        f"data.answers={place / 'answers.parquet'}",
    ]
    path = folder / "ablation.yaml"
    path.write_text(
        f"base: {RECIPES / 'tiny.yaml'}\narms:{ARMS}\noverrides: {json.dumps(overrides)}\nbaseline: uniform\n"
        f"seeds: [0, 1]\nsuites: [held_out, {place / 'suite.jsonl'}]\noutput: {folder / 'out'}\n"
    )
    main(["ablate", str(path)])
    return path, folder / "out"


# ------------------------------------------------------------------ what a finished ablation holds


def test_a_row_per_arm_seed_suite_and_prompt(finished):
    rows = read_rows(finished[1] / "results.csv")
    assert len(rows) == 2 * 2 * (4 + 3)
    assert len({(row["arm"], row["seed"], row["suite"], row["prompt"]) for row in rows}) == len(rows)
    for row in rows:
        emitted, cycles, accepted = (int(row[name]) for name in ("emitted", "cycles", "accepted"))
        assert cycles <= emitted <= accepted + cycles
        assert int(row["reached_1"]) == cycles
        assert sum(int(row[f"kept_{slot}"]) for slot in (1, 2, 3)) == accepted


def test_every_arm_walks_the_same_answers(finished):
    emitted = {}
    for row in read_rows(finished[1] / "results.csv"):
        emitted.setdefault((row["suite"], row["prompt"]), set()).add(row["emitted"])
    assert all(len(found) == 1 for found in emitted.values())


def test_a_suites_answers_are_the_verifiers_own(finished, place):
    verifier = make_verifier("llama")
    (file,) = (finished[1] / "answers").glob("*.parquet")
    rows, _ = answers.read(file)
    for number, row in enumerate(rows):
        prompt = verifier.chat_ids(f"Tell me {number}")
        with verifier.plain_attention() as model:
            ids = torch.tensor([prompt])
            expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        assert row["answer_ids"] == expected[0, len(prompt) :].tolist()


def test_the_report_names_what_was_run(finished):
    for name in ("report.md", "report.html"):
        text = (finished[1] / name).read_text()
        for word in (
            "uniform",
            "full",
            "held_out",
            "losses.chain_reward.weight=0",
            "commit",
            "torch",
            "hardware",
            "gain",
        ):
            assert word in text
    for picture in ("tokens_per_cycle", "gains", "learning_curves", "slots", "gradient_norms"):
        assert (finished[1] / f"{picture}.png").stat().st_size > 1000
        assert f"{picture}.png" in (finished[1] / "report.md").read_text()
        assert f'data-picture="{picture}0"' in (finished[1] / "report.html").read_text()
    text = (finished[1] / "report.md").read_text()
    assert "0.2 first_error(decay_slots=4.0) + 0.1 chain_reward()" in text
    assert "1 decayed_ce(decay_slots=None, reduction=mean)" in text
    assert "| full |  |" in text  # an arm without overrides
    assert "4 of 4 finished" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[0].startswith("## Gain over uniform")  # what was found stands first, how it was made last
    assert headings[-1] == "## How this was made"


SURE, UNSURE, HINT = Estimate(0.2, 0.1, 0.3, 3), Estimate(0.2, -0.1, 0.3, 3), Estimate(0.2, 0.1, 0.3)
WORSE = Estimate(-0.2, -0.3, -0.1, 3)


@pytest.mark.parametrize(
    ("mean", "suites", "said"),
    [
        (SURE, [SURE, SURE], "ahead on every suite"),
        (SURE, [SURE, UNSURE], "ahead on average"),
        (UNSURE, [SURE, UNSURE], "not settled"),
        (WORSE, [WORSE, UNSURE], "behind on average"),
        (WORSE, [WORSE, WORSE], "behind on every suite"),
        (HINT, [HINT, HINT], "a hint: one seed"),
    ],
)
def test_a_verdict_needs_an_interval_over_seeds(mean, suites, said):
    assert report.verdict(mean, suites) == said


def test_curves_hold_each_term_and_its_gradient_norm(finished):
    found = {(row["arm"], row["metric"]) for row in read_rows(finished[1] / "curves.csv")}
    for metric in ("train/chain_reward", "gradient_norm/first_error", "loss", "tokens_per_cycle_held_out"):
        assert ("full", metric) in found
    assert ("uniform", "gradient_norm/decayed_ce") in found
    assert ("uniform", "gradient_norm/first_error") not in found


def test_a_report_from_the_csv_files_alone_is_the_same(finished, tmp_path, drawn):
    _, directory = finished
    for name in tables.FILES:
        shutil.copy(directory / name, tmp_path / name)
    main(["ablate", str(tmp_path), "--report-only"])
    for name in ("report.md", "report.html"):
        assert (tmp_path / name).read_text() == (directory / name).read_text()
    for picture in directory.glob("*.png"):
        assert (tmp_path / picture.name).read_bytes() == picture.read_bytes()


def test_report_only_trains_and_loads_nothing(finished, tmp_path, monkeypatch):
    path, directory = finished
    copy = shutil.copytree(directory, tmp_path / "copy")
    (copy / "report.md").unlink()
    monkeypatch.setattr(runner, "Shared", None)  # calling it would raise
    main(["ablate", str(path), f"output={copy}", "--report-only"])
    assert (copy / "report.md").read_text() == (directory / "report.md").read_text()


def test_checkpoints_of_finished_runs_are_gone(finished):
    assert not list(finished[1].rglob("*.ckpt"))


# ------------------------------------------------------------------ restarts and failures


def test_a_restart_skips_finished_runs_and_repeats_the_rest_exactly(write_spec, tmp_path, monkeypatch):
    words = ["ablate", str(write_spec(seeds=[3]))]
    main(words)
    first = {name: (tmp_path / "out" / name).read_text() for name in ("results.csv", "curves.csv")}
    shutil.rmtree(tmp_path / "out/runs/full/seed_3")
    done = trained_runs(monkeypatch)
    main(words)
    assert done == [("full", 3)]
    assert {name: (tmp_path / "out" / name).read_text() for name in first} == first


def test_a_run_killed_before_its_result_goes_on_from_its_checkpoint(write_spec, tmp_path, monkeypatch):
    path = write_spec(arms=UNIFORM, seeds=[0])

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Shared, "walks", die)
        with pytest.raises(Killed):
            main(["ablate", str(path)])
    assert (tmp_path / "out/runs/uniform/seed_0/checkpoints/last.ckpt").is_file()
    main(["ablate", str(path)])
    resumed = (tmp_path / "out/results.csv").read_text()
    main(["ablate", str(path), f"output={tmp_path / 'undisturbed'}"])
    assert (tmp_path / "undisturbed/results.csv").read_text() == resumed


def test_weights_that_a_kill_behind_the_result_left_are_gone_behind_the_next_start(write_spec, tmp_path, monkeypatch):
    path, folder = write_spec(arms=UNIFORM, seeds=[0]), tmp_path / "out/runs/uniform/seed_0"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "drop_weights", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            runner.run_all(load_ablation(path))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    (folder / ".checkpoints.dead.unfinished").mkdir()  # of a kill while they were removed
    done = trained_runs(monkeypatch)
    main(["ablate", str(path)])
    assert not list(folder.glob("*checkpoints*"))
    assert done == []


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [("training.rows=1000", "training.rows: a step takes 1000"), ("training.learning_rate=1e30", "was not finite")],
    ids=["error", "divergence"],
)
def test_a_failing_arm_is_reported_and_the_others_go_on(write_spec, tmp_path, monkeypatch, breaks, reason, capsys):
    path = write_spec(arms=f"\n  broken: [{breaks}]{UNIFORM}", seeds=[0], suites=["held_out"])
    with pytest.raises(SystemExit) as ended:
        main(["ablate", str(path)])
    assert ended.value.code == 1
    assert "broken, seed 0: failed" in capsys.readouterr().out
    text = (tmp_path / "out/report.md").read_text()
    assert "| broken | 0 | failed |" in text
    assert reason in text
    assert {row["arm"] for row in read_rows(tmp_path / "out/results.csv")} == {"uniform"}
    done = trained_runs(monkeypatch)
    with pytest.raises(SystemExit):
        main(["ablate", str(path)])
    assert done == [("broken", 0)]


def test_without_a_baseline_run_there_are_numbers_but_no_gains(write_spec, tmp_path):
    arms = "\n  uniform: [training.rows=1000]\n  full: []\n"
    with pytest.raises(SystemExit):
        main(["ablate", str(write_spec(arms=arms, seeds=[0], suites=["held_out"]))])
    text = (tmp_path / "out/report.md").read_text()
    assert "The baseline uniform has no finished run" in text
    assert "| full | 1 |" in text


def test_nothing_finished_is_one_line(write_spec, capsys):
    arms = "\n  uniform: [training.rows=1000]\n"
    with pytest.raises(SystemExit, match=r"error: .*no run is finished, so there is nothing to report"):
        main(["ablate", str(write_spec(arms=arms, seeds=[0], suites=["held_out"]))])


def test_an_arm_that_does_not_fit_the_verifier_is_refused_before_any_training(write_spec, monkeypatch):
    done = trained_runs(monkeypatch)
    with pytest.raises(SystemExit, match=r"arms\.deep: drafter\.tap_layers=\[99\]"):
        main(["ablate", str(write_spec(arms=f'{ARMS}  deep: ["drafter.tap_layers=[99]"]\n'))])
    assert not done


def test_some_arms_now_and_the_others_later(write_spec, tmp_path, monkeypatch):
    done, path = trained_runs(monkeypatch), str(write_spec(seeds=[0], suites=["held_out"]))
    with pytest.raises(SystemExit, match=r"only=\['none'\].*choose one of uniform, full"):
        main(["ablate", path, "only=[none]"])
    main(["ablate", path, "only=[full]"])
    assert done == [("full", 0)]
    assert "has no finished run" in (tmp_path / "out/report.md").read_text()
    main(["ablate", path])
    assert done == [("full", 0), ("uniform", 0)]
    assert "2 of 2 finished" in (tmp_path / "out/report.md").read_text()


@pytest.mark.slow
def test_several_processes_share_the_runs(write_spec, tmp_path, monkeypatch):
    shares = []

    class InThisProcess:
        def __init__(self, command, env):
            shares.append((command[-1], env["CUDA_VISIBLE_DEVICES"]))
            assert command[1:3] == ["-m", "drafter"]
            main(command[3:])

        returncode = 0

        def poll(self):
            return self.returncode

        def terminate(self):
            ended.append(True)

    ended = []
    monkeypatch.setattr(runner, "Popen", InThisProcess)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    done = trained_runs(monkeypatch)
    main(["ablate", str(write_spec(processes=2, suites=["held_out"]))])
    assert shares == [("0/2", "4"), ("1/2", "7")]
    assert done == [("uniform", 0), ("uniform", 1), ("full", 0), ("full", 1)]
    assert "4 of 4 finished" in (tmp_path / "out/report.md").read_text()
    assert len(ended) == 2


def spread(monkeypatch, kind, count):
    """Share an ablation of nothing among so many processes of a kind."""
    monkeypatch.setattr(runner, "Popen", kind)
    for name in ("Shared", "make_taps"):
        monkeypatch.setattr(runner, name, lambda one: one)
    monkeypatch.setattr(runner, "unfinished", lambda spec: [spec])
    monkeypatch.setattr(runner, "POLL", 0)
    runner.spread(SimpleNamespace(processes=count), [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_processes_are_looked_at_and_end_with_this_one(monkeypatch, number):
    """A signal that comes just before a wait blocks would be lost until a process ends of itself."""
    looks, ended = [], []

    class Busy:
        def __init__(self, command, env):
            self.returncode = None

        def poll(self):
            looks.append(self)
            if len(looks) == 3:
                signal.raise_signal(number)
            return self.returncode

        def wait(self):
            pytest.fail("waited for")

        def terminate(self):
            ended.append(self)

    with pytest.raises(KeyboardInterrupt):
        spread(monkeypatch, Busy, 2)
    assert len(set(looks)) == 1  # none has ended before the first of them
    assert len(ended) == 2


def test_processes_that_end_early_are_counted(monkeypatch, caplog):
    codes = iter([0, 3, 0])

    class Ended:
        def __init__(self, command, env):
            self.returncode = next(codes)
            self.poll, self.terminate = lambda: self.returncode, lambda: None

    spread(monkeypatch, Ended, 3)
    assert "1 of 3 processes ended early; start again to go on" in caplog.text


# ------------------------------------------------------------------ what arms share


def test_arms_of_a_seed_share_weights_rows_and_anchors(write_spec, monkeypatch):
    spec = load_ablation(write_spec())
    shared = Shared(spec)
    seen = {}

    def look(module, batches, directory, settings, monitor, **_):
        made = list(batches.loader(0, 0, settings.max_steps))
        weights = {name: weight.clone() for name, weight in module.drafter.state_dict().items()}
        seen[directory.parent.name, module.config.seed] = weights, made
        raise InterruptedError

    monkeypatch.setattr(runner, "fit", look)
    for arm, seed in spec.runs():
        with pytest.raises(InterruptedError):
            runner.train_one(shared, spec.config(arm, seed))

    def same(one, other):
        weights = all(torch.equal(one[0][name], other[0][name]) for name in one[0])
        pairs = list(zip(one[1], other[1], strict=True))
        rows = all(torch.equal(a.rows.ids, b.rows.ids) and torch.equal(a.taps, b.taps) for a, b in pairs)
        return weights, rows, rows and all(torch.equal(a.anchors, b.anchors) for a, b in pairs)

    for seed in (0, 1):
        assert same(seen["uniform", seed], seen["full", seed]) == (True, True, True)
    assert same(seen["full", 0], seen["full", 1])[1:] == (False, False)


def test_verifier_and_taps_are_made_once(write_spec, monkeypatch):
    shared = Shared(load_ablation(write_spec(arms=f'{ARMS}  wide: ["drafter.tap_layers=[0,2]"]\n', seeds=[0])))
    for arm, seed in shared.spec.runs():
        shared.walks(runner.train_one(shared, shared.spec.config(arm, seed))[0])
    assert len(shared._taps) == 2 * 4  # tap layers × (training, validation, test, suite)
    assert shared.verifier(torch.float32) is shared.material.verifier


@pytest.mark.slow
def test_arms_on_the_verifiers_law_run_beside_others(write_spec, tmp_path):
    arms = f"{ARMS}  kl: [losses.forward_kl.weight=1]\n"
    main(["ablate", str(write_spec(arms=arms, seeds=[0])), "drafter.vocabulary=full"])
    assert {row["arm"] for row in read_rows(tmp_path / "out/results.csv")} == {"uniform", "full", "kl"}


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        ({"arms": f"{ARMS}  full: []\n"}, [], r"arms\.full: there are two of this name"),
        ({"baseline": "none"}, [], r"baseline='none': no such arm; choose one of uniform, full"),
        (
            {"suites": ["nowhere"]},
            [],
            r"suite='nowhere': no such file; name a YAML file, or one",
        ),
        ({"suites": []}, ["suites=[]"], r"suites=\[\]: name at least one"),
        ({"seeds": [1, 1]}, [], r"seeds=\[1, 1\]: names one twice"),
        ({"arms": f"{ARMS}  x: [losses.decayed_ce.reduction=max]\n"}, [], r"arms\.x: .*reduction=max"),
        ({"arms": f"{ARMS}  x: [losses.hinge.weight=1]\n"}, [], r"arms\.x: losses\.hinge: unknown key"),
        ({"arms": f"{ARMS}  x: [losses.dpace.weight=-1]\n"}, [], r"arms\.x: .*losses\.dpace\.weight=-1.*>= 0"),
        ({"arms": f"{ARMS}  x: [losses.jsd.weight=1]\n"}, [], r"arms\.x: drafter\.vocabulary=.*\(jsd\)"),
        ({"arms": f"{ARMS}  x: [data.max_rows=3]\n"}, [], r"arms\.x='data\.max_rows=3': arms share data"),
        ({"arms": f"{ARMS}  ../x: []\n"}, [], r"arms='\.\./x': a name is made of"),
        ({"arms": " {}"}, [], r"arms=\{\}: name at least one arm"),
        ({"arms": " [a, b]"}, [], r"arms=.*must hold `name: \[key=value\]`"),
        ({"base": "nowhere.yaml"}, [], r"recipe='nowhere\.yaml': no such file"),
        ({"colour": "red"}, [], r"key=\['colour'\]: unknown; known here: base, overrides"),
        (
            {"seeds": [-1], "arms": "\n  uniform: [training.steps=3]\n"},
            [],
            r"arms\.uniform: training\.steps: unknown key",
        ),
        ({}, ["suite_prompts=0"], r"suite_prompts=0: must be >= 1"),
        ({}, ["processes=none"], r"processes"),
        ({}, ["training.rows=0"], r"training\.rows=0: must be >= 1"),
        ({}, ["seeds"], r"override='seeds': write it as key=value"),
    ],
)
def test_bad_input_is_one_line_before_any_training(write_spec, monkeypatch, settings, words, message):
    monkeypatch.setattr(runner, "Shared", None)
    with pytest.raises(SystemExit, match=message) as ended:
        main(["ablate", str(write_spec(**settings)), *words])
    assert "\n" not in str(ended.value)


def test_a_suite_without_prompts(write_spec, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(SystemExit, match=r"holds no prompts"):
        main(["ablate", str(write_spec(suites=[str(tmp_path / "empty.jsonl")]))])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["training.max_steps=5"], r"other training\.max_steps"),
        (["losses.decayed_ce.reduction=block_sum"], r"other losses\.decayed_ce\.reduction"),
        (["data.validation_rows=3"], r"other .*data\.validation_rows"),
        (["suites=[held_out]"], r"other suites\.names"),
        (["verifier.source=tiny-qwen3"], r"written by another verifier"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(finished, words, named, monkeypatch):
    done = trained_runs(monkeypatch)
    with pytest.raises(SystemExit, match=named):
        main(["ablate", str(finished[0]), *words])
    assert not done


def test_a_directory_without_a_run_may_be_claimed_again(write_spec, tmp_path):
    spec = load_ablation(write_spec(suites=["held_out"]))
    Shared(spec)
    Shared(load_ablation(write_spec(suites=["held_out"]), ["training.max_steps=7"]))
    assert json.loads((tmp_path / "out/ablation.json").read_text())["recipe"]["training"]["max_steps"] == 7


def test_a_report_of_nothing(tmp_path):
    with pytest.raises(SystemExit, match=r"lacks about\.csv, arms\.csv.*; run the ablation first"):
        main(["ablate", str(tmp_path), "--report-only"])


def test_other_answers_at_the_same_place_are_refused(write_spec, place, tmp_path):
    copy = tmp_path / "answers.parquet"
    shutil.copy(place / "answers.parquet", copy)
    words = ["ablate", str(write_spec(arms=UNIFORM, seeds=[0], suites=["held_out"])), f"data.answers={copy}"]
    main(words)
    rows, manifest = answers.read(copy)
    answers.write(copy, [{**row, "answer_ids": row["answer_ids"][::-1]} for row in rows], manifest)
    with pytest.raises(SystemExit, match=r"can't be compared with these \(other answers\)"):
        main(words)


def test_an_arm_with_other_overrides_is_refused(finished, tmp_path, monkeypatch):
    path = tmp_path / "changed.yaml"
    path.write_text(finished[0].read_text().replace("losses.first_error.weight=0,", "losses.first_error.weight=1,"))
    done = trained_runs(monkeypatch)
    with pytest.raises(SystemExit, match=r"arms\.uniform: .* holds a run of this name with other settings"):
        main(["ablate", str(path)])
    assert not done


@pytest.mark.parametrize("path", sorted((RECIPES / "ablations").glob("*.yaml")), ids=lambda path: path.stem)
def test_ablations_that_ship_load(path, monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.setattr("drafter.ablation.spec.load_suite", lambda name: [{"prompt": "x"}])
    spec = load_ablation(path)
    assert spec.baseline in spec.arms
    configs = [spec.config(arm, 0) for arm in spec.arms]
    assert len({repr((config.losses, config.training, config.data.answers)) for config in configs}) == len(configs)


# ------------------------------------------------------------------ statistics
