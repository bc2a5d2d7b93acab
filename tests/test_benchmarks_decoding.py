"""The decoding benchmark at tiny size: every way runs, exactness is counted, resumed, and can fail."""

import argparse
import json
import sys
from pathlib import Path

import pytest
from conftest import make_memorising, make_verifier
from test_export_layouts import exported

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import attention
import decoding
import exactness
import pairs
import vllm_peer
import ways

from drafter.decode import Generation


@pytest.fixture(scope="module")
def drafter(tmp_path_factory):
    return str(exported(tmp_path_factory.mktemp("export") / "out", make_memorising("llama")))


def options(drafter, out, suite, *words):
    sizes = ["--suites", str(suite), "--max-new-tokens", "8", "--prompts", "2"]
    sys.argv = ["decoding.py", drafter, "--verifier", "tiny-llama", "--out", str(out), *sizes, *words]
    return decoding.arguments()


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {i}?" * (i + 1)}) + "\n" for i in range(3)))
    return path


def test_all_ways_are_compared(drafter, suite, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [])
    options(drafter, tmp_path / "out", suite, "--repeats", "1", "--dtype", "float32", "--batch-sizes", "1", "2")
    decoding.main()
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out/decoding.json").read_text())["results"]
    both = [one["way"] for one in results if one["batch_size"] == 2]
    assert [one["way"] for one in results if one["batch_size"] == 1] == [
        way for way in ways.WAYS if way not in ways.SERVED
    ]
    assert both == [way for way in ways.WAYS if way not in (*ways.ALONE, *ways.SERVED)]
    assert {one["tokens"] for one in results} == {14}
    assert {one["tokens_per_call"] for one in results if one["way"] in ways.WAYS[:2]} == {1.0}
    assert results[0]["speedup"] == pytest.approx(1)
    assert all((one["share_of_ideal"] is not None) == (one["way"] == ways.OURS) for one in results)
    assert "vLLM: left out, no --vllm names a Python that has it" in printed
    assert "times transformers' DFlash" in printed
    assert "times the throughput of batch 1" in printed
    assert (tmp_path / "out/decoding.csv").read_text().count("\n") == 9
    assert (tmp_path / "out/decoding.png").is_file()


def test_transformers_answers_and_calls_are_counted(drafter):
    verifier = make_verifier("llama")
    prompts = [[5, 9, 7], [11, 12, 13, 14, 15]]
    ours = ways.through_us(verifier, None, None)(prompts, 6)
    theirs = ways.through_transformers(verifier)(prompts, 6)
    assert [one.token_ids for one in theirs] == [one.token_ids for one in ours]
    assert [one.verifier_calls for one in theirs] == [len(one.token_ids) for one in theirs]
    assistant = ways.assistant_of(drafter, verifier)
    way = ways.through_transformers(verifier, assistant_model=assistant, speculation_type="dflash")
    assert way(prompts[:1], 6)[0].token_ids == ours[0].token_ids


