"""`generate` from the command line: the decoder's text, streamed; comparison, colours, and one-line errors."""

import io
import json
import shutil

import pytest
from conftest import make_memorising, make_prompts, make_verifier
from test_export_layouts import exported

from drafter.__main__ import main
from drafter.decode import Generation, SpeculativeDecoder
from drafter.evaluation.answer import ACCEPTED, coloured, kept
from drafter.verifier import Verifier

VERIFIER = ["--verifier", "tiny-llama"]


@pytest.fixture(scope="module")
def drafter_directory(tmp_path_factory):
    return str(exported(tmp_path_factory.mktemp("export") / "out", make_memorising("llama")))


def expected(prompt, tokens=20, raw=False, **settings):
    verifier = make_verifier("llama")
    ids = verifier.tokenizer.encode(prompt) if raw else verifier.chat_ids(prompt)
    return SpeculativeDecoder(verifier).generate([ids], tokens, on_text=lambda *_: None, **settings)[0]


def generate(*words):
    first, *rest = words  # options may stand between the two positional arguments
    main(["generate", first, *VERIFIER, *rest, "--dtype", "float32", "--max-new-tokens", "20"])


@pytest.mark.parametrize("raw", [False, True], ids=["chat", "raw"])
def test_the_text_is_the_decoders(drafter_directory, raw, capsys, tmp_path):
    generate(drafter_directory, "What?", "--json", str(tmp_path / "a.json"), *(["--raw"] if raw else []))
    printed, figures = capsys.readouterr()
    plain = expected("What?", raw=raw)
    assert printed == plain.text + "\n"
    assert "with drafts" in figures
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["with drafts"]["token_ids"] == plain.token_ids
    assert sum(report["with drafts"]["emitted"]) == 19


