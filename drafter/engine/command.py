"""The command that serves a verifier: for answers, with a drafter, or for its hidden states.

vLLM's layer i is the output of our layer i - 1, its layer 0 the embedding's; its last one comes before the final norm.
"""

import json
from collections.abc import Sequence

SERVER = ("python", "-m", "vllm.entrypoints.openai.api_server")


def serve_answers(verifier: str, name: str, host: str, port: int, context: int, dtype: str = "auto") -> list[str]:
    """Words of the command that serves a verifier for `regenerate`.

    Args:
        verifier: hub id or directory.
        name: the verifier's name there (`data.server.model`).
        context: tokens of a prompt and its answer at most.
    """
    words = [*SERVER, "--model", verifier, "--served-model-name", name, "--host", host, "--port", str(port)]
    words += ["--dtype", dtype, "--max-model-len", str(context)]
    return [*words, "--generation-config", "vllm"]  # no penalties that the model's own file may name


def serve_drafts(answers: Sequence[str], drafter: str, drafts: int) -> list[str]:
    """The same for a verifier that decodes with a drafter.

    Args:
        answers: words of `serve_answers`.
        drafter: directory of an export in the canonical or the speculators layout.
        drafts: tokens proposed per cycle.
    """
    asked = {"method": "dflash", "model": drafter, "num_speculative_tokens": drafts}
    return [*answers, "--speculative-config", json.dumps(asked)]


def serve_states(
    answers: Sequence[str],
    folder: str,
    tap_layers: Sequence[int],
    last: int | None = None,
    connector: str | None = None,
) -> list[str]:
    """The same for hidden states, which vLLM writes into files of `folder`.

    Args:
        answers: words of `serve_answers`.
        tap_layers: as the drafter counts them, from 0.
        last: number of the verifier's layers, where its last hidden states are wanted too.
        connector: MODULE:CLASS of what writes in place of vLLM's own connector.
    """
    layers = [layer + 1 for layer in tap_layers] + ([last] if last else [])
    asked = {
        "method": "extract_hidden_states",
        "num_speculative_tokens": 1,
        "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": layers}},
    }
    writes: dict[str, object] = {
        "kv_connector": "ExampleHiddenStatesConnector",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"shared_storage_path": folder},
    }
    if connector:
        module, _, name = connector.partition(":")
        writes |= {"kv_connector": name, "kv_connector_module_path": module}
    words = [*answers, "--speculative-config", json.dumps(asked), "--kv-transfer-config", json.dumps(writes)]
    return [*words, "--no-enable-prefix-caching", "--no-enable-chunked-prefill"]  # else prompts come short
