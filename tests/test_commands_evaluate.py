"""`evaluate` from the command line: the real decoder and the walk agree, figures are what the decoder did."""

import json
import multiprocessing
import os
import socket

import pytest
from conftest import make_memorising, make_prompts, make_verifier
from test_export_layouts import exported

from drafter.__main__ import main
from drafter.decode import SpeculativeDecoder
from drafter.evaluation.cycles import Cycles, paired
from drafter.evaluation.decoding import Decoding
from drafter.evaluation.walk import walk, walk_along


@pytest.fixture(scope="module")
def drafter_directory(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("export") / "out", make_memorising("llama"))


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {i}?" * (i + 1)}) + "\n" for i in range(5)))
    return path


def evaluate(drafter, suite, out, *words):
    main(["evaluate", str(drafter), "--verifier", "tiny-llama", "--suites", str(suite), "--json", str(out), *words])
    return json.loads(out.read_text())


def test_decoder_and_walk_find_the_same_cycles(drafter_directory, suite, tmp_path, capsys):
    words = ["--max-new-tokens", "16", "--prompts", "4", "--batch-size", "3"]
    decoded = evaluate(drafter_directory, suite, tmp_path / "a.json", *words)
    walked = evaluate(drafter_directory, suite, tmp_path / "b.json", *words, "--by", "walk")
    assert decoded["suites"] == walked["suites"]
    assert decoded["slots"] == {}
    slots = walked["slots"]["own"]
    assert sum(slots["first_rejections"]) == slots["blocks"] >= walked["suites"]["own"]["cycles"]
    assert slots["waste"] is None or 0 <= slots["waste"] <= 1
    assert decoded["suites"]["own"]["prompts"] == 4
    assert decoded["suites"]["own"]["cycles"] <= 4 * 15
    assert "own" in capsys.readouterr().out
    main(["export", str(drafter_directory), str(tmp_path / "again"), "--evaluation", str(tmp_path / "a.json")])
    assert json.loads((tmp_path / "again/training.json").read_text())["results"]["suites"]["own"]["prompts"] == 4


def test_figures_are_those_of_the_decoder():
    verifier, drafter, prompts = make_verifier("llama"), make_memorising("llama"), make_prompts()
    made = SpeculativeDecoder(verifier, drafter, draft_length=2).generate([[], *prompts], 20, batch_size=3)
    found = Cycles.of(made, 2)
    plain = Decoding().decoder(verifier, None, None)([[], *prompts], max_new_tokens=20, batch_size=3)
    assert walk_along(plain, [[], *prompts], verifier, drafter, 2) == found
    shown = found.figures()
    assert shown["prompts"] == len(prompts)  # the empty one could not run
    assert shown["tokens_per_cycle"] == sum(sum(one.emitted) for one in made) / sum(len(one.emitted) for one in made)
    first, second = shown["accepted_when_reached"]
    assert shown["kept_share"][0] == pytest.approx(
        sum(kept >= 1 for one in made for kept in one.accepted) / shown["cycles"]
    )
    assert 0 < second < 1
    assert first >= shown["kept_share"][0]


def test_slots_never_reached_have_no_acceptance():
    shown = walk([[0, 0, 0]], 2).figures()
    assert shown["accepted_when_reached"] == [0.0, None]


def test_pairs_leave_out_prompts_that_either_side_could_not_run():
    one, other = paired(walk([[1, 0], [], [0, 0]], 1), walk([[0, 0], [0], []], 1))
    assert one["emitted"].tolist() == other["emitted"].tolist() == [[2]]
    assert (one["cycles"].tolist(), other["cycles"].tolist()) == ([[1]], [[2]])


def test_a_second_drafter_is_compared_in_pairs(drafter_directory, suite, tmp_path, capsys):
    words = ["--max-new-tokens", "12", "--against", str(drafter_directory)]
    report = evaluate(drafter_directory, suite, tmp_path / "a.json", *words)
    assert report["against"]["suites"] == report["suites"]
    assert report["against"]["gain"]["own"] == {"gain": 0, "low": 0, "high": 0}
    assert "+0.0% tokens per cycle over the other" in capsys.readouterr().out