def test_prompts_come_from_files_and_standard_input(drafter_directory, capsys, tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("What?\n")
    generate(drafter_directory, "--file", str(tmp_path / "prompt.txt"))
    monkeypatch.setattr("sys.stdin", io.StringIO("What?\n"))
    generate(drafter_directory)
    generate("--plain", "What?")
    assert capsys.readouterr().out == 3 * (expected("What?").text + "\n")


def test_answers_end_at_stop_strings_and_follow_the_seed(drafter_directory, capsys):
    text = expected("What?").text
    generate(drafter_directory, "What?", "--stop", text[3:5])
    assert capsys.readouterr().out == text[: text.index(text[3:5])] + "\n"
    for _ in range(2):
        generate("--plain", "What?", "--temperature", "1", "--seed", "3")
    wanted = expected("What?", temperature=1.0, seed=3).text + "\n"
    assert capsys.readouterr().out == 2 * wanted


@pytest.mark.parametrize("colour", ["auto", "always", "never"])
def test_comparison_shows_both(drafter_directory, colour, capsys, tmp_path, monkeypatch):
    known = make_prompts()[0]  # which the drafter has learnt
    monkeypatch.setattr("drafter.commands.decoding.encode", lambda *_: known)
    generate(drafter_directory, "What?", "--compare", "--colour", colour, "--json", str(tmp_path / "a.json"))
    printed, figures = capsys.readouterr()
    text = SpeculativeDecoder(make_verifier("llama")).generate([known], 20, on_text=lambda *_: None)[0].text
    assert printed.replace(ACCEPTED, "").replace("\x1b[0m", "") == f"plain:\n{text}\nwith drafts:\n{text}\n"
    assert (ACCEPTED in printed) == (colour == "always")  # a pipe is no terminal
    assert "same tokens: yes" in figures
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["same_tokens"] is True
    rates = [report[name]["tokens_per_second"] for name in ("plain", "with drafts")]
    assert report["speedup"] == rates[1] / rates[0]
    assert report["plain"]["verifier_calls"] == 20


def test_a_difference_is_told_with_its_place_and_margin(drafter_directory, capsys, monkeypatch):
    monkeypatch.setattr("drafter.evaluation.agreement.first_difference", lambda *_: 4)
    generate(drafter_directory, "What?", "--compare")
    assert "same tokens: no, from token 5 on, where the two best logits are" in capsys.readouterr().err


@pytest.mark.parametrize("drafts", [["--tree-nodes", "4"], ["--tree-nodes", "auto"], ["--draft-length", "auto"]])
def test_trees_and_lengths_chosen_by_cost_give_the_same_text(drafter_directory, drafts, capsys):
    generate(drafter_directory, "What?", *drafts)
    assert capsys.readouterr().out == expected("What?").text + "\n"


def test_accepted_tokens_are_coloured():
    tokenizer = make_verifier("llama").tokenizer
    answer = Generation(tokenizer.encode("abcdefg"), accepted=[2, 0, 2], emitted=[3, 1, 2], text="abcdefg")
    assert kept(answer) == [False, True, True, False, False, True, True]
    shown = coloured(answer, tokenizer)
    assert shown == "a\x1b[32mb\x1b[0m\x1b[32mc\x1b[0mde\x1b[32mf\x1b[0m\x1b[32mg\x1b[0m"
    answer.text = "abcde"  # a stop string began here
    assert coloured(answer, tokenizer) == shown[: shown.index("de") + 2]


WRONG = {
    "no drafter": ([], "drafter: none is named"),
    "temperature": (["D", "x", "--temperature", "-1"], "temperature=-1.0"),
    "top-k": (["D", "x", "--top-k", "-2"], "top_k=-2"),
    "length": (["D", "x", "--draft-length", "4"], "draft_length=4: .* choose 0 to 3"),
    "a tree of none": (["D", "x", "--tree-nodes", "0"], "tree_nodes=0: must be >= 1"),
    "no such drafter": (["./nowhere", "x"], "drafter='./nowhere': no such directory"),
    "an empty prompt": (["D", " "], "prompt: is empty"),
    "two prompts": (["D", "x", "--file", "y"], "file='y': there is a PROMPT, too"),
    "no file": (["D", "--file", "./nowhere"], "nowhere: No such file"),
    "a kernel that can't run": (["D", "x", "--attention", "flash_attn"], "attention='flash_attn': needs a CUDA device"),
    "graphs that can't be": (["D", "x", "--compile", "on"], "compile='on': tiles are for bfloat16"),
    "a stop of nothing": (["D", "x", "--stop", ""], "stop='': ends nothing"),
}


@pytest.mark.parametrize(("words", "named"), WRONG.values(), ids=WRONG)
def test_errors_come_before_models_are_loaded(drafter_directory, words, named, monkeypatch):
    monkeypatch.setattr("drafter.verifier.Verifier.load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(SystemExit, match=named) as error:
        generate(*[drafter_directory if word == "D" else word for word in words or ["--raw"]])
    assert "\n" not in str(error.value)


def test_a_prompt_beyond_the_context_is_an_error(drafter_directory):
    with pytest.raises(SystemExit, match=r"error: prompt: .* exceed the context of 2048"):
        generate(drafter_directory, "x" * 2100)


def test_other_weights_of_the_verifier_are_warned_of(drafter_directory, tmp_path, capsys, caplog):
    folder = shutil.copytree(drafter_directory, tmp_path / "export")
    record = json.loads((folder / "training.json").read_text())
    for known in (make_verifier("llama").fingerprint(), "0123"):
        (folder / "training.json").write_text(json.dumps({**record, "verifier": known}))
        caplog.clear()
        generate(str(folder), "What?")
        assert ("trained against other weights (0123, these are" in caplog.text) == (known == "0123")


@pytest.mark.parametrize("keep", [True, False])
def test_the_verifier_thinks_as_it_did_in_training(drafter_directory, tmp_path, keep, monkeypatch, capsys):
    folder = shutil.copytree(drafter_directory, tmp_path / "export")
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps({**record, "recipe": {"data": {"keep_reasoning": keep}}}))
    seen, chat_ids = [], Verifier.chat_ids
    monkeypatch.setattr(Verifier, "chat_ids", lambda self, *a: seen.append(self.keep_reasoning) or chat_ids(self, *a))
    generate(str(folder), "What?")
    main(["check", str(folder), *VERIFIER])
    assert len(seen) > 1
    assert set(seen) == {keep}
