"""The config and the model of vllm-project/speculators, over an export in the speculators layout.

Setup, once, in an environment of its own (about 2 GB; it pins older transformers and datasets than ours):

    python -m venv /tmp/speculators && /tmp/speculators/bin/pip install torch==2.13.0
    /tmp/speculators/bin/pip install torch==2.13.0 speculators==0.9.0
    /tmp/speculators/bin/pip uninstall -y torchvision torchaudio   # built for another torch; not needed here

Run: /tmp/speculators/bin/python integration/speculators_model.py EXPORT

Covers: SpeculatorModelConfig.from_pretrained, DFlashDraftModel built from it, every tensor of the export loaded, none
left over, none missing but the verifier's own, values equal to the last bit, the draft vocabulary. Does not cover: its
training forward (it needs anchors and a compiled mask), vLLM.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from speculators import SpeculatorModelConfig
from speculators.models.dflash import DFlashDraftModel

BORROWED = {"embed_tokens.weight", "lm_head.weight", "verifier_lm_head.weight", "verifier_norm.weight"}


def main(export: str) -> int:
    config = SpeculatorModelConfig.from_pretrained(export)
    model = DFlashDraftModel(config)
    tensors = {
        name: value
        for file in sorted(Path(export).glob("model*.safetensors"))
        for name, value in load_file(file).items()
    }
    found = model.to(torch.bfloat16).load_state_dict(tensors, strict=False)
    missing = sorted(set(found.missing_keys) - BORROWED)
    unequal = [name for name, value in tensors.items() if not torch.equal(model.state_dict()[name], value)]
    print(f"speculators {version('speculators')}, transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"export {export}")
    print(f"config {type(config).__name__}, model {type(model).__name__}")
    print(f"taps, from one: {model.target_layer_ids}, block {model.block_size}, mask id {config.mask_token_id}")
    print(f"bidirectional sliding layers: {model.sliding_window_non_causal}, full attention: {model.uses_full_attn}")
    proposals = config.speculators_config.proposal_methods[0]
    print(f"verifier {config.speculators_config.verifier.name_or_path}, drafts {proposals.speculative_tokens}")
    print(f"vocabulary {model.draft_vocab_size} of {model.verifier_vocab_size}")
    print(f"tensors {len(tensors)}, missing {missing}, left over {found.unexpected_keys}, unequal {unequal}")
    if model.d2t is not None:
        ids = model.d2t + torch.arange(len(model.d2t))
        print(f"draft vocabulary agrees: {torch.equal(model.t2d.nonzero()[:, 0], ids)}")
    return 1 if missing or found.unexpected_keys or unequal else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