def one_of_two(rank, port, words):
    """What the launcher does for each of its processes, and then the command."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    main(words)
    os._exit(0)  # now and then a thread of gloo's, still there, would abort an ordinary exit


def test_two_ranks_give_the_figures_of_one(drafter_directory, suite, tmp_path, capfd):
    (tmp_path / "turns.yaml").write_text("turns: turns\ncategory: kind\nmax_new_tokens: 10\n")
    records = [{"turns": [f"One {at}?", f"Two {at}?"][: 1 + at % 2], "kind": "ab"[at % 2]} for at in range(5)]
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    suites = [str(suite), f"{tmp_path / 'turns.yaml'}={tmp_path / 'turns.jsonl'}"]
    words = ["evaluate", str(drafter_directory), "--verifier", "tiny-llama", "--suites", *suites, "--by", "walk"]
    make_verifier("llama")
    main([*words, "--json", str(tmp_path / "one.json")])
    capfd.readouterr()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words += ["--json", str(tmp_path / "two.json")]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_of_two, args=(rank, port, words)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    for what in ("suites", "all", "slices", "slots", "prompts"):
        assert one[what] == two[what]
    assert len(one["prompts"]["turns"]) == 7
    assert capfd.readouterr().out.count("tokens per cycle; what they are worth in time") == 1


WRONG = {
    "no such suite": (["--suites", "nowhere"], "suite='nowhere'"),
    "a draft too long": (["--draft-length", "9"], "draft_length=9: .* at most 3; choose 0 to 3"),
    "no prompts": (["--prompts", "0"], "prompts=0: must be >= 1"),
    "top-p": (["--top-p", "1.5"], "top_p=1.5"),
    "a rule": (["--rule", "macth"], "rule='macth'"),
    "a rule's parameter": (["--rule", "lenient:lenience=much"], "write it as NAME:KEY=NUMBER"),
    "a rule without its parameter": (["--rule", "lenient:x=1"], "rule='lenient'"),
    "a walk when sampling": (["--by", "walk", "--temperature", "1"], "temperature=1.0: the walk"),
    "another verifier": (["--verifier", "tiny-wide"], "made for a verifier of hidden_size=64, .* has 128"),
}


@pytest.mark.parametrize(("words", "named"), WRONG.values(), ids=WRONG)
def test_errors_come_before_models_are_loaded(drafter_directory, suite, words, named, tmp_path, monkeypatch, capsys):
    wide = tmp_path / "tiny-wide"
    wide.mkdir()
    make_verifier("llama").tokenizer.save_pretrained(wide)
    (wide / "config.json").write_text(json.dumps(make_verifier("llama").config.to_dict() | {"hidden_size": 128}))
    monkeypatch.setattr("drafter.verifier.Verifier.load", lambda *_, **__: pytest.fail("loaded"))
    words = [str(wide) if word == "tiny-wide" else word for word in words]
    with pytest.raises(SystemExit, match=named) as error:
        main(["evaluate", str(drafter_directory), "--verifier", "tiny-llama", "--suites", str(suite), *words])
    assert str(error.value).startswith("error: ")
    assert "\n" not in str(error.value)


def test_rules_take_parameters(drafter_directory, suite, tmp_path):
    words = ["--max-new-tokens", "12", "--temperature", "1", "--rule"]
    strict = evaluate(drafter_directory, suite, tmp_path / "a.json", *words, "speculative_sampling")
    lenient = evaluate(drafter_directory, suite, tmp_path / "b.json", *words, "lenient:lenience=0.01")
    found = [one["suites"]["own"]["tokens_per_cycle"] for one in (strict, lenient)]
    assert found[1] > found[0]
