"""Answers of the verifier here: batched by length, with its cache, greedy or sampled."""

from collections.abc import Callable
from typing import Any

from drafter.answers import OpenShard
from drafter.config import require
from drafter.decode import Generation, SpeculativeDecoder
from drafter.regenerate.conversation import OpenConversation, answer_seed, origin_of
from drafter.verifier import Verifier, VerifierHead
from drafter.verifier.chat import spoken


class LocalAnswerer:
    """Answers by a loaded verifier.

    Every prompt's random numbers are its own, so neither the batch nor a kill decides what is sampled. What remains is
    arithmetic: sums of floats differ in their last bits between batches, so that a greedy token can change where the
    two best logits are one number to that precision, and a sampled one where its random number falls between two.

    Args:
        temperature: 0 is greedy.
        seed: with a prompt's index and the turn, the seed of its answer.
    """

    def __init__(
        self,
        verifier: Verifier,
        max_new_tokens: int,
        batch_size: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ):
        self.verifier, self.seed = verifier, seed
        self.settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "temperature": temperature,
            "top_p": top_p,
        }
        self.origin = {
            "verifier": verifier.fingerprint(),
            "verifier_ends": VerifierHead.fingerprint(verifier),
            "dtype": str(verifier.dtype).removeprefix("torch."),
            **origin_of(verifier.tokenizer),
        }

    def answer(self, shard: OpenShard, on_done: Callable[[], None]) -> None:
        """Answer what a shard misses: first turns together, then second ones.

        Raises:
            ValueError: a prompt and its answer exceed the verifier's context; before anything is answered.
        """
        open_ones = {number: OpenConversation.of(shard.prompts[number]) for number in shard.missing}
        turn = 0
        while open_ones:
            open_ones = self._round(shard, open_ones, turn, on_done)
            turn += 1

    def _round(
        self, shard: OpenShard, conversations: dict[int, OpenConversation], turn: int, on_done: Callable[[], None]
    ) -> dict[int, OpenConversation]:
        """Answer the next turn of each conversation; returns those that have another."""
        questions = {number: self.verifier.chat_ids(one.messages, one.tools) for number, one in conversations.items()}
        order = sorted(questions, key=lambda number: -len(questions[number]))  # what fills the memory comes first
        if turn == 0:
            self._check_length(len(questions[order[0]]))
        going_on: dict[int, OpenConversation] = {}

        def keep(position: int, generation: Generation) -> None:
            number = order[position]
            conversation, ids = conversations[number], generation.token_ids
            if generation.stop not in ("stop", "length"):
                return
            if conversation.add(ids, generation.stop, spoken(self.verifier.tokenizer, ids)):
                going_on[number] = conversation
            else:
                shard.add(number, conversation.rows)
                on_done()

        generations = SpeculativeDecoder(self.verifier, rule="shared_noise").generate(
            [questions[number] for number in order],
            seed=[answer_seed(self.seed, shard.first + number, turn, bits=56) for number in order],
            on_end=keep,
            **self.settings,
        )
        for number, generation in zip(order, generations, strict=True):
            if generation.stop not in ("stop", "length"):
                if conversations[number].rows:  # the context is full: the turns before are answered
                    shard.add(number, conversations[number].rows)
                else:
                    shard.fail(number, "refused", generation.stop)
                on_done()
        return going_on

    def _check_length(self, longest: int) -> None:
        context, new = self.verifier.context_length, self.settings["max_new_tokens"]
        remedy = f"a prompt has {longest} tokens, the verifier's context is {context}"
        fits = longest + new <= context
        require(fits, "data.max_new_tokens", new, f"{remedy}; lower it or leave out long prompts")
