"""The command of a vLLM server for a recipe's verifier: for its answers, or for its hidden states.

Prints it; start it where the verifier fits. It serves on loopback unless --host says otherwise.
"""

from argparse import ArgumentParser, Namespace


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--states", metavar="FOLDER", help="serve hidden states, written into this folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", default="auto", help="of the weights: auto, bfloat16, float32, ...")


def run(parsed: Namespace) -> None:
    import shlex

    from drafter.config import AlignmentConfig, load_as
    from drafter.engine.command import serve_answers, serve_states
    from drafter.models.block_config import evenly_spaced
    from drafter.verifier.conversion import resolve
    from drafter.verifier.tokenizer import text_config

    config = load_as(AlignmentConfig, parsed.recipe, parsed.overrides)
    found = text_config(config.verifier.source)
    source = resolve(config.verifier.source)
    name = config.data.server.model or config.verifier.source
    words = serve_answers(source, name, parsed.host, parsed.port, found.max_position_embeddings, parsed.dtype)
    if parsed.states:
        layers = config.drafter.tap_layers or evenly_spaced(found.num_hidden_layers, config.drafter.num_taps)
        words = serve_states(words, parsed.states, layers, found.num_hidden_layers if config.needs_states else None)
    print(shlex.join(words))
