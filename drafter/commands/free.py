"""`generate` without a verifier: a push-forward model alone."""

import sys
from argparse import Namespace

from drafter.commands import decoding


def write_freely(parsed: Namespace, prompt: str) -> None:
    """Go on with a prompt as it is found; figures to standard error and, if asked for, into a file.

    Raises:
        ValueError: DRAFTER can't write alone, or an argument goes with a verifier only.
    """
    from drafter.decode import FreeDecoder
    from drafter.export.record import provenance
    from drafter.files import write_json
    from drafter.machine.devices import choose_device
    from drafter.models import PushForwardModel, kind_of
    from drafter.models.storage import find
    from drafter.verifier.chat import prompt_ids
    from drafter.verifier.tokenizer import load_tokenizer

    if kind_of(parsed.drafter) is not PushForwardModel:
        raise ValueError(f"verifier: none is named, and {parsed.drafter!r} writes nothing by itself; name one")
    for name in ("rule", "tree_nodes", "draft_vocabulary", "compare"):
        if getattr(parsed, name):
            raise ValueError(f"{name.replace('_', '-')}={getattr(parsed, name)!r}: goes with --verifier; name one")
    if (parsed.top_p, parsed.top_k) != (1.0, 0):
        raise ValueError("top-p, top-k: a push-forward model has no law to cut; name its teacher by --verifier")
    if parsed.draft_length == "auto":
        raise ValueError("draft-length='auto': there is no verifier to pay for; name a number of tokens per pass")
    device = choose_device(parsed.device)
    model = PushForwardModel.load(parsed.drafter, decoding.choose_dtype(parsed.dtype, device), device)
    tokenizer = load_tokenizer(str(find(parsed.drafter)))
    temperature = parsed.temperature or model.config.temperatures[1]  # none: the trained one
    decoder = FreeDecoder(
        model, tokenizer, parsed.draft_length, parsed.frequency_penalty, parsed.attention, parsed.compile
    )
    ids = tokenizer.encode(prompt)
    if not parsed.raw and tokenizer.chat_template:
        ids = prompt_ids(tokenizer, [{"role": "user", "content": prompt}])
    (answer,) = decoder.generate(
        [ids],
        parsed.max_new_tokens,
        temperature,
        parsed.seed,
        stop=parsed.stop,
        on_text=lambda _, text: print(text, end="", flush=True),
    )
    if not answer.token_ids:
        raise ValueError(f"prompt: {answer.stop}")
    passes = -(-len(answer.token_ids) // decoder.count)
    rate = len(answer.token_ids) / answer.seconds
    print(f"\n{len(answer.token_ids)} tokens in {passes} passes, {rate:.1f} tokens/s", file=sys.stderr)
    if parsed.json:
        found = {"tokens": len(answer.token_ids), "passes": passes, "tokens_per_second": rate, "text": answer.text}
        write_json(parsed.json, {**found, "settings": decoding.settings(parsed), "provenance": provenance()})
