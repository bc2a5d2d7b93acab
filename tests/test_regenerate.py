"""Answers of the verifier here: whose they are, conversations, seeds, kills."""

import json
import os
import signal
import sysconfig
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import NEW_TOKENS, make_verifier, plain_generate
from test_answers import Killed

from drafter import answers
from drafter.__main__ import main
from drafter.answers import Store
from drafter.answers.journal import Journal
from drafter.config import load
from drafter.regenerate import regenerate, regenerate_recipe
from drafter.regenerate.answering import Drawn, answer_all
from drafter.regenerate.local import LocalAnswerer
from drafter.verifier import Verifier, tiny

ROOT = Path(__file__).parent.parent


def prompts(count):
    return [{"source": f"{i}.py", "kind": "write", "prompt": "x" * (3 * i % 7) + str(i)} for i in range(count)]


def sampled(path, asked, batch_size, shard_prompts=100, seed=0, on_progress=lambda done, total: None):
    answerer = LocalAnswerer(make_verifier("llama"), 8, batch_size, temperature=1.0, top_p=0.9, seed=seed)
    store = Store(path, answerer.origin, shard_prompts)
    answer_all(answerer, lambda: Drawn(asked), store, on_progress)
    return answers.read(path)[0]


def test_answers_are_the_verifiers(tmp_path):
    verifier = make_verifier("llama")
    summary = regenerate(verifier, prompts(5), tmp_path / "answers.parquet", NEW_TOKENS, batch_size=3)
    rows, found = answers.read(tmp_path / "answers.parquet")
    assert found == summary
    assert summary["verifier"] == verifier.fingerprint()
    assert (summary["rows"], summary["tokens"]) == (5, sum(len(row["answer_ids"]) for row in rows))
    assert [row["prompt"] for row in rows] == [prompt["prompt"] for prompt in prompts(5)]
    for row in rows:
        assert row["answer_ids"] == plain_generate(verifier, verifier.chat_ids(row["prompt"]), NEW_TOKENS)


LATER = ["And then?", "Why?"]


def conversations():
    """Prompts of every shape."""
    system = {"role": "system", "content": "Be brief."}

    def turns(*texts):
        return [[{"role": "user", "content": text}] for text in texts]

    return [{"source": "a", "kind": "chat", "turns": turns(f"{number}", *LATER)} for number in range(9)] + [
        {"source": "b", "kind": "chat", "turns": [[system, *turns("hi")[0]], *turns("more")]},
        {"source": "c", "kind": "chat", "messages": [system, {"role": "user", "content": "hi"}]},
        {"source": "d", "kind": "chat", "messages": [{"role": "user", "content": "hi"}]},
    ]


