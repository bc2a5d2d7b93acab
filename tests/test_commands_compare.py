"""`compare` from the command line: evaluations as `evaluate` writes them, side by side; what can't be compared."""

import copy
import json
import random

import pytest

from drafter.__main__ import main
from drafter.evaluation.comparison import counts_of, read_records
from drafter.evaluation.statistics import compare


def record(drafter, more=0, seed=0):
    """An evaluation of two suites; `more` cycles are saved on each prompt."""
    draw = random.Random(seed)
    prompts = {
        suite: [
            {"emitted": 60, "cycles": draw.randint(30, 40) - more, "accepted": 25 + more}
            | {"asked": f"{suite}{at}", "answered": f"a{at}", "source": f"{suite}/{at}"}
            for at in range(12)
        ]
        for suite in ("code", "chat")
    }
    asked = {suite: {"temperature": 0.0, "max_new_tokens": 61} for suite in prompts}
    settings = {"rule": None, "top_p": 1.0, "top_k": 0, "temperature": None, "max_new_tokens": None}
    facts = {"drafter": drafter, "verifier": "tiny", "fingerprint": "f", "asked": asked, "settings": settings}
    return facts | {"prompts": prompts}


@pytest.fixture
def write(tmp_path):
    """A function: a name and an evaluation → its folder."""

    def write_one(name, found):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text(json.dumps(found))
        return folder

    return write_one


def test_gains_are_those_of_the_paired_bootstrap(write, tmp_path, capsys):
    ours, theirs = write("a", record("A", more=5)), write("b", record("B"))
    main(["compare", str(ours), str(theirs / "evaluation.json"), "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    pair = read_records(ours), read_records(theirs)
    expected = compare(counts_of(*pair, "code"), counts_of(*reversed(pair), "code"))
    assert found["suites"]["code"]["gain"]["value"] == expected.gain.value
    assert found["suites"]["code"]["gain"]["low"] == expected.gain.low > 0
    assert "one seed: a hint" in capsys.readouterr().out
    assert "A: +" in (tmp_path / "out/report.html").read_text()


def test_seeds_of_folders_are_paired_in_order(write, tmp_path, capsys):
    for seed in range(3):
        write(f"a/seed_{seed}", record("A", more=5, seed=seed))
        write(f"b/seed_{seed}", record("B", seed=seed))
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    said = capsys.readouterr().out
    assert "averaged over 2 suites; above 0" in said
    assert said.count("%, +") > 3
    main(["compare", str(tmp_path / "b"), str(tmp_path / "a")])
    assert "averaged over 2 suites; below 0" in capsys.readouterr().out


def test_a_gain_over_nothing_accepted_is_not_defined(write, tmp_path, capsys):
    """Nor is one over a baseline that some draws leave with nothing; the file says so in JSON that others read, too."""
    for seed in range(2):
        write(f"a/seed_{seed}", record("A", seed=seed))
        found = record("B", seed=seed)
        for suite, prompts in found["prompts"].items():
            for one in prompts:
                one["accepted"] = int(suite == "chat" and seed == 1)
        write(f"b/seed_{seed}", found)
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert said.count("not defined: B accepts nothing") == 2
    assert "inf" not in said
    found = json.loads((tmp_path / "out/comparison.json").read_text(), parse_constant=pytest.fail)
    assert found["suites"]["code"]["accepted_gain"] == {"value": None, "low": None, "high": None, "seeds": 2}


def other(path, value):
    """A change of an evaluation, by dotted path."""

    def change(found):
        *keys, last = path.split(".")
        at = found
        for key in keys:
            at = at[int(key) if isinstance(at, list) else key]
        at[last] = value

    return change


REFUSED = {
    "another verifier": (other("fingerprint", "g"), "A and B can't be compared, another verifier: tiny, tiny"),
    "other suites": (lambda found: found["prompts"].pop("chat"), "other suites: code, chat; code"),
    "other prompts": (other("prompts.code.3.asked", "x"), "other prompts in code"),
    "other answers": (other("prompts.chat.3.answered", "x"), "other answers in chat"),
    "another temperature": (other("asked.code.temperature", 1.0), "other temperature in code: 0.0, 1.0"),
    "another rule": (other("settings.rule", "lenient:lenience=0.5"), "other rule in code: None, 'lenient"),
    "no evaluation": (lambda found: found.pop("prompts"), "no evaluation of this version; write it again"),
    "no counts": (other("prompts.code.3.cycles", None), "no evaluation of this version; write it again"),
    "no cycle": (lambda found: [one.update(cycles=0) for one in found["prompts"]["code"]], "no prompt of code gave a"),
}


@pytest.mark.parametrize(("change", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused_in_a_line(write, change, named):
    found = copy.deepcopy(record("B"))
    change(found)
    words = ["compare", str(write("a", record("A"))), str(write("b", found))]
    with pytest.raises(SystemExit, match=named) as error:
        main(words)
    assert "\n" not in str(error.value)


def test_missing_evaluations_and_uneven_seeds(write, tmp_path):
    (tmp_path / "empty").mkdir()
    one = str(write("a/0", record("A")))
    with pytest.raises(SystemExit, match=r"empty: no evaluation.json; write one by `drafter evaluate"):
        main(["compare", one, str(tmp_path / "empty")])
    write("a/1", record("A", seed=1))
    with pytest.raises(SystemExit, match="1 evaluations against 2: seeds are paired"):
        main(["compare", one, str(tmp_path / "a")])
