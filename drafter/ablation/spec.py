"""What an ablation asks for: a YAML file of named arms, read and checked before anything is trained."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from drafter import config as configs
from drafter.config import AlignmentConfig, require
from drafter.config.checks import flat
from drafter.config.shipped import find_recipe, place
from drafter.data.conversations import Prompt
from drafter.evaluation.suites import evenly, load_suite

HELD_OUT = "held_out"
SHARED = ("verifier", "data", "decoding", "name", "seed", "output")  # what no arm may change, but for ...
OWN_ANSWERS = "data.answers"  # ... what it trains on: held-out rows and suites stay the base's


@dataclass
class Ablation:
    """Arms × seeds.

    Args:
        base: recipe that every arm starts from.
        overrides: of the base, for all arms.
        arms: name → overrides, `key=value` each; `data.answers` is what the arm trains on, in place of the base's.
        baseline: the arm that the others are compared with.
        only: arms that are trained now, whatever others there are; null for all. The report shows what is finished.
        seeds: each arm runs with each; the arms of a seed share initial weights, order of the data and anchors.
        suites: `held_out` (the recipe's own test rows), or what `drafter.evaluation.suites.load_suite` knows.
        suite_prompts: prompts taken of each suite, evenly spaced; null for all.
        output: directory of the runs and of the report.
        processes: runs at a time; with several GPUs, one on each.
        keep_checkpoints: keep the weights of finished runs.
    """

    base: str = ""
    overrides: list[str] = field(default_factory=list)
    arms: dict[str, list[str]] = field(default_factory=dict)
    baseline: str = ""
    only: list[str] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    suites: list[str] = field(default_factory=lambda: [HELD_OUT])
    suite_prompts: int | None = None
    output: str = "runs/ablation"
    processes: int = 1
    keep_checkpoints: bool = False

    def __post_init__(self) -> None:
        require(bool(self.base), "base", self.base, "name the recipe that the arms start from")
        require(bool(self.arms), "arms", self.arms, "name at least one arm, with its overrides")
        for name in self.arms:
            plain = re.fullmatch(r"[\w.+-]+", name) is not None and not name.startswith(".")
            require(plain, "arms", name, "a name is made of letters, digits and _ . + -")
        remedy = f"no such arm; choose one of {', '.join(self.arms)}"
        require(self.baseline in self.arms, "baseline", self.baseline, remedy)
        require(set(self.only or ()) <= set(self.arms), "only", self.only, remedy)
        for name in ("seeds", "suites"):
            values = getattr(self, name)
            require(bool(values), name, values, "name at least one")
            require(len(set(values)) == len(values), name, values, "names one twice")
        require(
            self.suite_prompts is None or self.suite_prompts >= 1,
            "suite_prompts",
            self.suite_prompts,
            "must be >= 1, or null",
        )
        require(self.processes >= 1, "processes", self.processes, "must be >= 1")
        for arm, words in self.arms.items():
            for word in words:
                key = word.split("=")[0].split(".")[0]
                remedy = f"arms share {key}; put it into `overrides`, for all arms"
                require(key not in SHARED or word.split("=")[0] == OWN_ANSWERS, f"arms.{arm}", word, remedy)

    @property
    def directory(self) -> Path:
        return Path(self.output)

    def base_config(self) -> AlignmentConfig:
        """The base recipe with the overrides that all arms share."""
        return configs.load_as(AlignmentConfig, self.base, [*self.overrides, "name=base"])

    def config(self, arm: str, seed: int) -> AlignmentConfig:
        """The recipe of one run, whole."""
        own = [f"name={arm}/seed_{seed}", f"seed={seed}", f"output={self.directory / 'runs'}"]
        try:
            return configs.load_as(AlignmentConfig, self.base, [*self.overrides, *self.arms[arm], *own])
        except ValueError as error:
            raise ValueError(f"arms.{arm}: {error}") from None

    def runs(self) -> list[tuple[str, int]]:
        """(arm, seed) of each run: a seed's arms before the next seed, so that an unfinished ablation compares."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def wanted(self) -> list[tuple[str, int]]:
        """Those of `runs` that are trained now."""
        return [(arm, seed) for arm, seed in self.runs() if self.only is None or arm in self.only]

    def prompts(self) -> dict[str, list[Prompt]]:
        """Prompts of each suite that is not the recipe's own.

        Raises:
            ValueError: a suite is unknown, not installed, or without prompts.
        """
        return {name: evenly(load_suite(name), self.suite_prompts) for name in self.suites if name != HELD_OUT}


def load_ablation(path: str | Path, words: Sequence[str] = ()) -> Ablation:
    """Read an ablation; `words` (key=value) override its own keys, all others the base recipe's.

    Raises:
        ValueError: one line that names the file, the key and the remedy, whatever is wrong with any arm or suite.
    """
    path = find_recipe(path, "ablation", "ablations")
    try:
        text = path.read_text()
        _refuse_twins(path, yaml.compose(text))
        said = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    require(isinstance(said, dict), str(path), said, "must hold `key: value` lines")
    known = [each.name for each in fields(Ablation)]
    unknown = sorted(set(said) - set(known))
    require(not unknown, f"{path}: key", unknown, f"unknown; known here: {', '.join(known)}")
    wrong = [word for word in words if "=" not in word]
    require(not wrong, "override", wrong[0] if wrong else "", "write it as key=value")
    own = [word for word in words if word.split("=")[0].split(".")[0] in known]
    require(isinstance(said.get("arms", {}), dict), f"{path}: arms", said.get("arms"), "must hold `name: [key=value]`")
    if isinstance(said.get("base"), str):
        said["base"] = place(said["base"], path.parent)
    said["arms"] = {str(name): overrides or [] for name, overrides in (said.get("arms") or {}).items()}
    try:
        layers = OmegaConf.merge(OmegaConf.structured(Ablation), said, OmegaConf.from_dotlist(own))
        spec: Any = OmegaConf.to_object(layers)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {error.full_key}: {str(error.msg).splitlines()[0]}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    spec.overrides += [word for word in words if word not in own]
    for arm in spec.arms:
        spec.config(arm, spec.seeds[0])
    for seed in spec.seeds[1:]:
        spec.config(spec.baseline, seed)
    spec.prompts()
    return spec


def _refuse_twins(path: Path, node: Any, name: str = "") -> None:
    """Refuse two keys of one name in one mapping: YAML readers would keep the second in silence."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            inside = f"{name}.{key.value}" if name else key.value
            if key.value in seen:
                raise ValueError(f"{path}: {inside}: there are two of this name; rename one")
            seen.add(key.value)
            _refuse_twins(path, value, inside)


def differences(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of whole recipes, by arm, the settings (dotted) in which any two differ."""
    named = {arm: flat(recipe) for arm, recipe in arms.items()}
    keys = list(dict.fromkeys(key for recipe in named.values() for key in recipe))
    differing = [
        key for key in keys if len({json.dumps(recipe.get(key), sort_keys=True) for recipe in named.values()}) > 1
    ]
    return {arm: {key: recipe.get(key) for key in differing} for arm, recipe in named.items()}


def recipe_of(config: AlignmentConfig) -> dict[str, Any]:
    """The settings of a run that decide its numbers: all but its name and place."""
    return {key: value for key, value in asdict(config).items() if key not in ("name", "output", "seed")}