def test_conversations_are_answered_turn_by_turn(tmp_path):
    """Each answer is what plain decoding says behind the turns before it, earlier answers included."""
    verifier = Verifier(*tiny.build("llama"))
    verifier.model.generation_config.eos_token_id = list(range(0, 288, 12))  # else it hardly ever ends an answer
    summary = regenerate(verifier, conversations(), tmp_path / "folder", 20, batch_size=8)
    rows, _ = answers.read(tmp_path / "folder")
    assert summary["prompts"] == 12
    assert summary["rows"] == len(rows) > 12  # some answers ended, and their conversations went on
    longest = 0
    for row in rows:
        turns = json.loads(row["messages"]) if row["messages"] else [{"role": "user", "content": row["prompt"]}]
        assert row["answer_ids"] == plain_generate(verifier, verifier.chat_ids(turns), 20)
        longest = max(longest, len(turns))
    assert longest >= 3
    for before, after in pairwise(rows):
        if after["messages"] and len(turns := json.loads(after["messages"])) > 2 and after["source"] == "a":
            assert before["stop"] == "stop"  # a cut answer ends its conversation
            said = verifier.tokenizer.decode(before["answer_ids"], skip_special_tokens=True)
            assert turns[-2:] == [
                {"role": "assistant", "content": said},
                {"role": "user", "content": LATER[len(turns) // 2 - 1]},
            ]
    assert json.loads(rows[-2]["messages"])[0] == {"role": "system", "content": "Be brief."}
    assert (rows[-1]["prompt"], rows[-1]["messages"]) == ("hi", None)


def test_what_is_sampled_depends_on_the_seed_alone(tmp_path):
    asked = prompts(20)
    first = sampled(tmp_path / "1.parquet", asked, batch_size=7)
    assert sampled(tmp_path / "2.parquet", asked, batch_size=3) == first
    assert sampled(tmp_path / "3", asked, batch_size=20, shard_prompts=6) == first
    assert sampled(tmp_path / "4.parquet", asked, batch_size=7, seed=1) != first
    with pytest.raises(Killed):
        sampled(tmp_path / "5", asked, 7, on_progress=kill_at(9))
    assert sampled(tmp_path / "5", asked, batch_size=4) == first
    assert len({tuple(row["answer_ids"]) for row in first}) == 20


def test_samples_follow_the_law():
    """First tokens of many seeds against the verifier's probabilities."""
    from scipy.stats import chisquare

    from drafter.decode import SpeculativeDecoder
    from drafter.decode.sampling import probabilities

    verifier, count = make_verifier("llama"), 600
    ids = verifier.chat_ids("hi")
    decoder = SpeculativeDecoder(verifier, rule="shared_noise")
    found = decoder.generate([ids] * count, 1, temperature=1.0, top_p=0.9, seed=range(count), batch_size=64)
    with verifier.plain_attention() as model:
        law = probabilities(model(torch.tensor([ids])).logits[0, -1], 1.0, 0.9).double()
    tokens = torch.tensor([one.token_ids[0] for one in found])
    counts = torch.bincount(tokens, minlength=len(law)).double()
    assert counts[law == 0].sum() == 0
    often = law * count >= 5
    rest = (law[~often].sum() * count).clamp(min=1e-9)
    observed, expected = [*counts[often], counts[~often].sum()], [*(law[often] * count), rest]
    scale = count / float(sum(expected))
    assert chisquare([float(x) for x in observed], [float(x) * scale for x in expected]).pvalue > 1e-4


@pytest.mark.parametrize(("rule", "seeds"), [("shared_noise", [1]), ("match", [1, 2, 3]), (None, [])])
def test_seeds_are_one_for_all_or_one_for_each_prompt(rule, seeds):
    from drafter.decode import SpeculativeDecoder

    decoder = SpeculativeDecoder(make_verifier("llama"), rule=rule)
    with pytest.raises(ValueError, match=rf"seed: {len(seeds)} for 2 prompts; give one for each, or one for all"):
        decoder.generate([[5], [6]], temperature=1.0, seed=seeds)


def kill_at(count):
    def progress(done, total):
        if done == count:
            raise Killed

    return progress


@pytest.mark.parametrize("name", ["killed.parquet", "killed"])
@pytest.mark.parametrize("killed_at", [1, 50])
def test_a_run_killed_in_the_middle_goes_on_to_the_same_rows(tmp_path, name, killed_at):
    verifier, asked = make_verifier("llama"), prompts(60)
    regenerate(verifier, asked, tmp_path / "whole.parquet", 3, batch_size=16)
    path = tmp_path / name
    with pytest.raises(Killed):
        regenerate(verifier, asked, path, 3, 16, kill_at(killed_at))
    told = []
    regenerate(verifier, asked, path, 3, 16, lambda done, total: told.append(done))
    assert told == [*range(0, 61)]
    assert answers.read(path) == answers.read(tmp_path / "whole.parquet")


def test_a_prompt_that_cannot_run_fails_alone(tmp_path, monkeypatch):
    """Here because its tokens are another model's."""
    verifier, ids = make_verifier("llama"), Verifier.chat_ids
    foreign = lambda self, messages, tools=None: [999] if "x" in str(messages) else ids(self, messages, tools)  # noqa: E731
    monkeypatch.setattr(Verifier, "chat_ids", foreign)
    summary = regenerate(verifier, prompts(5), tmp_path / "folder", 3, 4)
    assert summary["failed"] == {"refused": sum("x" in prompt["prompt"] for prompt in prompts(5))}
    assert [row["prompt"] for row in answers.read(tmp_path / "folder")[0]] == [
        prompt["prompt"] for prompt in prompts(5) if "x" not in prompt["prompt"]
    ]


def test_other_prompts_are_refused(tmp_path):
    verifier = make_verifier("llama")
    with pytest.raises(Killed):
        regenerate(verifier, prompts(9), tmp_path / "folder", 3, 4, kill_at(2))
    with pytest.raises(ValueError, match=r"answers of another recipe \(other asked, max_new_tokens\) are in"):
        regenerate(verifier, prompts(10), tmp_path / "folder", 4, 4)


def test_prompts_too_long_are_refused_before_any_is_answered(tmp_path):
    asked = [*prompts(3), {"source": "", "kind": "write", "prompt": "y" * 2100}]
    told = []
    with pytest.raises(
        ValueError, match=r"data\.max_new_tokens=3: a prompt has 21\d\d tokens, .* context is 2048; lower"
    ):
        regenerate(make_verifier("llama"), asked, tmp_path / "x", 3, 2, lambda done, total: told.append(done))
    assert told == [0]


def killed_after(answered, words):
    """Run the command line in a process of its own, killed behind its `answered`th answer; returns how it ended."""
    child = os.fork()
    if child == 0:
        keep, done, find = Journal.add, [], sysconfig.get_path

        def add(*arguments):
            done.append(keep(*arguments))
            if len(done) == answered:
                os.kill(os.getpid(), signal.SIGKILL)

        Journal.add = add
        sysconfig.get_path = lambda name: find(name) + "/asyncio"  # fewer files to look through
        try:
            main(words)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    return None


def test_a_killed_process_goes_on_to_the_same_rows(tmp_path):
    """A real SIGKILL, in the second of three shards, through the command line; then the same recipe again."""
    library = "{kind: standard_library, write: 20, explain: 20, annotate: 8, max_characters: 200}"
    sizes = [f"data.sources=[{library}]", "data.shard_prompts=20", "data.max_new_tokens=4"]
    words = ["regenerate", str(ROOT / "recipes/tiny.yaml"), *sizes, "--out", str(tmp_path / "killed")]
    assert killed_after(25, words) == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "killed").glob("[js]*")) == [
        "journal-00001.jsonl",
        "shard-00000.parquet",
    ]
    assert len((tmp_path / "killed/journal-00001.jsonl").read_text().splitlines()) == 5
    told = []
    config = load(ROOT / "recipes/tiny.yaml", sizes)
    regenerate_recipe(config, tmp_path / "killed", lambda done, total: told.append(done))
    assert told == [*range(20, 49)]
    rows, summary = answers.read(tmp_path / "killed")
    asked = [{key: row[key] for key in ("source", "kind", "prompt")} for row in rows]
    assert len({row["prompt"] for row in rows}) == summary["rows"] == 48
    regenerate(make_verifier("llama"), asked, tmp_path / "whole", 4, batch_size=16)
    assert rows == answers.read(tmp_path / "whole")[0]
