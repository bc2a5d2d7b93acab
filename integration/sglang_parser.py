"""SGLang's parser of a drafter's config, run on an export: what it makes of our `config.json`.

The package imports GPU kernels, so the parser's functions are taken out of the wheel and run alone; they are plain
Python.

Setup, once (38 MB): pip download --no-deps sglang==0.5.23
Run, in the project's own environment: python integration/sglang_parser.py EXPORT sglang-0.5.23-*.whl VERIFIER

Covers: parse_dflash_draft_config and what is asked of its result: taps against the verifier's depth, block size, layer
types, sliding window. Does not cover: reading the weights (SGLang skips unknown tensors, never reports missing ones),
attention backends, decoding; SGLang runs on no CPU.
"""

import ast
import json
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Optional

FILE = "sglang/srt/speculative/dflash_utils.py"
WANTED = (
    "DEFAULT_DFLASH_MASK_TOKEN",
    "DFlashDraftConfig",
    "_cfg_get",
    "_get_dflash_config",
    "_get_text_config",
    "_parse_optional_int",
    "build_target_layer_ids",
    "get_dflash_attention_sliding_window_size",
    "get_dflash_layer_types",
    "is_nemotron_35_draft_config",
    "parse_dflash_draft_config",
)


def parser(wheel: Path) -> dict[str, Any]:
    """The functions of the wheel, by name."""
    with zipfile.ZipFile(wheel) as opened:
        tree = ast.parse(opened.read(FILE))
    kept = [node for node in tree.body if _name(node) in WANTED]
    missing = set(WANTED) - {_name(node) for node in kept}
    if missing:
        raise SystemExit(f"{wheel}: {FILE} has no {sorted(missing)}; this script knows sglang 0.5.23")
    space: dict[str, Any] = {
        "Any": Any, "List": list, "Optional": Optional, "Tuple": tuple, "Sequence": Sequence,
        "Integral": Integral, "dataclass": dataclass, "__name__": "sglang_parser",
    }  # fmt: skip
    exec(compile(ast.Module(kept, []), FILE, "exec"), space)
    return space


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return getattr(node, "name", "")


def main(export: str, wheel: str, verifier: str) -> int:
    sys.modules.setdefault("sglang_parser", sys.modules[__name__])  # dataclasses look their module up
    space = parser(Path(wheel))
    config = json.loads((Path(export) / "config.json").read_text())
    target = json.loads((Path(verifier) / "config.json").read_text())
    found = space["parse_dflash_draft_config"](draft_hf_config=config)
    said = config.get("dflash_config") or config
    print(f"{Path(wheel).name}\nexport {export}")
    read = {
        "mask id": (said.get("mask_token_id"), found.mask_token_id),
        "taps": (said.get("target_layer_ids"), found.target_layer_ids),
        "block": (config["block_size"], found.resolve_block_size()),
        "layers": (config.get("num_hidden_layers"), found.num_hidden_layers),
        "verifier's layers": (target["num_hidden_layers"], found.num_target_layers),
    }
    wrong = [name for name, (ours, theirs) in read.items() if ours != theirs or theirs is None]
    for name, (ours, theirs) in read.items():
        print(f"{name}: export {ours}, SGLang {theirs}{'  WRONG' if name in wrong else ''}")
    if found.target_layer_ids is not None:
        print(f"taps in the verifier: {found.resolve_target_layer_ids(target_num_layers=target['num_hidden_layers'])}")
    print(f"layer types {space['get_dflash_layer_types'](config)}")
    print(f"sliding window {space['get_dflash_attention_sliding_window_size'](config)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
