"""What relaxing verification costs: every rule and the controls on the same tasks → table, CSV, report.

Of each way of decoding: tokens per cycle, share of drafts kept, reward, distance to the verifier per token, speed, with
intervals over seeds and prompts. Controls are the verifier itself, truncated, and the drafter alone: a relaxed rule
that is no better than they are is not worth its law.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from drafter.commands import decoding


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("drafter", metavar="DRAFTER", help="of any kind: directory, hub id or packaged name")
    parser.add_argument("--verifier", required=True, help="hub id, directory, GGUF file or packaged name")
    parser.add_argument(
        "--tasks", default="arithmetic", help="sums, worded_sums, arithmetic, doctests, explanations, or a JSONL file"
    )
    parser.add_argument("--reward", default="exact_match", help="exact_match, rouge_2, unit_tests or log_likelihood")
    parser.add_argument("--count", type=int, default=24, help="test tasks, which no head has seen; default: 24")
    parser.add_argument("--seeds", type=int, default=3, help="answers to each task; default: 3")
    parser.add_argument("--head", nargs="*", default=[], metavar="DIR", help="heads of dynamic ensembles")
    parser.add_argument(
        "--ways", nargs="*", metavar="NAME", help="only these beside static ensembles and heads; default: all"
    )
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer; default: 64")
    parser.add_argument("--draft-length", type=int, help="tokens proposed per cycle; default: the drafter's own number")
    parser.add_argument("--temperature", type=float, default=1.0, help="of both models; default: 1")
    parser.add_argument("--timed", type=int, default=4, help="tasks decoded against the clock; 0: none; default: 4")
    parser.add_argument("--batch-size", type=int, default=32, help="tasks answered together; default: 32")
    parser.add_argument("--dtype", choices=decoding.DTYPES, default="float32", help="of both models; default: float32")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html and tables here; goes on there")


def run(parsed: Namespace) -> None:
    decoding.require_positive(parsed, "count", "seeds", "max_new_tokens", "batch_size", "draft_length")

    from tqdm import tqdm

    from drafter.commands.endings import ending
    from drafter.evaluation import frontier
    from drafter.evaluation.measured import table
    from drafter.evaluation.prediction import predict
    from drafter.evaluation.rewards import check_tasks, make_reward
    from drafter.evaluation.rewards.tasks import load_tasks, split_tasks
    from drafter.export.record import hardware, provenance
    from drafter.files import write_csv, write_json
    from drafter.machine.devices import choose_device
    from drafter.models import kind_of
    from drafter.models.ensemble_head import EnsembleHead
    from drafter.verifier import Verifier

    setting = frontier.Setting(
        parsed.max_new_tokens,
        parsed.temperature,
        parsed.draft_length,
        parsed.seeds,
        parsed.batch_size,
        parsed.timed,
    )
    named = {Path(path).parent.name or path: path for path in parsed.head}
    heads = named if len(named) == len(parsed.head) else {path: path for path in parsed.head}
    made = {name: EnsembleHead.load(path).config for name, path in heads.items()}
    *_, tasks = split_tasks(load_tasks(parsed.tasks, 16 * parsed.count, 0))
    if not tasks:
        raise ValueError(f"tasks={parsed.tasks!r}: none of them is kept for tests; name a larger file")
    tasks = tasks[: parsed.count]
    check_tasks(parsed.reward, tasks)
    kind, device = kind_of(parsed.drafter), choose_device(parsed.device)
    verifier = Verifier.load(parsed.verifier, decoding.choose_dtype(parsed.dtype, device), device)
    drafter, reward = kind.beside(parsed.drafter, verifier), make_reward(parsed.reward, verifier)
    ways = frontier.usual_ways(drafter, heads)
    if parsed.ways is not None:
        ways = frontier.chosen(ways, parsed.ways)
    kept = None
    if parsed.out:
        parsed.out.mkdir(parents=True, exist_ok=True)
        more = {name: getattr(parsed, name) for name in ("drafter", "verifier", "dtype", "reward")}
        kept = frontier.Kept(parsed.out / "ways.jsonl", tasks, setting, **more)
    measured = frontier.measure(verifier, drafter, tasks, reward, ways, setting, kept)
    points = list(tqdm(measured, total=len(ways), desc="ways of decoding", leave=False))
    print(table([point.line() for point in points], frontier.COLUMNS))
    gains = frontier.gains(points, made)
    for found in frontier.findings(points, parsed.reward, gains):
        print(found)
    theory = None
    if parsed.timed:
        prompts = [verifier.chat_ids(task.prompt) for task in tasks[: parsed.timed]]
        how = {"draft_length": parsed.draft_length, "temperature": parsed.temperature}
        theory = predict(verifier, drafter, prompts, parsed.max_new_tokens, **how)
        print(theory)
    if parsed.out:
        write_csv(parsed.out / "frontier.csv", [point.figures() for point in points])
        write_csv(parsed.out / "gains.csv", [{"way": name, **asdict(gain)} for name, gain in gains.items()])
        if theory:
            write_json(parsed.out / "theory.json", asdict(theory))
        facts = {name: str(value) for name, value in decoding.settings(parsed).items()}
        facts |= {"hardware": hardware(str(verifier.device)), **provenance()}
        told = str(theory) if theory else ""
        frontier.map_page(points, parsed.reward, gains, facts, told).save_html(parsed.out / "report.html")
        files = ("report.html", "frontier.csv", "gains.csv", "ways.jsonl", "theory.json")
        print(ending("the map", [parsed.out / name for name in files], []))
