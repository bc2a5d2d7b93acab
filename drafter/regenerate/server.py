"""Answers of an OpenAI-compatible server: many requests at a time, failures counted row by row."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

from drafter.answers import OpenShard
from drafter.config import ServerConfig
from drafter.engine.client import FIRST_WAIT, Client, Failure
from drafter.engine.parallel import Patience, in_parallel
from drafter.regenerate.conversation import OpenConversation, answer_seed, origin_of
from drafter.regenerate.reply import Reply, read_reply
from drafter.verifier.chat import prompt_ids, turn_end
from drafter.verifier.thoughts import hides_thoughts


class ServerAnswerer:
    """Answers by `<url>/chat/completions`.

    What a server samples for a seed can depend on what else it answers; greedy answers too, where logits tie to its
    precision.

    Args:
        tokenizer: the verifier's.
        temperature: 0 is greedy.
        seed: with a prompt's index and the turn, the seed sent with its request.
        first_wait: seconds before a second try.
    Raises:
        ValueError: the environment lacks the key, or the chat template has no end of turn.
    """

    def __init__(
        self,
        settings: ServerConfig,
        tokenizer: Any,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        keep_reasoning: bool = True,
        first_wait: float = FIRST_WAIT,
    ):
        self.settings, self.tokenizer, self.seed, self.keep_reasoning = settings, tokenizer, seed, keep_reasoning
        self.end = turn_end(tokenizer)
        if keep_reasoning and not settings.token_ids and hides_thoughts(tokenizer):
            raise ValueError(
                "data.server.token_ids=False: <think> is a special token of the verifier's, which the text of a reply "
                "lacks; set true (vLLM), or data.keep_reasoning=false"
            )
        self.client = Client.of(settings, first_wait)
        self.body: dict[str, Any] = {"model": settings.model, "max_tokens": max_new_tokens, "temperature": temperature}
        self.body |= {"top_p": top_p} if temperature > 0 else {}
        self.body |= {"return_token_ids": True} if settings.token_ids else {}
        self.body |= {} if keep_reasoning else {"chat_template_kwargs": {"enable_thinking": False}}
        self.body |= settings.extra
        self.origin = {"server_model": settings.model, **origin_of(tokenizer)}
        self._patience = Patience(f"data.server.url={settings.url!r}", settings.concurrency)

    def answer(self, shard: OpenShard, on_done: Callable[[], None]) -> None:
        """Answer what a shard misses.

        Raises:
            ValueError: the server refuses every request, reads prompts otherwise than the tokenizer here, or fails
                many times in a row; what is answered by then is kept.
        """
        patience, settings = self._patience, self.settings

        def converse(number: int) -> tuple[OpenConversation, int]:
            return self._converse(OpenConversation.of(shard.prompts[number]), shard.first + number)

        answered = in_parallel(converse, shard.missing, settings.concurrency, self.client.abort)
        with closing(answered):
            for number, found in answered:
                if isinstance(found, Failure):
                    shard.fail(number, found.reason, found.detail)
                    patience.failed(found)
                else:
                    conversation, retokenised = found
                    shard.add(number, conversation.rows, retokenised=retokenised)
                    patience.succeeded()
                on_done()

    def _converse(self, conversation: OpenConversation, index: int) -> tuple[OpenConversation, int]:
        """All turns of a conversation; with it, how many answers were tokenised otherwise here."""
        retokenised, turn, more = 0, 0, True
        while more:
            try:
                reply = self._ask(conversation, index, turn)
            except Failure as failure:
                if failure.transient or not conversation.rows:
                    raise
                break  # no room for another turn, most likely: the turns before are answered
            more = conversation.add(reply.ids, reply.stop, reply.text)
            retokenised, turn = retokenised + reply.retokenised, turn + 1
        return conversation, retokenised

    def _ask(self, conversation: OpenConversation, index: int, turn: int) -> Reply:
        body = {**self.body, "messages": conversation.messages}
        body |= {"tools": conversation.tools} if conversation.tools else {}
        if self.body["temperature"] > 0:
            body["seed"] = answer_seed(self.seed, index, turn, bits=31)
        asked = prompt_ids(
            self.tokenizer, conversation.messages, tools=conversation.tools, keep_reasoning=self.keep_reasoning
        )

        def read(reply: dict[str, Any]) -> Reply:
            return read_reply(reply, self.tokenizer, self.end, self.settings.token_ids)

        reply = self.client.post("chat/completions", body, read)
        if self.settings.check_prompts and (differs := reply.differs(asked)):
            raise ValueError(
                f"data.server.model={self.settings.model!r}: {differs}; serve the same model with the same template, "
                "or set data.server.check_prompts=false"
            )
        return reply
