"""A base recipe, named arms of overrides, seeds → report.md, report.html, CSV files and pictures of what each buys.

A killed ablation goes on with the runs that are not finished. `key=value` overrides the ablation's own keys (only,
seeds, suites, suite_prompts, output, processes, ...), every other key the base recipe, for all arms. Exit code 1 if a
run failed.
"""

from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path

FILES = ("report.html", "report.md", "results.csv", "runs.csv", "gains.png")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "ablation",
        metavar="ABLATION",
        help="YAML file; those that ship are in recipes/ablations/. With --report-only also a directory of CSV files",
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="overrides, as said above")
    parser.add_argument("--report-only", action="store_true", help="build the report again from the CSV files alone")
    parser.add_argument("--share", help=SUPPRESS)  # i/n: every n-th run from the i-th on; for the processes of one


def run(parsed: Namespace) -> None:
    from drafter.ablation.spec import load_ablation

    if parsed.report_only and Path(parsed.ablation).is_dir():
        from drafter.ablation import report

        report.build(Path(parsed.ablation))
        return
    spec = load_ablation(parsed.ablation, parsed.overrides)
    from drafter.ablation import report, runner, tables  # late: a wrong file should not wait for torch
    from drafter.commands.endings import ending

    if parsed.report_only:
        report.build(spec.directory)
        print(spec.directory / "report.md")
        return
    if parsed.share:
        index, count = map(int, parsed.share.split("/"))
        runner.run_all(spec, (index, count))
        return
    for arm, seed in spec.wanted():  # a kill may have come between a result and this
        runner.drop_weights(spec.config(arm, seed))
    if spec.processes > 1:
        runner.spread(spec, [parsed.ablation, *parsed.overrides])
    else:
        runner.run_all(spec)
    results = runner.results(spec)
    tables.write(spec, results)
    report.build(spec.directory)
    print(ending(gains(spec.directory), [spec.directory / name for name in FILES], []))
    wanted = spec.wanted()
    broken = [one for one in results if one["status"] != "finished" and (one["arm"], one["seed"]) in wanted]
    for result in broken:
        print(f"{result['arm']}, seed {result['seed']}: {result['status']}: {result['error']}")
    if broken:
        raise SystemExit(1)


def gains(directory: Path) -> str:
    """A line for each suite and arm: the gain in tokens per cycle over the baseline, with its interval."""
    from drafter.ablation import tables
    from drafter.ablation.report import compare_all

    read = tables.read(directory)
    lines = [
        f"{suite}: {arm} {one.gain.value:+.1%} tokens per cycle over {read.baseline} [{one.gain.low:+.1%}, "
        f"{one.gain.high:+.1%}]"
        for suite, arms in compare_all(read).items()
        for arm, one in arms.items()
        if arm != read.baseline
    ]
    return "\n".join(lines) or f"{directory}: no arm beside the baseline has finished"
