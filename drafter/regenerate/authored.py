"""Answers that a source's authors wrote, as rows like the verifier's: nothing is asked, nothing is generated."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drafter.answers import Answer, OpenShard, Store
from drafter.config import Config
from drafter.data.conversations import gather
from drafter.regenerate.answering import Drawn, answer_all
from drafter.regenerate.conversation import OpenConversation, origin_of
from drafter.sources import BadRow, BadRows
from drafter.verifier.chat import ControlToken, answer_ids
from drafter.verifier.tokenizer import context_length, load_tokenizer


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
    source = config.verifier.source
    authors = Authors(load_tokenizer(source), data.max_new_tokens, data.keep_reasoning, context_length(source))

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
        context: tokens that the verifier reads at most; answers are cut there, too.
    """

    def __init__(self, tokenizer: Any, max_new_tokens: int, keep_reasoning: bool, context: int):
        self.tokenizer, self.keep_reasoning = tokenizer, keep_reasoning
        self.max_new_tokens, self.context = max_new_tokens, context
        self.origin = {"answered_by": "authors", **origin_of(tokenizer)}

    def answer(self, shard: OpenShard, on_done: Callable[[], None]) -> None:
        """Make the rows of every conversation; one with an answer that can't be told from its prompt, token by token,
        or with none, is a failure."""
        for number in shard.missing:
            try:
                rows = list(self.rows(shard.prompts[number]))
            except BadRow as error:
                shard.fail(number, error.reason, str(error))
            except ControlToken as error:
                shard.fail(number, "control token", str(error))
            except ValueError as error:
                shard.fail(number, "no exact answer", str(error))
            else:
                if rows:
                    shard.add(number, rows)
                else:
                    shard.fail(number, "no answer", "its author wrote none")
            on_done()

    def rows(self, conversation: Mapping[str, Any]) -> Iterator[Answer]:
        """A row per assistant's turn that has something before it, as far as the verifier reads; none of weight 0.

        Raises:
            BadRow: the first prompt leaves no room for its answer.
            ValueError: the chat template does not tell an answer from its prompt.
        """
        said = [{key: value for key, value in each.items() if key != "weight"} for each in conversation["messages"]]
        tools, found = conversation.get("tools"), 0
        for turn, message in enumerate(conversation["messages"]):
            asked = any(each["role"] == "user" for each in said[:turn])
            if message["role"] != "assistant" or message.get("weight") == 0 or not asked:
                continue
            answer = {**said[turn], "content": said[turn]["content"].strip()}
            prompt, ids = answer_ids(
                self.tokenizer, [*said[:turn], answer], keep_reasoning=self.keep_reasoning, tools=tools
            )
            room = min(self.max_new_tokens, self.context - len(prompt))
            if room < 2:  # an anchor, and a token behind it
                if found:
                    return
                raise BadRow("too long for the verifier", f"{len(prompt)} tokens, it reads {self.context}")
            made = OpenConversation(conversation["source"], conversation["kind"], said[:turn], tools)
            made.add(ids[:room], "length" if len(ids) > room else "stop", "")
            found += 1
            yield from made.rows
