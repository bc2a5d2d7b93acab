"""Every command and every example of the pages runs: on tiny models, in short, page by page and in the page's order.

What needs a network or a GPU is listed, and runs where there is one. Names of real models stand for tiny ones here.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from pages import PAGES, blocks, commands

import train
from drafter.__main__ import main, make_parser
from drafter.ablation import spec
from drafter.config import RunConfig, load_as
from drafter.config.shipped import find_recipe, shipped
from drafter.evaluation.suites import read_cases, read_suite
from drafter.verifier import tiny

STAND_INS = {
    "smollm2": "tiny-llama",
    "VERIFIER": "tiny-llama",
    "Qwen/Qwen3-8B": "tiny-llama",
    "Qwen/Qwen3-32B": "tiny-qwen3",
    "NAME": "quickstart",
}
SHORT = {
    "verifier.source": "tiny-llama",
    "data.max_new_tokens": 8,
    "data.sequence_length": 512,
    "data.validation_share": 0.3,
    "data.validation_rows": 2,
    "drafter.num_layers": 1,
    "drafter.block_size": 4,
    "drafter.num_taps": 3,
    "drafter.tap_layers": "null",
    "drafter.mask_token_id": 2,
    "training.rows": 1,
    "training.anchors": 4,
    "training.max_steps": 2,
    "training.sampled_tokens": 16,
    "training.validate_every": "null",
    "training.precision": "float32",
    "decoding.prompts": 1,
    "decoding.max_new_tokens": 8,
}
TEXT = {
    "text.sources": "[{kind: files, path: 'texts/*.txt'}]",
    "text.sequence_length": 16,
    "text.validation_share": 0.3,
    "text.validation_rows": 2,
    **{key: value for key, value in SHORT.items() if key.startswith("training.")},
}
del TEXT["training.anchors"], TEXT["training.sampled_tokens"]
SHORT_BY_SYSTEM = {
    "alignment": SHORT,
    "language_model": TEXT | {"tokenizer.size": 300},
    "distillation": TEXT
    | {"trial.prompts": 2, "trial.prompt_tokens": 4, "trial.new_tokens": 4, "trial.batch_sizes": "[2]"}
    | {"trial.judge": "null", "stages": "[{tokens_per_pass: 1}, {tokens_per_pass: 2}]"}
    | {"training.validate_every": 1},
}
SHORT_BY_SYSTEM["ensemble"] = {
    "verifier.source": "tiny-llama",
    "pair.layers": 2,
    "pair.sequence_length": 32,
    **{f"pair.{key}": value for key, value in TEXT.items() if key.startswith("training.")},
    **{"tasks.validation": 2, "tasks.test": 2, "tasks.test_seeds": 1, "tasks.timed": 0, "tasks.max_new_tokens": 4},
    **{"ensemble.draft_length": 2, "ensemble.rollouts": 2, "ensemble.updates": 1},
    **{key: value for key, value in TEXT.items() if key.startswith("training.")},
}
ANSWERING = ("verifier", "data")  # the sections that `regenerate` reads
FEW = {
    "generate": ["--max-new-tokens", "8"],
    "evaluate": ["--max-new-tokens", "8", "--prompts", "2"],
    "benchmark": ["--max-new-tokens", "8", "--prompts", "2", "--repeats", "1"],
    "doctor": ["--no-self-test"],
    "frontier": ["--count", "2", "--seeds", "1", "--max-new-tokens", "4", "--timed", "0"],
}
ELSEWHERE = {
    ("pip", "install"): "network",
    ("make",): "network",
    ("vllm", "serve"): "gpu",
    ("python", "-m", "sglang.launch_server"): "gpu",
}
README = ROOT / "README.md"
SLOW = {"README.md", *(f"docs/{page}.md" for page in ("answers", "diversed", "losses", "memory", "report"))}
EVERYTHING = [
    (page, words) for page in PAGES for each in blocks(page) if each.language == "bash" for words in commands(each.text)
]


def where(words):
    """The mark of a command that can't run everywhere, or None."""
    if "--push" in words or any("://" in word for word in words):
        return "network"
    return next((mark for start, mark in ELSEWHERE.items() if tuple(words[: len(start)]) == start), None)


def name(page):
    return page.relative_to(ROOT).as_posix()


def here(word):
    """A word of a command, of a file or of a program, with the tiny models' names in place of the real ones'."""
    for real, other in STAND_INS.items():
        word = re.sub(rf"(?<![\w.-]){re.escape(real)}(?![\w-])", other, word)
    return word


def drafters(words):
    """What follows `drafter` in a command of ours, however it is called; None for another program's."""
    for start in (["drafter"], ["python", "-m", "drafter"]):
        if words[: len(start)] == start:
            return words[len(start) :]
    return ["train", *words[2:]] if words[:2] == ["python", "train.py"] else None


