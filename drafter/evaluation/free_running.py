"""A push-forward model beside its teacher: the same beginnings gone on with, what was written, and how fast."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from drafter.config import TrialConfig
from drafter.decode import FreeDecoder, Generation, SpeculativeDecoder, tokens_per_cycle
from drafter.evaluation.writing import Reader, variety, win_rate
from drafter.models import PushForwardModel
from drafter.models.push_forward import for_decoding
from drafter.verifier import Verifier

Decode = Callable[..., list[Generation]]
TEACHER, TEXT = "teacher, token by token", "held-out text"
TRIES = 2  # of every timing; the best counts, since a busy neighbour only ever slows one down


def widths(model: PushForwardModel) -> list[int]:
    """1, 2, 4, ... up to what the model was trained to give."""
    return [1 << power for power in range(model.tokens_per_pass.bit_length())]


def decoders(verifier: Verifier, model: PushForwardModel, settings: TrialConfig) -> dict[str, Decode]:
    """Ways to go on with a beginning, by name; the last one, verified, writes what the teacher writes."""
    model = for_decoding(model)  # once for all of them
    found: dict[str, Decode] = {TEACHER: SpeculativeDecoder(verifier, rule="shared_noise").generate}
    for count in widths(model):
        decoder = FreeDecoder(model, verifier.tokenizer, count, settings.frequency_penalty)
        found[f"k = {count}"] = decoder.generate
    verified = SpeculativeDecoder(verifier, model, rule="shared_noise")
    return {**found, f"k = {model.tokens_per_pass}, verified": verified.generate}


def compare_writing(
    verifier: Verifier,
    model: PushForwardModel,
    rows: Sequence[Sequence[int]],
    settings: TrialConfig,
    judge: Verifier | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Go on with the beginnings of held-out rows by every way.

    Args:
        rows: ids, at least `prompt_tokens` each.
    Returns:
        a record for each way, the rows' own text first, and one text of each.
    """
    known, new, temperature = settings.prompt_tokens, settings.new_tokens, model.config.temperatures[1]
    prompts = [list(row[:known]) for row in rows[: settings.prompts]]
    written = {TEXT: [list(row[known : known + new]) for row in rows[: settings.prompts]]}
    for name, decode in decoders(verifier, model, settings).items():
        found = decode(prompts, new, temperature=temperature, seed=0, batch_size=max(settings.batch_sizes))
        written[name] = [one.token_ids for one in found]
    stops = set(verifier.stop_ids)
    texts = {
        name: [verifier.tokenizer.decode(before(one, stops)) for one in answers] for name, answers in written.items()
    }
    shown = [verifier.tokenizer.decode(prompt) for prompt in prompts]
    records, reader = [], None if judge is None else Reader(judge)
    for name, answers in written.items():
        record: dict[str, Any] = {"way": name, **variety([before(one, stops) for one in answers]).as_dict()}
        if reader is not None:
            how = reader.perplexity(shown, texts[name])
            record |= {"perplexity": how.value, "perplexity_low": how.low, "perplexity_high": how.high}
            if name not in (TEXT, TEACHER):
                rate = win_rate(shown, texts[name], texts[TEACHER], reader.prefers)
                record |= {"likelier_than_teacher": rate.value, "low": rate.low, "high": rate.high}
        if name not in (TEXT, TEACHER):
            same = sum(one == other for one, other in zip(answers, written[TEACHER], strict=True))
            record["same_as_teacher"] = same / len(answers)
        records.append(record)
    return records, {name: shown[0] + " ▸ " + each[0] for name, each in texts.items()}


def compare_speed(
    verifier: Verifier, model: PushForwardModel, rows: Sequence[Sequence[int]], settings: TrialConfig
) -> list[dict[str, Any]]:
    """`rates` of every way at every batch size, and over the teacher's."""
    known, temperature = settings.prompt_tokens, model.config.temperatures[1]
    ways, records = decoders(verifier, model, settings), list[dict[str, Any]]()
    for size in settings.batch_sizes:
        prompts = [list(rows[at % len(rows)][:known]) for at in range(size)]
        found = rates(ways, prompts, settings.new_tokens, temperature)
        for name, (rate, per_pass) in found.items():
            measured = {"tokens_per_pass": per_pass, "tokens_per_second": rate, "speedup": rate / found[TEACHER][0]}
            records.append({"batch_size": size, "way": name, **measured})
    return records


def rates(
    ways: Mapping[str, Decode], prompts: Sequence[list[int]], new_tokens: int, temperature: float, tries: int = TRIES
) -> dict[str, tuple[float, float]]:
    """Of each way, tokens per second and tokens per pass of a row, of what lies behind the prefill; NaN of nothing.

    All prompts are answered together, and the ways take turns: once to warm up, then `tries` times.
    """
    how = {"temperature": temperature, "seed": 0, "batch_size": len(prompts)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    behind, per_pass = dict.fromkeys(ways, 0), dict.fromkeys(ways, math.nan)
    for _ in range(1 + tries):
        for name, decode in ways.items():
            clock = Clock(len(prompts))
            found = decode(prompts, new_tokens, on_tokens=clock, **how)
            taken[name].append(time.perf_counter() - clock.began)
            behind[name] = sum(len(one.token_ids) for one in found) - clock.first
            per_pass[name] = tokens_per_cycle(found)
    return {name: (behind[name] / min(taken[name][1:]) if behind[name] else math.nan, per_pass[name]) for name in ways}


class Clock:
    """Listens to a decoder; starts once every row has its first tokens, which are the prefill's."""

    def __init__(self, rows: int):
        self.waiting, self.first, self.began = set(range(rows)), 0, 0.0

    def __call__(self, row: int, tokens: list[int]) -> None:
        if row in self.waiting:
            self.waiting.remove(row)
            self.first += len(tokens)
            self.began = time.perf_counter()


@torch.inference_mode()
def nats_of_text(verifier: Verifier, rows: Tensor) -> float:
    """What the teacher's own law says of held-out rows [R, S], nats per token, each row's first left out."""
    total = 0.0
    for row in rows.to(verifier.device).long():
        hidden, _ = verifier.step(row[None], verifier.new_cache(1, len(row)))
        total += float(functional.cross_entropy(verifier.logits(hidden[0, :-1]).float(), row[1:], reduction="sum"))
    return total / (len(rows) * (rows.shape[1] - 1))


def stages_table(stages: Sequence[Mapping[str, Any]], teacher: float) -> list[dict[str, Any]]:
    """Held-out scores by offset, a line for each stage; the teacher's, of the text itself, is what stage 1 must beat.

    Args:
        stages: `tokens_per_pass`, and `held_out/NAME_OFFSET` as training logs it.
        teacher: nats per token.
    """
    offsets = range(1, max(stage["tokens_per_pass"] for stage in stages) + 1)
    names = {f"nats {at}": f"held_out/nll_{at}" for at in offsets}
    names |= {f"match {at}": f"held_out/match_{at}" for at in offsets} | {"whole block": "held_out/whole_match"}
    lines = [{"k": stage["tokens_per_pass"]} | {to: stage.get(of, "") for to, of in names.items()} for stage in stages]
    return [{"k": "teacher, of the text", "nats 1": teacher}, *lines]


def before(ids: Sequence[int], stops: set[int]) -> list[int]:
    """Ids up to the first that ends a text."""
    end = next((at for at, token in enumerate(ids) if token in stops), len(ids))
    return list(ids[:end])
