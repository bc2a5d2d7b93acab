"""Recipes: what they may say, how overrides meet them, and the one line that a wrong one gets."""

from dataclasses import fields

import pytest
from conftest import ROOT

from drafter.config import AlignmentConfig, DataConfig, load, save
from drafter.config.data import TRAINING_ONLY
from drafter.sources import File, StandardLibrary

TINY = ROOT / "recipes/tiny.yaml"


def test_overrides_go_over_the_recipe_and_the_recipe_over_defaults():
    config = load(TINY, ["training.rows=7", "losses.first_error.weight=null", "drafter.tap_layers=[1,2]"])
    assert config.training.rows == 7
    assert config.losses.first_error.weight is None
    assert config.drafter.tap_layers == [1, 2]
    assert config.training.max_steps == 40  # the recipe's
    assert config.training.clip == 1.0  # the default
    assert config.name == "tiny"
    assert config.directory.as_posix() == "runs/tiny"


def test_a_config_is_plain_dataclasses():
    config = load(TINY)
    assert type(config) is AlignmentConfig
    assert [type(source) for source in config.data.sources] == [StandardLibrary]
    assert type(load(TINY, ["drafter.tap_layers=[1,2]"]).drafter.tap_layers) is list


def test_a_saved_config_is_a_recipe(tmp_path):
    sources = "data.sources=[{kind: file, path: a.jsonl, limit: 3}, {kind: standard_library, write: 2}]"
    config = load(TINY, [sources, "drafter.tap_layers=[0,3]", "losses.decayed_ce.decay_slots=null"])
    assert config.data.sources == [File(path="a.jsonl", limit=3), StandardLibrary(write=2)]
    save(config, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == config
    assert load(TINY) != config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rat=1", "training.learning_rat: unknown key; did you mean training.learning_rate?"),
        ("trainin.rows=1", "trainin: unknown key; did you mean training?"),
        ("losses.first_eror.weight=1", "losses.first_eror: unknown key; did you mean losses.first_error?"),
        (
            "losses.first_error.wieght=1",
            "losses.first_error.wieght: unknown key; did you mean losses.first_error.weight",
        ),
        ("zzz=1", "zzz: unknown key; known here: name, system, seed, output, verifier"),
        ("training.max_steps=many", "training.max_steps='many': Value 'many' of type 'str' could not be converted to"),
        ("training.rows=1.5", "training.rows=1.5: "),
        ("training.loggers=[csv]", "training.loggers=['csv']: choose among tensorboard, wandb, mlflow"),
        ("training.strategy=deepspeed", "training.strategy='deepspeed': choose auto or ddp or fsdp"),
        ("training.schedule=linear", "training.schedule='linear': choose one of cosine, stable, constant"),
        ("training.rows=null", "training.rows=None: "),
        ("seed=-1", "seed=-1: must lie in 0 to 4294967295"),
        ("seed=4294967296", "seed=4294967296: must lie in 0 to 4294967295"),
        ("training.profile=[51,52]", "training.profile=[51, 52]: begins behind training.max_steps=40"),
        ("data.sources=x", "data.sources='x': "),
        ("data.sources=[x]", "data.sources[0]='x': write it as {kind: file, path: prompts.jsonl}"),
        ("data.sources=[{path: x}]", "data.sources[0]={'path': 'x'}: write it as {kind: file"),
        ("data.sources=[{kind: poem}]", "data.sources[0].kind='poem': choose among standard_library, self_prompting"),
        ("data.sources=[{kind: file, pth: x}]", "data.sources[0].pth: unknown key; did you mean data.sources[0].path?"),
        ("data.sources=[{kind: file}]", "data.sources[0].path='': name a file"),
        ("data.sources=[{kind: file, path: a.txt}]", "data.sources[0].path='a.txt': must end in one of .jsonl"),
        ("data.sources=[{kind: file, path: a.jsonl, limit: 0}]", "data.sources[0].limit=0: must be >= 1, or null"),
        ("data.sources=[{kind: hub}]", "data.sources[0].dataset='': name a data set of the hub"),
        ("data.sources=[{kind: self_prompting}]", "data.sources[0].count=0: must be >= 1"),
        ("data.sources=[{kind: standard_library, write: x}]", "data.sources[0].write='x': Value 'x' of type 'str'"),
        ("data.sources=[{kind: standard_library, write: -1}]", "data.sources[0].write=-1: must be >= 0"),
        ("data.answered_by=me", "data.answered_by='me': choose verifier or authors"),
        ("data.bad_rows=drop", "data.bad_rows='drop': choose skip or fail"),
        ("drafter.tap_layers=3", "drafter.tap_layers=3: "),
        ("drafter.tap_layers=[1,a]", "drafter.tap_layers[1]='a': "),
        ("verifier=smollm2", "verifier='smollm2': holds keys of its own; write verifier.source=..."),
        ("losses=null", "losses=None: holds keys of its own"),
        ("training", "override='training': write it as key=value"),
        ("training.rows=[1", "no valid YAML: "),
        ("drafter.block_size=1", "drafter.block_size=1: needs the anchor and at least one draft slot (>= 2)"),
        ("drafter.num_layers=0", "drafter.num_layers=0: must be >= 1"),
        ("drafter.vocabulary=0", "drafter.vocabulary='0': choose full, answers, a number of tokens >= 1, or a file"),
        ("drafter.vocabulary=none", "drafter.vocabulary='none': choose full, answers, a number"),
        ("drafter.vocabulary=full:8", "drafter.vocabulary='full:8': choose full, answers, a number"),
        ("drafter.vocabulary=none.json:8", "drafter.vocabulary='none.json:8': choose full, answers, a number"),
        ("data.validation_share=1.0", "data.validation_share=1.0: must lie between 0 and 1"),
        ("data.sequence_length=4", "data.sequence_length=4: must be >= 8"),
        (
            "data.streaming=true",
            "data.taps='cached': taps of streamed rows are made in each step; set data.taps=online",
        ),
        ("data.streaming=true; data.taps=online; data.max_rows=9", "data.max_rows=9: of a stream, training takes all"),
        ("data.streaming=true; data.taps=online", "training.validate_every=None: steps of an epoch are not known of a"),
        ("data.shuffle_buffer=0", "data.shuffle_buffer=0: must be >= 1"),
        ("data.cache.dtype=int4", "data.cache.dtype='int4': choose one of auto, bfloat16, float32, int8"),
        ("data.cache.max_gb=0", "data.cache.max_gb=0.0: must be > 0; data.taps=online keeps none"),
        ("data.taps=cached_on_first_epoch; training.workers=1", "data.taps='cached_on_first_epoch': one process makes"),
        ("data.taps=cached_on_first_epoch; training.devices=2", "data.taps='cached_on_first_epoch': one process makes"),
        ("data.taps=disk", "data.taps='disk': choose one of cached, cached_on_first_epoch, online"),
        ("data.taps=engine", "data.tap_engine.url=None: name the server"),
        ("data.tap_engine.url=localhost", "data.tap_engine.url='localhost': write it as http://host:port/v1"),
        (
            "data.tap_engine.url=http://me:key@host",
            "data.tap_engine.url='...': holds a password",
        ),
        ("data.tap_engine.concurrency=0", "data.tap_engine.concurrency=0: must be >= 1"),
        (
            "data.taps=engine; data.tap_engine.url=http://localhost:1; training.workers=1",
            "training.workers=1: an engine is asked by threads",
        ),
        ("verifier.body=some", "verifier.body='some': choose here or none"),
        (
            "verifier.body=none",
            "verifier.body='none': data.taps='cached' runs the verifier's layers; set verifier.body",
        ),
        (
            "data.taps=engine; data.tap_engine.url=http://localhost:1; verifier.body=none; drafter.start=verifier",
            "verifier.body='none': drafter.start='verifier' runs the verifier's layers; set verifier.body=here where "
            "they fit, or drafter.start=random",
        ),
        ("data.max_rows=0", "data.max_rows=0: must be >= 1, or null"),
        ("verifier.attention=flash", "verifier.attention='flash': choose one of auto, sdpa, flash_attn, flash_cpu"),
        ("training.max_steps=0", "training.max_steps=0: must be >= 1"),
        ("training.learning_rate=0", "training.learning_rate=0.0: must be > 0"),
        ("training.learning_rate=nan", "training.learning_rate=nan: must be > 0"),
        ("training.warmup=1", "training.warmup=1.0: must lie in [0, 1)"),
        ("training.precision=fp16", "training.precision='fp16': choose one of auto, float32, bfloat16"),
        ("training.devices=none", "training.devices='none': say auto, how many (>= 1), or which ones"),
        ("training.devices=0", "training.devices='0': "),
        ("training.validate_every=0", "training.validate_every=0: must be >= 1, or null"),
        ("losses.first_error.weight=-1", "losses.first_error.weight=-1.0: must be finite and >= 0"),
        ("losses.decayed_ce.decay_slots=0", "losses.decayed_ce.decay_slots=0.0: "),
        ("decoding.draft_length=4", "decoding.draft_length=4: must lie between 1 and drafter.block_size - 1 = 3"),
        ("decoding.max_new_tokens=1", "decoding.max_new_tokens=1: must be >= 2"),
        ("decoding.tree_nodes=0", "decoding.tree_nodes=0: must be >= 1, or null for drafts in a row"),
        ("name=null", "name=None: "),
        ("name=''", "name='': must be a folder's name, below `output`"),
        ("name=../other", "name='../other': must be a folder's name"),
        ("name=/other", "name='/other': must be a folder's name"),
        ("=3", "override='=3': write it as key=value"),
    ],
)
def test_wrong_settings_are_named_in_one_line(override, message):
    with pytest.raises(ValueError) as caught:
        load(TINY, override.split("; "))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompts_of_the_verifiers_own_have_no_authors():
    words = ["data.answered_by=authors", "data.sources=[{kind: self_prompting, count: 3}]"]
    with pytest.raises(ValueError, match=r"data\.answered_by='authors': prompts that the verifier writes have no"):
        load(TINY, words)


