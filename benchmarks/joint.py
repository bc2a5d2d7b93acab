"""Joint or not: how far what k tokens at a time are sampled from is from the law of a source that is known exactly.

    python benchmarks/joint.py docs/results/k_forcing/joint [--seeds 5] [--steps 500]

A Markov chain writes rows; a small Llama learns them (the teacher); push-forward models of the same size learn 2 and 4
tokens at a time, by self-forcing, by noise inversion, and as independent marginals. For each, the total variation
between the law of the next 2 and 4 tokens and the chain's own, mean over contexts. Noise: Sobol points, the same for
all, so that the row `exact`, which maps them by the chain itself, shows what the finite number of points costs.
"""

import argparse
import csv
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from matplotlib.axes import Axes
from scipy.stats import t
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from drafter.evaluation.report.picture import Picture, ink
from drafter.files import write_csv
from drafter.models.push_forward import PushForwardModel
from drafter.training.distillation.scoring import score_tokens
from drafter.training.distillation.targets import Lesson, independent, inverted, sampled, self_forced
from drafter.verification.base import inverse_cdf
from drafter.verifier import Verifier

VOCABULARY, LENGTH, ROWS = 5, 4, 32  # length of a measured context
POINTS = 4096
WIDTHS = (2, 4)
WHOLE = LENGTH + WIDTHS[-1]  # rows of every stage: a teacher must know the contexts of its second pass


