"""The command of a vLLM server for a recipe's verifier: for its answers, with a drafter, or for its hidden states.

Prints it; start it where the verifier fits. With --start it runs here, on loopback, until Ctrl-C.
"""

import shlex
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from drafter.commands import add_recipe


def arguments(parser: ArgumentParser) -> None:
    add_recipe(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--drafter", metavar="EXPORT", help="decode with this drafter")
    what.add_argument("--states", metavar="FOLDER", help="serve hidden states, written into this folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", default="auto", help="of the weights: auto, bfloat16, float32, ...")
    parser.add_argument("--more", metavar="WORDS", default="", help="further words of the command: --more='--seed 1'")
    parser.add_argument("--connector", metavar="MODULE:CLASS", help="what writes hidden states in vLLM's own's stead")
    parser.add_argument("--start", action="store_true", help="run it until Ctrl-C")
    parser.add_argument("--python", default="python", help="the one that has vLLM; default: python")
    parser.add_argument("--log", type=Path, default=Path("engine.log"), help="what it prints; default: engine.log")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds until it must answer; default: 1800")


def run(parsed: Namespace) -> None:
    words = [parsed.python, *command_of(parsed)[1:]]
    if not parsed.start:
        print(shlex.join(words))
        return
    from drafter.engine.process import running
    from drafter.machine.children import POLL

    print(shlex.join(words), flush=True)
    try:
        with running(words, parsed.host, parsed.port, parsed.log, parsed.patience) as process:
            print(f"ready at http://{parsed.host}:{parsed.port}/v1; Ctrl-C ends it; it writes {parsed.log}", flush=True)
            while process.poll() is None:  # `wait` would lose a signal that comes just before it blocks
                time.sleep(POLL)
    except KeyboardInterrupt:
        print("ended")
        return
    raise ValueError(f"engine: ended by itself with {process.returncode}; see {parsed.log}")


def command_of(parsed: Namespace) -> list[str]:
    """Words of the command that serves a recipe's verifier."""
    from drafter.config import AlignmentConfig, load_as
    from drafter.engine.command import serve_answers, serve_drafts, serve_states
    from drafter.models.block_config import evenly_spaced
    from drafter.verifier.conversion import resolve
    from drafter.verifier.tokenizer import text_config

    config = load_as(AlignmentConfig, parsed.recipe, parsed.overrides)
    found = text_config(config.verifier.source)
    source, longest = resolve(config.verifier.source), found.max_position_embeddings
    name = config.data.server.model or config.verifier.source
    if parsed.states:
        name = config.served_as
        longest = min(longest, config.data.sequence_length + 1)  # it writes a token behind each row
    words = serve_answers(source, name, parsed.host, parsed.port, longest, parsed.dtype)
    if parsed.drafter:
        words = serve_drafts(words, parsed.drafter, drafts_of(parsed.drafter))
    if parsed.states:
        layers = config.drafter.tap_layers or evenly_spaced(found.num_hidden_layers, config.drafter.num_taps)
        last = found.num_hidden_layers if config.asks_last else None
        folder = str(Path(parsed.states).resolve()) if parsed.start else parsed.states
        words = serve_states(words, folder, layers, last, parsed.connector)
    return [*words, *shlex.split(parsed.more)]


def drafts_of(export: str) -> int:
    """Tokens that an export proposes per cycle.

    Raises:
        ValueError: it is no drafter in a layout that vLLM reads.
    """
    from drafter.export.serve import READS
    from drafter.layouts import detect
    from drafter.layouts.reading import read_facts
    from drafter.models.storage import read_config

    config = read_config(Path(export))
    layout = detect(config)
    if layout.name not in READS["vLLM"]:
        remedy = f"convert it by `drafter export {shlex.quote(export)} OUT`"
        reads = " and ".join(READS["vLLM"])
        raise ValueError(f"drafter={export!r}: of the {layout.name} layout, vLLM reads {reads}; {remedy}")
    drafts: int = read_facts(config, layout)["block_size"] - 1
    return drafts
