"""What each stage runs, in order. `{out}` stands for the stage's folder, `{own}` for the words after `--own`."""

from dataclasses import dataclass

PYTEST = "python -m pytest -q -p no:cacheprovider"
ANSWERS = "data.answers={out}/tiny-answers.parquet"
TINY = f"recipes/tiny.yaml {ANSWERS} output={{out}}/runs"
ON_TINY = "{out}/exported --verifier tiny-llama"
TEACHER = (
    "model.hidden_size=512 model.intermediate_size=1536 model.num_hidden_layers=8 model.num_attention_heads=8 "
    "model.num_key_value_heads=8 tokenizer.size=4096 text.sequence_length=128 training.rows=32 training.max_steps=1500 "
    "training.learning_rate=1e-3 training.precision=bfloat16"
)
STUDENT = (
    "verifier.source={out}/runs/k_forcing_teacher/export text.sequence_length=128 training.rows=16 "
    "training.max_steps=1000 training.learning_rate=5e-4 trial.batch_sizes=[1,8,32,128] trial.prompts=128 "
    "trial.precision=bfloat16"
)
SIZES = "--device cuda --compile on --batch-sizes 1 8 32 128 256 --tries 2"
ON_QUICKSTART = "{out}/../start/runs/quickstart/export --verifier smollm2"


@dataclass(frozen=True)
class Step:
    """A command of a stage.

    Attributes:
        device: False hides the GPU from it.
        last: whether the stage ends where it fails, since the others build on it.
    """

    name: str
    command: str
    device: bool = True
    last: bool = False


STAGES: dict[str, list[Step]] = {
    "tests": [
        Step("gpu-tests", f"{PYTEST} -m gpu tests"),
        Step("answers", f"python -m drafter regenerate {TINY}", last=True),
        Step("train", f"python train.py {TINY} name=tiny", last=True),
        Step("train-online", f"python train.py {TINY} name=online data.taps=online training.precision=bfloat16"),
        Step("train-packed", f"python train.py {TINY} name=packed data.packing=true training.workers=1"),
        Step("export", "python -m drafter export {out}/runs/tiny/checkpoints/best.ckpt {out}/exported"),
        Step("check", f"python -m drafter check {ON_TINY}"),
        Step("generate", f"python -m drafter generate {ON_TINY} --compare hello"),
        Step("evaluate", f"python -m drafter evaluate {ON_TINY} --suites humaneval --prompts 4"),
        Step("benchmark", f"python -m drafter benchmark {ON_TINY} --suites humaneval --prompts 4"),
        Step("ablate", f"python -m drafter ablate recipes/ablations/tiny.yaml output={{out}}/ablation {ANSWERS}"),
        Step("suite", f"{PYTEST} -n 14 tests", device=False),
    ],
    "start": [
        Step("quickstart", "python train.py recipes/quickstart.yaml output={out}/runs", last=True),
        Step("attention", "python benchmarks/attention.py --device cuda --dtype bfloat16 --csv {out}/attention.csv"),
        Step("step-cost", "python benchmarks/step_cost.py recipes/quickstart.yaml --json {out}/step_cost.json"),
    ],
    "decoding": [
        *(
            Step(
                f"batch-{size}",
                f"python benchmarks/decoding.py {ON_QUICKSTART} --out {{out}}/batch-{size} --devices cuda "
                f"--batch-sizes {size} --prompts {prompts} --repeats 2",
            )
            for size, prompts in ((1, 2), (8, 4), (64, 32))  # prompts of each of two suites
        ),
        Step(
            "exactness",
            f"python benchmarks/decoding.py {ON_QUICKSTART} --out {{out}}/exactness --exactness --prompts 24",
        ),
    ],
    "k_forcing": [
        Step("speed-135m", f"python benchmarks/k_forcing.py {SIZES} --csv {{out}}/speed_135m.csv"),
        Step("speed-1.7b", f"python benchmarks/k_forcing.py --random Qwen3-1.7B {SIZES} --csv {{out}}/speed_1_7b.csv"),
        Step("teacher", f"python train.py recipes/k_forcing_teacher.yaml output={{out}}/runs {TEACHER}", last=True),
        Step("student", f"python train.py recipes/k_forcing_quickstart.yaml output={{out}}/runs {STUDENT} {{own}}"),
    ],
    "study": [
        Step("rates", "python -m drafter ablate recipes/ablations/block16_learning_rate.yaml output={out}/rates {own}"),
        Step("block16", "python -m drafter ablate recipes/ablations/block16.yaml output={out}/block16 {own}"),
    ],
}
