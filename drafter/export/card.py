"""The model card of an export, written from what its run recorded; what was not measured is said to be so."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from drafter.export.record import RECORD, keeps_reasoning, longest_row, read_record
from drafter.export.serve import serve_commands
from drafter.files import atomically, write_json
from drafter.layouts import detect
from drafter.models.storage import read_config
from drafter.verifier.conversion import PACKAGED

CARD = "README.md"
TAGS = ["speculative-decoding", "block-diffusion", "dflash"]
NOT_MEASURED = "Not measured."


def add_results(directory: Path, results: Mapping[str, Any]) -> None:
    """Put measured results into an export's `training.json`, and into its card.

    Args:
        results: a run's summary; `suites` in it, {name: {tokens_per_cycle, low, high, prompts}}, becomes a table.
    """
    record = read_record(directory)
    write_json(directory / RECORD, {**record, "results": {**(record.get("results") or {}), **results}})
    write_card(directory)


def write_card(directory: Path, name: str | None = None) -> None:
    """Write the `README.md` of an export; `name` is what its directory will be called, where it is called otherwise."""
    with atomically(directory / CARD) as scratch:
        scratch.write_text(card(directory, name or directory.name))


def card(directory: Path, called: str) -> str:
    """The text of the model card of an export in a directory that is called so."""
    record, config = read_record(directory), read_config(directory)
    recipe = record.get("recipe") or {}
    verifier = (recipe.get("verifier") or {}).get("source") or "VERIFIER"
    name = recipe.get("name") or called
    matter: dict[str, Any] = {"tags": TAGS}
    if verifier.count("/") == 1 and not verifier.startswith((".", "/", "~")) and not Path(verifier).exists():
        matter["base_model"] = verifier  # a name on the hub
    if record.get("verifier_licence"):
        matter["license"] = record["verifier_licence"]
    parts = [
        f"---\n{yaml.safe_dump(matter, sort_keys=True)}---\n",
        f"# {name}: a block-diffusion drafter for {verifier}\n",
        "Proposes a block of tokens in one pass for speculative decoding (DFlash, arXiv:2602.06036). It has no "
        "embedding and no head: both are the verifier's. Decoding with it is lossless; what it changes is the time.\n",
        _section("Verifier", _verifier(record, verifier)),
        _section("Data", _data(record)),
        _section("Objective", _objective(recipe)),
        _section("Tokens per cycle", _tokens(record)),
        _section("Speed", _speed(record.get("results") or {})),
        _section("Shape", markdown_table(("fact", "value"), sorted((record.get("facts") or {}).items()))),
        _section("Serve", _serve(called, config, record, verifier)),
        _section("Made by", _provenance(record)),
    ]
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table, or a word that there is none."""
    if not rows:
        return "Not recorded."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _verifier(record: Mapping[str, Any], verifier: str) -> str:
    rows = [
        ("name", verifier),
        ("licence", record.get("verifier_licence") or "not stated; see the verifier's own page"),
        ("fingerprint of its weights", record.get("verifier") or "not recorded"),
        ("hash of its tokenizer", record.get("tokenizer") or "not recorded"),
    ]
    return markdown_table(("verifier", ""), rows)


def _data(record: Mapping[str, Any]) -> str:
    manifest = record.get("data") or {}
    longest = longest_row(dict(record))
    thoughts = "as the verifier wrote them" if keeps_reasoning(dict(record)) else "left out: thinking was switched off"
    trained = [] if longest is None else [("longest row, in tokens", longest), ("thoughts before answers", thoughts)]
    rows = [(key, _short(value)) for key, value in manifest.items()]
    results = record.get("results") or {}
    rows += [(key.replace("_", " "), results[key]) for key in ("train_rows", "train_tokens") if key in results]
    return markdown_table(("manifest", ""), [*rows, *trained])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def _objective(recipe: Mapping[str, Any]) -> str:
    rows = []
    for name, settings in (recipe.get("losses") or {}).items():
        if settings and settings.get("weight"):
            rest = {key: value for key, value in settings.items() if key not in ("weight", "reduction")}
            detail = ", ".join(f"{key}={value}" for key, value in rest.items() if value is not None)
            rows.append((name, settings["weight"], settings.get("reduction", "its own"), detail))
    return markdown_table(("loss", "weight", "reduction", "settings"), rows)


def _tokens(record: Mapping[str, Any]) -> str:
    results, probe = record.get("results") or {}, record.get("probe") or {}
    rows: list[Sequence[Any]] = []
    if record.get("tokens_per_cycle") is not None:
        rows.append(("held-out, walk at training", _figure(record["tokens_per_cycle"]), "", ""))
    for name, one in (results.get("suites") or {}).items():
        one = one or {}
        low, high = _figure(one.get("low")), _figure(one.get("high"))
        interval = f"{low} to {high}" if low and high else ""
        rows.append((name, _figure(one.get("tokens_per_cycle")), interval, one.get("prompts", "")))
    if probe:
        prompts = len(probe.get("prompts") or ())
        rows.append(("probe of `check`", _figure(probe.get("tokens_per_cycle")), "", prompts))
    about = "Tokens emitted by cycles over cycles, summed over prompts, greedy; the prefill's token is not counted.\n\n"
    return (
        about + markdown_table(("suite", "tokens per cycle", "95 % interval", "prompts"), rows)
        if rows
        else NOT_MEASURED
    )


def _figure(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _speed(results: Mapping[str, Any]) -> str:
    speeds = results.get("tokens_per_second") or {}
    if not speeds:
        return NOT_MEASURED
    rows: list[Sequence[Any]] = [(name, _figure(value, 1)) for name, value in speeds.items()]
    text = markdown_table(("greedy, batch 1", "tokens/s"), rows)
    if results.get("speedup") is not None:
        text += f"\n\nSpeed-up over the faster plain way: {results['speedup']:.2f}"
        nodes = results.get("tree_nodes")
        drafts = f"a tree of {nodes}" if nodes else f"{results['draft_length']}" if "draft_length" in results else ""
        text += f" with {drafts} drafts" if drafts else ""
        text += f", in {results['precision']}, on the machine that trained it." if "precision" in results else "."
    return text


def _serve(name: str, config: Mapping[str, Any], record: Mapping[str, Any], verifier: str) -> str:
    layout = detect(config)
    facts = {**layout.read(config), **(record.get("facts") or {})}
    here = verifier in PACKAGED or verifier.startswith("tiny-")  # names of this project's own, which no engine knows
    commands = serve_commands(name, layout.name, facts, "VERIFIER" if here else verifier)
    parts = [f"Layout: {layout.name}."]
    parts += [f"VERIFIER: where `{verifier}` lies; `drafter check` prints these commands with it."] if here else []
    parts += [f"{engine}:\n\n```\n{command}\n```" for engine, command in commands.items()]
    return "\n\n".join(parts)


def _provenance(record: Mapping[str, Any]) -> str:
    made = record.get("provenance") or {}
    rows = [*made.items(), *((key, record[key]) for key in ("step",) if record.get(key) is not None)]
    return markdown_table(("what", "value"), rows)