ENGINE = """
import json, os, sys
from types import SimpleNamespace as Told
__version__ = "0.0"
print("a line that is no answer")

class SamplingParams:
    def __init__(self, **law):
        self.law = law

class LLM:
    def __init__(self, model, speculative_config=None, **settings):
        if "broken" in os.environ:
            sys.exit("no kernels here")
        assert os.path.isdir(model) and settings["dtype"] == "float32" and settings["enable_prefix_caching"] is False
        self.step, self.drafts = 1, 0
        if speculative_config:
            assert os.path.isfile(speculative_config["model"] + "/config.json")
            assert speculative_config["method"] == "dflash"
            self.step = 1 + speculative_config["num_speculative_tokens"]

    def generate(self, prompts, law, use_tqdm):
        assert law.law["temperature"] == 0
        answers = [[7] * law.law["max_tokens"] for _ in prompts]
        self.drafts += sum(-(-(len(one) - 1) // self.step) for one in answers) if self.step > 1 else 0
        return [Told(outputs=[Told(token_ids=one)]) for one in answers]

    def get_metrics(self):
        return [Told(name="vllm:spec_decode_num_drafts", value=self.drafts), Told(name="vllm:other")]
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A package of vLLM's name whose every answer is sevens, four of them a cycle with three drafts."""
    package = tmp_path / "environment/vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(ENGINE)
    (package / "platforms.py").write_text("class current_platform:\n    device_type = 'cpu'\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return package


def test_vllm_is_a_peer(drafter, suite, tmp_path, monkeypatch, capsys, engine):
    monkeypatch.setattr(sys, "argv", [])
    sizes = ["--repeats", "1", "--dtype", "float32", "--batch-sizes", "2", "--vllm", sys.executable]
    options(drafter, tmp_path / "out", suite, *sizes)
    decoding.main()
    printed = capsys.readouterr().out
    found = {one["way"]: one for one in json.loads((tmp_path / "out/decoding.json").read_text())["results"]}
    assert [found[way]["tokens"] for way in ways.SERVED] == [14, 14]
    assert [found[way]["tokens_per_call"] for way in ways.SERVED] == [1, 14 / 4]  # seven tokens in two cycles each
    assert "our loop, no drafts: " in printed
    assert " times vLLM, same drafter" in printed


def test_ways_in_pairs(drafter, suite, tmp_path, monkeypatch, capsys, engine):
    text = (engine / "__init__.py").read_text()
    (engine / "__init__.py").write_text(text.replace('"float32"', '"bfloat16"'))
    words = ["--suites", str(suite), "--rounds", "3", "--max-new-tokens", "6", "--vllm", sys.executable]
    pairs.main([drafter, "--verifier", "tiny-llama", "--json", str(tmp_path / "out/pairs.json"), *words])
    found = json.loads((tmp_path / "out/pairs.json").read_text())
    ours = [pairs.AS_IT_IS, pairs.DRAFTS_AS_IT_IS, pairs.TILED, pairs.DRAFTS_TILED]
    assert found["rates"].keys() == {*ours, *ways.SERVED}
    assert found["pairs"].keys() == {f"{one} / {other}" for one, other in pairs.PAIRS}
    printed = capsys.readouterr().out
    assert all(f"| {name} | " in printed for name in (*found["rates"], *found["pairs"]))


def test_ratios_are_taken_turn_by_turn():
    slow, fast = pairs.Turns(None, None), pairs.Turns(None, None)
    slow.tokens = fast.tokens = [10] * 4
    slow.wall, fast.wall = [1.0, 10.0, 2.0, 0.0], [0.5, 5.0, 0.5, 1.0]
    assert pairs.ratio(fast, slow, "wall") == {"median": 2.0, "quartiles": [2.0, 3.0], "pairs": 3}  # one can't be told


def test_an_engine_that_ends_is_told(tmp_path, engine, monkeypatch):
    monkeypatch.setenv("broken", "1")
    settings = vllm_peer.settings_of(str(tmp_path), "float32", 64, 2)
    with pytest.raises(ValueError, match=r"vllm: ended with 1 \(no kernels here\); see .*log"):
        vllm_peer.Peer(sys.executable, settings, 1, tmp_path / "log")


def test_an_engine_for_another_device_is_left_out(drafter, tmp_path, engine, capsys):
    (engine / "platforms.py").write_text("class current_platform:\n    device_type = 'cuda'\n")
    given = options(drafter, tmp_path / "out", tmp_path, "--vllm", sys.executable)
    verifier, model = make_verifier("llama"), make_memorising("llama")
    assert ways.start_vllm(given, verifier, model) == {}
    assert "vLLM: left out, its build is for cuda, not cpu" in capsys.readouterr().out


def test_exactness_is_resumed_and_never_mixed(drafter, suite, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [])
    library = [{"source": f"{i}.py", "messages": [{"role": "user", "content": f"Write {i}."}]} for i in range(60)]
    monkeypatch.setattr(exactness, "functions", lambda *_, **__: library)
    given = options(drafter, tmp_path, suite, "--exactness", "--dtypes", "float32", "--batch-size", "3")
    exactness.check_exactness(given)
    first = json.loads((tmp_path / "exactness.json").read_text())
    assert first["dtypes"]["float32"]["prompts"] == first["dtypes"]["float32"]["same"] == 4
    assert "0 mismatches, 0 ties in 4 prompts" in capsys.readouterr().out
    lines = (tmp_path / "exactness.jsonl").read_text().splitlines()
    (tmp_path / "exactness.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:9])  # killed while writing
    decoded = []
    load = exactness.SpeculativeDecoder.generate
    monkeypatch.setattr(
        exactness.SpeculativeDecoder,
        "generate",
        lambda self, ids, *a, **k: decoded.append(len(ids)) or load(self, ids, *a, **k),
    )
    exactness.check_exactness(given)
    assert decoded == [2, 2]  # two prompts, both ways
    assert json.loads((tmp_path / "exactness.json").read_text()) == first
    given.max_new_tokens = 9
    with pytest.raises(SystemExit, match="is of other settings"):
        exactness.check_exactness(given)


@pytest.mark.parametrize(
    ("margin", "dtype", "verdict"),
    [
        (1e-5, "float32", "tie"),
        (0.1, "float32", "mismatch"),
        (0.1, "bfloat16", "explained"),
        (0.9, "bfloat16", "mismatch"),
    ],
)
def test_differences_are_judged_by_the_margin(margin, dtype, verdict, monkeypatch):
    asked = []
    monkeypatch.setattr(exactness, "margin", lambda _, ids: asked.append(ids) or margin)
    verifier = argparse.Namespace(dtype=getattr(exactness.torch, dtype))
    plain, drafted = Generation([4, 5, 6]), Generation([4, 7, 6], emitted=[2])
    found = exactness.judge(verifier, [1, 2], plain, drafted, 0.5)
    assert (found["verdict"], found["place"], asked) == (verdict, 1, [[1, 2, 4]])
    summary = exactness.summarise([found, exactness.judge(verifier, [1], plain, Generation([4, 5, 6]), 0.5)])
    assert (summary[verdict], summary["same"], summary["largest_margin"]) == (1, 1, margin)


def test_attention_kernels_are_compared_on_the_same_numbers(tmp_path, monkeypatch, capsys):
    sizes = ["--contexts", "64", "--batch-sizes", "2", "--block", "3", "--heads", "4", "--kv-heads", "2"]
    rest = ["--width", "8", "--repeats", "1", "--calls", "1", "--device", "cpu", "--csv", str(tmp_path / "a.csv")]
    monkeypatch.setattr(sys, "argv", ["attention.py", *sizes, *rest])
    attention.main()
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert rows[0] == "batch,context,pass,flash_cpu_ms,sdpa_ms,ratio,difference"
    assert [row.split(",")[2] for row in rows[1:]] == ["verify", "draft"]
    assert all(0 <= float(row.split(",")[-1]) < 0.05 for row in rows[1:])  # bfloat16
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--dtype", "float32"])
    attention.main()
    assert (
        "attention='flash_cpu': needs bfloat16, not torch.float32; use attention=sdpa: SDPA alone"
        in capsys.readouterr().out
    )
    assert (tmp_path / "a.csv").read_text().startswith("batch,context,pass,sdpa_ms\n")