class Desk:
    """A folder in which the commands of one page run, with what a reader has by then."""

    def __init__(self, answers, run):
        self.answers, self.finished = answers, run
        prompts = [{"prompt": f"question {number}?"} for number in range(24)]
        Path("prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts))
        Path("texts").mkdir()
        for number in range(12):
            Path(f"texts/{number}.txt").write_text(f"This is text {number}, with words in it. " * 3)

    def supply(self, text):
        """Runs and files that `text` names and that no earlier command of the page made."""
        for run in set(re.findall(r"runs/([\w-]+)/(?:export|checkpoints)", text)):
            if not Path("runs", run).exists():
                shutil.copytree(self.finished, Path("runs", run))
        for recipe in re.findall(r"[\w-]+\.yaml", text):
            if not Path(recipe).exists():
                shutil.copy(ROOT / "recipes/tiny.yaml", recipe)
        for report in set(re.findall(r"docs/results/\w+", text)):
            if not Path(report).exists():
                shutil.copytree(ROOT / report, report)

    def drafter(self, words):
        """Run a command of ours, in short."""
        end = next((at for at, word in enumerate(words) if word.startswith("[")), len(words))  # of a synopsis
        command, *rest = map(here, words[:end])
        self.supply(" ".join(rest))
        system = "alignment"
        if command in ("train", "doctor") and rest:
            system = OmegaConf.load(find_recipe(rest[0])).get("system", system)
        overrides = [f"{key}={value}" for key, value in SHORT_BY_SYSTEM[system].items()]
        if command in ("train", "regenerate", "ablate", "doctor") and rest and "--report-only" not in rest:
            if command == "ablate" or (find_recipe(rest[0]).parent == shipped() and system == "alignment"):
                overrides.append("data.sources=[{kind: standard_library, write: 40, max_characters: 200}]")
            if command == "ablate":
                rest[0] = "tiny"  # the arms of others take minutes
            rest += (
                overrides if command != "regenerate" else [one for one in overrides if one.split(".")[0] in ANSWERING]
            )
            if (
                command != "regenerate"
                and rest[0] in ("quickstart", "tiny")
                and not Path("runs/tiny-answers.parquet").exists()
            ):
                rest.append(f"data.answers={self.answers}")
        run = [command, *rest, *FEW.get(command, [])]
        assert main(run) == 0

    def python(self, code):
        """Run a program of the page."""
        code = here(code)
        self.supply(code)
        for family in re.findall(r'from_pretrained\("tiny-(\w+)"', code):
            tiny.save(family, Path(f"tiny-{family}"))  # for transformers, which does not know ours
        exec(compile(code, "page", "exec"), {})

    def recipe(self, block):
        """Keep a recipe under the name that its page gives it; a piece of one is put into a whole."""
        keys = OmegaConf.to_container(OmegaConf.create(here(block.text)))
        if "template" in keys:  # a suite
            Path("mine.yaml").write_text(block.text)
            assert read_cases(read_suite("mine.yaml=prompts.jsonl"))
            return
        if "name" not in keys:
            keys = {"name": "piece", "drafter": {"mask_token_id": 2}, **keys}
        path = Path(f"{keys['name']}.yaml")
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(keys)))
        assert load_as(RunConfig, path).name == keys["name"]


@pytest.fixture
def desk(tmp_path, monkeypatch, tiny_answers, finished_run):
    monkeypatch.chdir(tmp_path)
    return Desk(tiny_answers, finished_run)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name(page), marks=[pytest.mark.slow] if name(page) in SLOW else [])
        for page in PAGES
        if any(each.language for each in blocks(page))
    ],
)
def test_what_a_page_shows_runs(page, desk):
    own = [words for other, words in EVERYTHING if other not in (page, README)]
    for block in blocks(page):
        if block.language == "yaml":
            desk.recipe(block)
        elif block.language == "json":
            assert [json.loads(line) for line in block.text.splitlines()]
        elif block.language == "python":
            desk.python(block.text)
        elif block.language == "bash":
            for words in commands(block.text):
                if page == README and words in own:
                    continue  # said again on a page of its own, where it runs
                ours = drafters(words)
                if words[:2] == ["python", "-c"]:
                    desk.python(words[2])
                elif ours is not None and where(words) is None:
                    desk.drafter(ours)
                elif ours is not None:  # to a server or a hub
                    assert make_parser().parse_args(ours)
                else:
                    assert where(words) in ("network", "gpu"), f"{words}: say where it runs"
        else:
            assert block.language in ("", "text")


SHIPPED = [words for _, words in EVERYTHING if (drafters(words) or [""])[0] in ("train", "ablate", "regenerate")]


@pytest.mark.parametrize("words", SHIPPED, ids=" ".join)
def test_recipes_and_overrides_are_known(words, tmp_path, monkeypatch):
    """As they stand on the page, without stand-ins, where the recipe is one of ours."""
    command, recipe, *rest = drafters(words)
    if Path(recipe).suffix or "/" in recipe:
        pytest.skip("a recipe of the reader's")
    monkeypatch.chdir(tmp_path)
    overrides = [word for word in rest if "=" in word]
    if command == "ablate":
        assert spec.load_ablation(find_recipe(recipe, "ablation", "ablations"), overrides).arms
    else:
        assert load_as(RunConfig, recipe, overrides).name


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=getattr(pytest.mark, where(words)), id=" ".join(words))
        for _, words in EVERYTHING
        if where(words)
    ],
)
def test_what_runs_elsewhere(words):
    """Packages resolve; targets exist; engines know the options that the pages give them."""
    if words[0] == "pip":
        subprocess.run([sys.executable, "-m", "pip", "install", "--dry-run", *words[2:]], cwd=ROOT, check=True)
    elif drafters(words):
        assert make_parser().parse_args(drafters(words))  # which server or hub there is, nobody knows
    elif words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True)
    else:
        flags = [word for word in words if word.startswith("--")]
        engine = words[2].split(".")[0] if words[:2] == ["python", "-m"] else words[0]
        pytest.importorskip(engine, reason=f"{engine} is not installed")
        shown = subprocess.run([*words[: words.index(flags[0])], "--help=all"], capture_output=True, text=True)
        assert [flag for flag in flags if flag not in shown.stdout] == []


def test_train_py_is_drafter_train():
    with pytest.raises(SystemExit, match="recipe='nowhere': no such file"):
        train.main(["nowhere"])
    with pytest.raises(SystemExit, match="recipe='nowhere': no such file"):
        main(["train", "nowhere"])
