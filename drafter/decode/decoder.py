"""The decoder's front: arguments checked, prompts turned into rows, a batch run over them."""

from collections import deque
from collections.abc import Callable, Sequence
from operator import index as integer

import torch

from drafter.decode.batch import Batch, Listeners
from drafter.decode.branches import Branches
from drafter.decode.chain import Chain
from drafter.decode.checks import AUTO, check_decoder, check_generation
from drafter.decode.costs import Costs
from drafter.decode.deciding import Decider, Weight
from drafter.decode.drafting import Proposer
from drafter.decode.generation import Generation
from drafter.decode.pair import Pair
from drafter.decode.row import Row
from drafter.decode.text import Transcript, stop_strings
from drafter.decode.tree import most_nodes
from drafter.models import BlockDiffusionDrafter
from drafter.verification import Rule, block_verification, match, needs
from drafter.verifier import Verifier


class SpeculativeDecoder:
    """Decode with a verifier and, unless it is None, a drafter.

    Args:
        drafter: None for plain decoding by the same loop.
        rule: a verification rule or its name. `match` drafts by argmax and keeps what the verifier's own choice agrees
            with; at temperature 0 every lossless rule does just that. None: `match` at temperature 0, when sampling
            `block_verification`.
        draft_length: tokens proposed per cycle, at most the trained one; None for the trained one; `auto`: as many as
            the drafter's confidences and the `costs` say pay best, cycle by cycle.
        tree_nodes: drafts of a tree, verified in one pass and walked by the verifier's own tokens; `auto`: as many as
            pay best, at most as `costs` are known for; None for drafts in a row.
        verifier_weight: for the rule `dynamic_ensemble` alone: a number in [0, 1], or a function of the drafter's and
            the verifier's hidden states of the drafted slots, two [B, G, D] -> [B, G].
        costs: of passes at the batch size that will be used, as `drafter.evaluation.timing.measure_costs` finds them.
    Raises:
        ValueError: the drafter was made for another verifier, or an argument is out of range or missing.
    """

    def __init__(
        self,
        verifier: Verifier,
        drafter: BlockDiffusionDrafter | None = None,
        rule: Rule | str | None = None,
        draft_length: int | str | None = None,
        tree_nodes: int | str | None = None,
        verifier_weight: Weight | None = None,
        costs: Costs | None = None,
    ):
        longest = 0 if drafter is None else drafter.block_size - 1
        self.rule = check_decoder(longest, rule, draft_length, tree_nodes, verifier_weight, costs)
        self.draft_length = draft_length if isinstance(draft_length, int) else longest
        self.verifier, self.verifier_weight = verifier, verifier_weight
        self.drafter = drafter if self.draft_length else None
        self.costs = costs if AUTO in (draft_length, tree_nodes) else None
        self.tree_nodes = 0
        self.proposer: Proposer | None = None
        self._kept: Pair | None = None
        if self.drafter is not None:
            self.drafter.check_verifier(verifier)
            self.proposer = Proposer(verifier, self.drafter, self.draft_length)
            most = most_nodes(self.draft_length, len(self.proposer.head.weight))
            if isinstance(tree_nodes, int) and tree_nodes > most:
                raise ValueError(f"tree_nodes={tree_nodes}: a tree of that depth and vocabulary has at most {most}")
            if isinstance(tree_nodes, int):
                self.tree_nodes = tree_nodes
            elif tree_nodes == AUTO and costs is not None:
                self.tree_nodes = min(most, len(costs.verify) - 1)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | Sequence[int] = 0,
        batch_size: int = 1,
        stop: str | Sequence[str] = (),
        on_tokens: Callable[[int, list[int]], None] | None = None,
        on_text: Callable[[int, str], None] | None = None,
        on_end: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer prompts (text, or token ids), `batch_size` at a time; a finished row makes room for the next.

        Args:
            seed: with the rule shared_noise also one per prompt: what a prompt becomes is then a function of its own
                seed, whatever else is asked.
            stop: strings that end an answer, wherever tokens cut them; the text ends before the string, the token ids
                with the token in which it completes.
            on_tokens: called with a prompt's index and its new tokens after each cycle (streaming).
            on_text: called with a prompt's index and its new text: whole characters, and nothing that may turn out to
                begin a stop string.
            on_end: called with a prompt's index and its Generation when it ends.
        Returns:
            one Generation per prompt, in order. A prompt that can't run says so in `stop`; the others go on.
        Raises:
            ValueError: an argument is out of range, or text is asked for without a tokenizer.
        """
        check_generation(max_new_tokens, batch_size, temperature, top_p, top_k)
        keeps_noise = self.rule is not None and "noise" in needs(self.rule)
        if not isinstance(seed, int) and not (keeps_noise and len(seed) == len(prompts)):
            raise ValueError(
                f"seed: {len(seed)} for {len(prompts)} prompts; give one for each and use rule 'shared_noise', or give "
                "one for all"
            )
        strings = stop_strings(stop)
        reads = bool(strings or on_text)
        if reads and self.verifier.tokenizer is None:
            raise ValueError("stop, on_text: the verifier has no tokenizer; use token ids alone")
        rows, waiting = [], deque[Row]()
        vocabulary, context = self.verifier.head.shape[0], self.verifier.config.max_position_embeddings
        for index, prompt in enumerate(prompts):
            ids, reason = self._read(prompt, max_new_tokens, vocabulary, context)
            row = Row(index, ids, Generation(stop=reason))
            row.transcript = Transcript(self.verifier.tokenizer, strings) if reads else None
            rows.append(row)
            if row.ended:
                if on_end is not None:
                    on_end(index, row.result)
            else:
                waiting.append(row)
        rule = self.rule or (match if temperature == 0 or self.tree_nodes else block_verification)
        settings = (temperature, top_p, top_k)
        decider = Decider(
            self.verifier, self.proposer, rule, settings, seed, self.verifier_weight, len(rows), max_new_tokens
        )
        if waiting:
            size, longest = min(batch_size, len(waiting)), max(len(row.prompt) for row in waiting)
            block = 1 if self.drafter is None else max(self.drafter.block_size, 1 + self.tree_nodes)
            pair = self._pair(size, longest + max_new_tokens + block)
            scheme: Chain | Branches = Chain(pair, decider, max_new_tokens, self.costs)
            if self.proposer is not None and self.tree_nodes:
                scheme = Branches(pair, self.proposer, decider, self.tree_nodes, self.costs)
            listeners = Listeners(on_tokens, on_text, on_end)
            Batch(pair, decider, scheme, listeners, size, max_new_tokens).run(waiting)
            self._kept = pair if self.verifier.replayed else None
        return [row.result for row in rows]

    def _pair(self, size: int, capacity: int) -> Pair:
        """Caches; those of the last call with their graphs, if they were kept and are large enough."""
        kept, self._kept = self._kept, None
        if kept is not None and kept.cache.batch == size and kept.cache.capacity >= capacity:
            return kept
        return Pair(self.verifier, self.proposer, size, capacity)

    def _read(
        self, prompt: str | Sequence[int], max_new_tokens: int, vocabulary: int, context: int
    ) -> tuple[list[int], str]:
        """Token ids of a prompt, and why it can't run, or nothing."""
        if isinstance(prompt, str) and self.verifier.tokenizer is None:
            return [], "the prompt is text, and the verifier has no tokenizer"
        try:
            words = self.verifier.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            ids = [integer(token) for token in words]
        except (TypeError, ValueError) as error:  # no text that a tokenizer takes, or no ids
            return [], f"the prompt can't be read ({error})"
        if not ids:
            return ids, "the prompt is empty"
        if outside := [token for token in ids if not 0 <= token < vocabulary]:
            return ids, f"prompt token {outside[0]} is no id of the verifier, 0 to {vocabulary - 1}"
        if len(ids) + max_new_tokens > context:
            reason = f"{len(ids)} prompt tokens + max_new_tokens={max_new_tokens} exceed the context of {context}"
            return ids, reason
        return ids, ""