def test_no_active_loss_is_an_error():
    off = [f"losses.{name}.weight=0" for name in ("decayed_ce", "first_error", "chain_reward")]
    with pytest.raises(ValueError, match="losses: none has a weight above 0; set one"):
        load(TINY, off)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "name: missing; set it in the recipe"),
        (b"name: x\n", "verifier.source: missing; set it in the recipe"),
        (b"- a\n- b\n", "must hold `key: value` lines"),
        (b"3\n", "must hold `key: value` lines"),
        (b"a: [1\n", "no valid YAML: "),
        (b"name: x\nname: y\n", "found duplicate key name"),
        (b"\xff\xfe\x00", "no valid YAML: "),
    ],
    ids=["empty", "incomplete", "list", "number", "broken", "twice", "binary"],
)
def test_files_that_are_no_recipes_are_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_said():
    with pytest.raises(
        ValueError,
        match=r"recipe='nowhere\.yaml': no such file; name a YAML file, or one that ships: .*mixed, quickstart",
    ):
        load("nowhere.yaml")


def test_every_data_setting_is_known_to_decide_answers_or_not():
    """A new setting must be put on one side: what decides answers refuses to go on with those of another value."""
    deciding = {"sources", "answered_by", "keep_reasoning", "max_new_tokens", "temperature", "top_p", "server"}
    assert {each.name for each in fields(DataConfig)} == deciding | set(TRAINING_ONLY)
