"""Answers that a source's authors wrote, as rows like the verifier's: nothing is asked, nothing is generated."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drafter.answers import Answer, OpenShard, Store
from drafter.config import Config
from drafter.data.conversations import gather
from drafter.regenerate.answering import Drawn, answer_all
from drafter.regenerate.conversation import Conversation
from drafter.sources import BadRows
from drafter.verifier.chat import answer_ids
from drafter.verifier.tokenizer import load_tokenizer, tokenizer_hash


def by_authors(
    config: Config, path: Path, recipe: dict[str, Any], on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """The authors' answers of a recipe's sources, into a file or a folder.

    Args:
        recipe: what of the recipe decides its answers.
    Returns:
        what the answers depend on, and counts.
    Raises:
        ValueError: answers of another recipe are in the way, or a source is missing or holds nothing.
    """
    data = config.data
    authors = Authors(load_tokenizer(config.verifier.source), data.max_new_tokens, data.keep_reasoning)

    def draw() -> Drawn:
        bad = BadRows(data.bad_rows)
        return Drawn(gather(data.sources, config.seed, bad, lambda count: []), bad.counts)

    store = Store(path, {**authors.origin, "recipe": recipe}, data.shard_prompts)
    return answer_all(authors, draw, store, on_progress)


class Authors:
    """Takes each answer of a conversation for the answer; no weights are needed.

    Args:
        tokenizer: the verifier's, with its chat template.
        max_new_tokens: longer answers are cut.
    """

    def __init__(self, tokenizer: Any, max_new_tokens: int, keep_reasoning: bool):
        self.tokenizer, self.max_new_tokens, self.keep_reasoning = tokenizer, max_new_tokens, keep_reasoning
        self.origin = {"answered_by": "authors", "tokenizer": tokenizer_hash(tokenizer)}

    def answer(self, shard: OpenShard, on_done: Callable[[], None]) -> None:
        """Make the rows of every conversation; one with an answer that can't be told from its prompt, token by token,
        or with none, is a failure."""
        for number in shard.missing:
            try:
                rows = list(self.rows(shard.prompts[number]))
            except ValueError as error:
                shard.fail(number, "no exact answer", str(error))
            else:
                if rows:
                    shard.add(number, rows)
                else:
                    shard.fail(number, "no answer", "its author wrote none")
            on_done()

    def rows(self, conversation: Mapping[str, Any]) -> Iterator[Answer]:
        """A row per assistant's turn that has something before it.

        Raises:
            ValueError: the chat template does not tell an answer from its prompt.
        """
        messages, tools = conversation["messages"], conversation.get("tools")
        for turn, message in enumerate(messages):
            if message["role"] != "assistant" or not any(each["role"] == "user" for each in messages[:turn]):
                continue
            said = [*messages[:turn], {**message, "content": message["content"].strip()}]
            _, ids = answer_ids(self.tokenizer, said, keep_reasoning=self.keep_reasoning, tools=tools)
            cut = len(ids) > self.max_new_tokens
            asked = Conversation(conversation["source"], conversation["kind"], messages[:turn], tools)
            asked.add(ids[: self.max_new_tokens], "length" if cut else "stop", "")
            yield from asked.rows
