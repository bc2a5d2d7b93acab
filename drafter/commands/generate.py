"""A prompt → the verifier's answer, as it is found: from the command line, a file or standard input.

`--compare` decodes plainly, then with drafts, shows in colour which tokens were accepted drafts, and gives tokens per
cycle, speed-up, and whether the tokens are the same. `--plain` needs no DRAFTER. A push-forward model needs no
verifier: without one it writes alone, its trained number of tokens (or --draft-length) in every pass, and nothing
checks them. The text goes to standard output, the figures to standard error.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drafter.commands import decoding
from drafter.commands.free import write_freely

if TYPE_CHECKING:
    from drafter.decode import Generation
    from drafter.models import Drafter
    from drafter.verifier import Verifier

    Decode = Callable[..., list[Generation]]

WARM_UP = 8
SHOWN = ("name", "tokens", "seconds", "tokens_per_second", "verifier_calls", "tokens_per_cycle")


def arguments(parser: ArgumentParser) -> None:
    decoding.add_models(parser, "auto", optional=True)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="default: standard input")
    parser.add_argument("--file", type=Path, help="read the prompt from here")
    parser.add_argument("--raw", action="store_true", help="the prompt as it is, without the chat template")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer; default: 256")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end the answer here; repeatable")
    decoding.add_sampling(parser)
    number: dict[str, Any] = {"type": decoding.number_or_auto, "metavar": "N|auto"}
    parser.add_argument("--draft-length", **number, help="tokens proposed per cycle; default: the trained number")
    parser.add_argument("--tree-nodes", **number, help="propose a tree of so many tokens instead")
    parser.add_argument(
        "--frequency-penalty", type=float, default=0.0, help="of a push-forward model alone, against repetition"
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--plain", action="store_true", help="decode without drafts")
    way.add_argument("--compare", action="store_true", help="plainly, then with drafts")
    parser.add_argument("--colour", choices=("auto", "always", "never"), default="auto", help="auto: on a terminal")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write answers and figures here")


def run(parsed: Namespace) -> None:
    if parsed.plain and parsed.prompt is None and parsed.file is None:
        parsed.drafter, parsed.prompt = None, parsed.drafter  # the one positional argument is the prompt
    if parsed.drafter is None and not parsed.plain:
        raise ValueError("drafter: none is named; name one before the prompt, or decode without drafts by --plain")
    decoding.require_positive(parsed, "max_new_tokens")
    decoding.check_sampling(parsed, parsed.temperature)
    if not all(parsed.stop):
        raise ValueError("stop='': ends nothing; give it at least one character")
    prompt = _prompt(parsed)
    if parsed.verifier is None:
        if parsed.drafter is None:
            raise ValueError("verifier: none is named; name one")
        return write_freely(parsed, prompt)
    if parsed.frequency_penalty:
        raise ValueError(f"frequency-penalty={parsed.frequency_penalty}: a verifier's law has none; leave one out")
    if parsed.drafter is not None:
        decoding.check_models(parsed, parsed.drafter, (parsed.draft_length, parsed.tree_nodes))

    vocabulary = decoding.draft_vocabulary(parsed)
    verifier = decoding.load_verifier(parsed)
    drafter = None if parsed.plain else decoding.load_drafter(parsed.drafter, verifier, vocabulary)
    ids = decoding.encode(verifier, prompt, parsed.raw)
    decode = _decoder(parsed, verifier, drafter, len(ids) + parsed.max_new_tokens // 2)
    answers: dict[str, Generation] = {}
    if parsed.compare:
        plain = _decoder(parsed, verifier, None, 0)
        for one in (plain, decode):
            _decode(parsed, one, ids, limit=WARM_UP)
        print("plain:")
        answers["plain"] = _answer(parsed, verifier, plain, ids, drafted=False)
        print("with drafts:")
    name = "plain" if drafter is None else "with drafts"
    answers[name] = _answer(parsed, verifier, decode, ids, drafted=drafter is not None)
    _report(parsed, verifier, prompt, ids, answers)


def _prompt(parsed: Namespace) -> str:
    """The prompt from where the arguments say.

    Raises:
        ValueError: there is none, it is empty or no text, or there are two.
    """
    if parsed.prompt is not None and parsed.file is not None:
        raise ValueError(f"file={str(parsed.file)!r}: there is a PROMPT, too; leave one out")
    if parsed.prompt is None and parsed.file is None and sys.stdin.isatty():
        raise ValueError("prompt: none is given; name it, or --file, or pipe it in")
    try:
        text = parsed.prompt
        if text is None:
            text = sys.stdin.read() if parsed.file is None else parsed.file.read_text(encoding="utf-8")
        text.encode()  # bytes of another encoding reach a command line as lone surrogates
    except UnicodeError:
        raise ValueError("prompt: is no UTF-8 text; convert it first") from None
    if not text.strip():
        raise ValueError("prompt: is empty; write something")
    return text if parsed.raw else text.strip()


def _decoder(parsed: Namespace, verifier: "Verifier", drafter: "Drafter | None", context: int) -> "Decode":
    """What decodes a prompt; its costs, where `auto` wants them, are measured behind `context` tokens, once."""
    from drafter.evaluation.decoding import Decoding

    how = Decoding(parsed.temperature, parsed.top_p, parsed.top_k, parsed.seed, parsed.rule)
    if drafter is None:
        return how.decoder(verifier, None, None)
    costs = decoding.costs_of(verifier, drafter, (parsed.draft_length, parsed.tree_nodes), context)
    return how.decoder(verifier, drafter, parsed.draft_length, parsed.tree_nodes, costs)


def _decode(
    parsed: Namespace,
    decode: "Decode",
    ids: list[int],
    limit: int,
    on_text: Callable[[int, str], Any] = lambda index, text: None,
) -> "Generation":
    (answer,) = decode([ids], max_new_tokens=limit, stop=parsed.stop, on_text=on_text)
    if not answer.token_ids:
        raise ValueError(f"prompt: {answer.stop}")
    return answer


def _answer(parsed: Namespace, verifier: "Verifier", decode: "Decode", ids: list[int], drafted: bool) -> "Generation":
    """Decode and show: as it is found or, where drafts are to be coloured, when they are known."""
    from drafter.evaluation.answer import coloured

    colour = parsed.colour == "always" or (parsed.colour == "auto" and sys.stdout.isatty())
    if drafted and parsed.compare and colour:
        answer = _decode(parsed, decode, ids, parsed.max_new_tokens)
        print(coloured(answer, verifier.tokenizer))
        return answer

    def show(_: int, text: str) -> None:
        print(text, end="", flush=True)

    answer = _decode(parsed, decode, ids, parsed.max_new_tokens, show)
    print()
    return answer


def _report(
    parsed: Namespace, verifier: "Verifier", prompt: str, ids: list[int], answers: dict[str, "Generation"]
) -> None:
    """Figures, on standard error and in the file."""
    from drafter.evaluation.agreement import first_difference, margin
    from drafter.evaluation.answer import figures
    from drafter.evaluation.measured import Measured, table
    from drafter.export.record import provenance
    from drafter.files import write_json

    found: dict[str, Any] = {name: figures(one) for name, one in answers.items()}
    lines = [Measured.whole(name, [one]).figures() for name, one in answers.items()]
    print(table(lines, SHOWN), file=sys.stderr)
    if parsed.compare:
        plain, drafted = answers.values()
        rates = [one["tokens_per_second"] for one in found.values()]
        place = first_difference(plain.token_ids, drafted.token_ids)
        found |= {"speedup": rates[1] / rates[0], "same_tokens": place is None}
        same = "yes"
        if place is not None and parsed.temperature > 0:
            same = f"no, from token {place + 1} on: both are samples"
        elif place is not None:
            found["margin"] = margin(verifier, ids + plain.token_ids[:place])
            same = f"no, from token {place + 1} on, where the two best logits are {found['margin']:.2g} apart"
        print(f"speed-up {found['speedup']:.2f}; same tokens: {same}", file=sys.stderr)
    if parsed.json:
        dtype = str(verifier.dtype).removeprefix("torch.")
        used = {"settings": decoding.settings(parsed), "dtype": dtype, "prompt": prompt}
        write_json(parsed.json, {**found, **used, "provenance": provenance()})