@dataclass(frozen=True)
class Chain:
    """A Markov chain of order 1.

    Attributes:
        step: law of the next state, [V, V]; each row from a Dirichlet, peaked.
    """

    step: Tensor

    @classmethod
    def draw(cls, seed: int) -> "Chain":
        torch.manual_seed(seed)
        return cls(torch.distributions.Dirichlet(torch.full((VOCABULARY,), 0.5)).sample((VOCABULARY,)).double())

    def rows(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Rows from a uniform first state, [count, length]."""
        noise = torch.rand(count, length, generator=generator, dtype=torch.float64)
        states = [(noise[:, 0] * VOCABULARY).long()]
        for at in range(1, length):
            states.append(inverse_cdf(self.step[states[-1]], noise[:, at]))
        return torch.stack(states, 1)

    def joint(self, state: int, count: int) -> Tensor:
        """Law of the next `count` states, [V^count]."""
        law = self.step[state]  # [V]
        for _ in range(count - 1):
            last = torch.arange(len(law)) % VOCABULARY
            law = (law[:, None] * self.step[last]).flatten()  # [V^(j+1)]
        return law


def teacher_of(chain: Chain, seed: int, steps: int) -> Verifier:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=None, **sizes))
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        ids = chain.rows(ROWS, WHOLE, generator)
        return model(input_ids=ids, labels=ids).loss

    fit(model, loss, steps)
    return Verifier(model)


def fit(model: torch.nn.Module, loss: Callable[[], Tensor], steps: int, rate: float = 2e-3) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    for _ in range(steps):
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def distil(
    student: PushForwardModel, chain: Chain, lesson: Callable[[Tensor, torch.Generator], Lesson], steps: int, seed: int
) -> PushForwardModel:
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        made = lesson(chain.rows(ROWS, WHOLE, generator), generator)
        hidden = student(made.ids, made.noise, made.temperature)
        return score_tokens(student.logits, hidden, made.targets, 1 << 20).loss

    fit(student.train(), loss, steps)
    return student.eval()


ONE = torch.ones(ROWS)


def self_forcing(
    chain: Chain, verifier: Verifier, steps: int, seed: int, periods: float
) -> dict[int, PushForwardModel]:
    def first(ids: Tensor, generator: torch.Generator) -> Lesson:
        noise = torch.rand(*ids[:, :-1].shape, 1, generator=generator, dtype=torch.float64)
        return Lesson(ids[:, :-1], noise, ONE, sampled(verifier, ids[:, :-1], noise, ONE))

    model = distil(PushForwardModel.from_verifier(verifier, 1, noise_periods=periods), chain, first, steps, seed)
    found = {}
    for count in WIDTHS:
        teacher = model

        def later(ids: Tensor, generator: torch.Generator, teacher=teacher, count=count) -> Lesson:
            noise = torch.rand(*ids[:, :-count].shape, count, generator=generator, dtype=torch.float64)
            return Lesson(ids[:, :-count], noise, ONE, self_forced(teacher, ids[:, :-count], noise, ONE))

        model = found[count] = distil(teacher.widened(count), chain, later, steps, seed)
    return found


def baseline(
    name: str, chain: Chain, verifier: Verifier, steps: int, seed: int, periods: float
) -> dict[int, PushForwardModel]:
    """As many steps on 4 tokens at once as self-forcing takes to get there; 2 tokens are its first two."""

    def lesson(ids: Tensor, generator: torch.Generator) -> Lesson:
        if name == "independent":
            return independent(ids, WIDTHS[-1], ONE)
        uniforms = torch.rand(*ids[:, 1:].shape, generator=generator, dtype=torch.float64)
        return inverted(verifier, ids, WIDTHS[-1], uniforms, ONE)

    start = PushForwardModel.from_verifier(verifier, WIDTHS[-1], noise_periods=periods)
    return dict.fromkeys(WIDTHS, distil(start, chain, lesson, 3 * steps, seed))


@torch.no_grad()
def tokens_of(model: PushForwardModel, context: Tensor, noise: Tensor, name: str) -> Tensor:
    """What each row of noise [P, k] becomes behind context [S]: [P, k]."""
    count, length = noise.shape[1], len(context)
    shown = torch.zeros_like(noise) if name == "independent" else noise
    cache = model.new_cache(len(noise), length + count)
    logits = model.logits(model.push(context.expand(len(noise), -1), shown, torch.ones(len(noise)), cache))
    return inverse_cdf(logits.softmax(-1), noise) if name == "independent" else logits.argmax(-1)


def one_by_one(law: Callable[[Tensor], Tensor], context: Tensor, noise: Tensor) -> Tensor:
    """Inverse-CDF sampling from law(ids [P, S]) -> [P, V]: [P, k]."""
    ids = context.expand(len(noise), -1)
    for at in range(noise.shape[1]):
        ids = torch.cat([ids, inverse_cdf(law(ids), noise[:, at])[:, None]], 1)
    return ids[:, len(context) :]


def distance(tokens: Tensor, law: Tensor) -> float:
    index = tokens @ (VOCABULARY ** torch.arange(tokens.shape[1]).flip(0))
    found = torch.bincount(index, minlength=len(law)).double() / len(tokens)
    return float((found - law).abs().sum() / 2)


def contexts_of(chain: Chain, seed: int) -> Tensor:
    """A context that ends in each state, the chain's only memory: [V, LENGTH]."""
    rows = chain.rows(1000, LENGTH, torch.Generator().manual_seed(1000 + seed))
    return torch.stack([rows[rows[:, -1] == state][0] for state in range(VOCABULARY)])


def measure(seed: int, steps: int, periods: float) -> list[dict]:
    chain = Chain.draw(seed)
    verifier = teacher_of(chain, seed, steps)
    models = {"k_forcing": self_forcing(chain, verifier, steps, seed, periods)}
    models |= {
        name: baseline(name, chain, verifier, steps, seed, periods) for name in ("noise_inversion", "independent")
    }
    contexts = contexts_of(chain, seed)
    noise = torch.quasirandom.SobolEngine(max(WIDTHS), scramble=True, seed=seed).draw(POINTS, dtype=torch.float64)
    records = []
    for count, context in itertools.product(WIDTHS, contexts):
        own, law = noise[:, :count], chain.joint(int(context[-1]), count)
        found = {name: tokens_of(kind[count], context, own, name) for name, kind in models.items()}
        found["autoregressive"] = one_by_one(
            lambda ids: verifier.model(input_ids=ids).logits[:, -1].softmax(-1), context, own
        )
        found["exact"] = one_by_one(lambda ids: chain.step[ids[:, -1]], context, own)
        records += [
            {"seed": seed, "tokens": count, "method": name, "distance": distance(each, law)}
            for name, each in found.items()
        ]
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--periods", type=float, default=1.0)
    parser.add_argument("--report-only", action="store_true", help="table and picture of the CSV that is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    if options.report_only:
        records = list(csv.DictReader((options.folder / "joint.csv").open()))
        options.seeds = 0
    for seed in range(options.seeds):
        records += measure(seed, options.steps, options.periods)
        write_csv(options.folder / "joint.csv", records)
        print(f"seed {seed}: {means(records, seed)}", flush=True)
    (options.folder / "joint.md").write_text(report(records, options.folder))
    print((options.folder / "joint.md").read_text())


def means(records: list[dict], seed: int) -> dict[str, float]:
    """Method and number of tokens -> mean distance of one seed."""
    found: dict[str, list[float]] = {}
    for one in records:
        if int(one["seed"]) == seed:
            found.setdefault(f"{one['method']} {one['tokens']}", []).append(float(one["distance"]))
    return {name: round(sum(each) / len(each), 4) for name, each in found.items()}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval by Student's t."""
    mean = statistics.mean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def draw(by_seed: list[dict[str, float]], methods: list[str], axes: Axes) -> None:
    """A bar for each method and number of tokens, with its interval over seeds."""
    for at, count in enumerate(WIDTHS):
        found = [interval([each[f"{method} {count}"] for each in by_seed]) for method in methods]
        places = [place + 0.4 * at for place in range(len(methods))]
        axes.barh(places, [mean for mean, _, _ in found], 0.4, alpha=0.7, label=f"{count} tokens")
        axes.hlines(places, [low for _, low, _ in found], [high for _, _, high in found], color=ink())
    axes.set_yticks([place + 0.2 for place in range(len(methods))], [name.replace("_", " ") for name in methods])
    axes.invert_yaxis()
    axes.set(xlabel="total variation to the source", title=f"joint law of the next tokens, {len(by_seed)} seeds")
    axes.legend(fontsize=8)


def report(records: list[dict], folder: Path) -> str:
    """The table over seeds, and its picture."""
    seeds = sorted({int(one["seed"]) for one in records})
    by_seed = [means(records, seed) for seed in seeds]
    methods = list(dict.fromkeys(one["method"] for one in records))
    lines = [f"| sampled by | {' | '.join(f'{count} tokens' for count in WIDTHS)} |", "|---|---|---|"]
    for method in methods:
        cells = ("{:.3f} [{:.3f}, {:.3f}]".format(*interval([e[f"{method} {k}"] for e in by_seed])) for k in WIDTHS)
        lines.append(f"| {method.replace('_', ' ')} | {' | '.join(cells)} |")
    ratios = ([e[f"k_forcing {k}"] / e[f"independent {k}"] for e in by_seed] for k in WIDTHS)
    cells = ("{:.3f} [{:.3f}, {:.3f}]".format(*interval(each)) for each in ratios)
    lines.append(f"| *k forcing over independent* | {' | '.join(cells)} |")
    Picture("joint", "total variation by method", [partial(draw, by_seed, methods)]).save(folder)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
