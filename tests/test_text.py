"""Streamed text joins to the whole text, in whole characters; stop strings end answers wherever tokens cut them."""

import random

import pytest
from conftest import NEW_TOKENS, make_answers, make_memorising, make_verifier
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from drafter.decode import SpeculativeDecoder
from drafter.decode.text import BROKEN, WAITING, Detokenizer, Transcript
from drafter.verifier import tiny

TEXTS = ["a b", " é", "日本語", "👩🏽‍🚀!", "\n\n", "naïve café", "…", "\ufffd", "END", " stop"]


def wrap(backend, **special):
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def merged_bytes():
    """Byte-level tokens, some of which end in the middle of a character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text) for text in TEXTS]
    words = [word for piece in pieces for word, _ in piece]
    cuts = {word[i : i + size] for word in words for i in range(len(word)) for size in (2, 3)}
    vocabulary = {token: i for i, token in enumerate(["<end>", *alphabet, *sorted(cuts - set(alphabet))])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.decoder = decoders.ByteLevel()
    return wrap(backend, eos_token="<end>")


def byte_fallback():
    """Pieces with a mark for the space before them, and single bytes, as Llama 2 has them."""
    pieces = [
        "<end>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁a",
        "▁stop",
        "b",
        "é",
        "語",
        "▁",
        "▁▁",
        "END",
        "\n",
    ]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return wrap(backend, eos_token="<end>")


TOKENIZERS = {"bytes": lambda: tiny.build("llama")[1], "merged": merged_bytes, "byte fallback": byte_fallback}


@pytest.fixture(params=TOKENIZERS.values(), ids=TOKENIZERS, scope="module")
def tokenizer(request):
    return request.param()


def whole(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def random_ids(tokenizer, seed):
    """Ids of words in some order, with special tokens and, where the decoder takes each for itself, stray bytes."""
    source = random.Random(seed)
    ids, stray = [], len(tokenizer) if tokenizer.convert_tokens_to_ids("<0x00>") is None else 1
    for _ in range(12):
        if source.random() < 0.3:
            ids += [source.randrange(stray) for _ in range(source.randrange(4))]
        ids += tokenizer.encode(source.choice(TEXTS), add_special_tokens=False)
    return ids


@pytest.mark.parametrize("seed", range(20))
def test_pieces_join_to_the_whole(tokenizer, seed):
    ids, detokenizer, text = random_ids(tokenizer, seed), Detokenizer(tokenizer), ""
    for count, token in enumerate(ids, 1):
        new = detokenizer.push(token)
        assert not new.endswith(BROKEN)
        text += new
        expected = whole(tokenizer, ids[:count])
        assert text == expected or expected.endswith(BROKEN)
    assert text + detokenizer.flush() == whole(tokenizer, ids)


def test_a_token_costs_the_same_wherever_it_comes(tokenizer):
    detokenizer, longest = Detokenizer(tokenizer), 0
    for token in tokenizer.encode("a b END\n" * 60, add_special_tokens=False):
        detokenizer.push(token)
        longest = max(longest, len(detokenizer.ids) - detokenizer.first)
    assert longest <= 4


@pytest.mark.parametrize("kind", ["special", "continuing", "beginning"])
@pytest.mark.parametrize("count", [31, 33, 35, 36, 37, 150])
def test_what_is_no_character_is_not_waited_for(kind, count, tokenizer):
    """Special tokens, and bytes that continue or begin none: a token costs the same, and no character is lost."""
    bytewise = tokenizer.convert_tokens_to_ids("<0xC3>") is None
    first, second = tokenizer.convert_tokens_to_ids(["Ã", "©"] if bytewise else ["<0xC3>", "<0xA9>"])
    letter = [first, second] if bytewise else tokenizer.encode("é", add_special_tokens=False)
    filling = {"special": tokenizer.eos_token_id, "continuing": second, "beginning": first}[kind]
    around = tokenizer.encode("a b", add_special_tokens=False)
    ids = [*around, *[filling] * count, *letter, *around]
    detokenizer, pieces, longest = Detokenizer(tokenizer), [], 0
    for token in ids:
        pieces.append(detokenizer.push(token))
        longest = max(longest, len(detokenizer.ids) - detokenizer.first)
    assert longest <= 2 * (WAITING + 1)
    assert "".join(pieces[count:]).count("é") == 1
    text, expected = "".join(pieces) + detokenizer.flush(), whole(tokenizer, ids)
    assert text.replace(BROKEN, "") == expected.replace(BROKEN, "")


@pytest.mark.parametrize("stop", [("END",), ("\n\n", "é"), ("b E", " stop"), ("語",), ("aEN", "END", "ND")])
@pytest.mark.parametrize("seed", range(6))
def test_stop_strings_end_the_text_at_their_token(tokenizer, stop, seed):
    ids = random_ids(tokenizer, seed)
    texts = [whole(tokenizer, ids[:count]).rstrip(BROKEN) for count in range(len(ids) + 1)]
    end = next((n for n, text in enumerate(texts) if any(string in text for string in stop)), None)
    transcript, streamed, pushed = Transcript(tokenizer, stop), "", 0
    for token in ids:
        pushed += 1
        complete = transcript.push(token)
        streamed += transcript.news()
        if complete:
            break
        begins = [at for at in range(len(transcript.text)) if any(s.startswith(transcript.text[at:]) for s in stop)]
        assert len(streamed) == min(begins, default=len(transcript.text))  # all that begins no stop string, and no more
    transcript.close()
    streamed += transcript.news()
    expected = whole(tokenizer, ids)
    if end is not None:
        expected = texts[end][: min(texts[end].find(string) for string in stop if string in texts[end])]
    assert pushed == (len(ids) if end is None else end)
    assert transcript.text == streamed == expected


@pytest.fixture
def decoder():
    return SpeculativeDecoder(make_verifier("llama"), make_memorising("llama"))


def ascii_runs(text):
    """Substrings of plain characters, of one to three of them."""
    found = {text[i : i + size] for i in range(len(text)) for size in (1, 2, 3)}
    return sorted(run for run in found if run.isascii() and run.isprintable() and len(run) > 0)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_decoder_stops_at_strings(decoder, prompts, batch_size):
    """Wherever in a cycle they complete: at the prefill's token, a draft, the verifier's own token."""
    tokenizer, answers = decoder.verifier.tokenizer, make_answers("llama")
    runs = ascii_runs(whole(tokenizer, answers[0]))
    assert len(runs) >= 8
    for stop in runs[::3]:
        streamed = [""] * len(prompts)

        def hear(index, text, streamed=streamed):
            streamed[index] += text

        found = decoder.generate(prompts, NEW_TOKENS, batch_size=batch_size, stop=stop, on_text=hear)
        assert found[0].stop == "stop"
        for one, answer, text in zip(found, answers, streamed, strict=True):
            ends = [n for n in range(1, len(answer) + 1) if stop in whole(tokenizer, answer[:n])]
            count = ends[0] if ends else len(answer)
            assert one.token_ids == answer[:count]
            assert one.text == text == whole(tokenizer, answer[:count]).split(stop)[0]
            assert one.stop == ("stop" if ends else "length")
            assert sum(one.emitted) == count - 1
            assert not one.accepted or one.accepted[-1] in (one.emitted[-1] - 1, one.emitted[-1])


def test_a_stop_token_has_no_text(decoder, prompts, monkeypatch):
    tokenizer, answer = decoder.verifier.tokenizer, make_answers("llama")[0]
    monkeypatch.setattr(decoder.verifier.model.generation_config, "eos_token_id", [answer[5]])
    heard = []
    (found,) = decoder.generate(prompts[:1], NEW_TOKENS, on_text=lambda index, text: heard.append((index, text)))
    end = answer.index(answer[5])
    assert found.token_ids == answer[: end + 1]
    assert found.text == whole(tokenizer, answer[:end]) == "".join(text for _, text in heard)
    assert {index for index, _ in heard} == {0}
    assert all(text for _, text in heard)


@pytest.mark.parametrize("stop", ["", ["a", ""], [3]])
def test_wrong_stop_strings_are_refused(decoder, stop):
    with pytest.raises(ValueError, match=r"stop=\[.*\]: each must be a string of at least one character"):
        decoder.generate([[5]], stop=stop)


def test_text_needs_a_tokenizer(decoder, monkeypatch):
    monkeypatch.setattr(decoder.verifier, "tokenizer", None)
    for asked in ({"stop": "x"}, {"on_text": print}):
        with pytest.raises(ValueError, match="stop, on_text: the verifier has no tokenizer"):
            decoder.generate([[5]], **asked)
    (found,) = decoder.generate(["text"])
    assert found.stop == "the prompt is text, and the verifier has no tokenizer"
