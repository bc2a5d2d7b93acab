"""The decoder's front: arguments checked, prompts turned into rows, a batch run over them."""

import logging
from collections.abc import Callable, Sequence

import torch

from drafter.decode.checks import AUTO, check_decoder, check_generation, check_seed, ignored_settings
from drafter.decode.costs import Costs
from drafter.decode.deciding import Decider, Weight
from drafter.decode.generation import Generation
from drafter.decode.pair import Pair
from drafter.decode.prompts import read_prompts, to_answer
from drafter.decode.proposers import Proposer, SlotProposer, make_proposer
from drafter.decode.sampling import Law, whole
from drafter.decode.schemes import Branches, Chain, Scheme
from drafter.decode.slots import Listeners, Slots
from drafter.decode.text import stop_strings
from drafter.decode.tree import most_nodes
from drafter.models.base import Drafter
from drafter.verification import Rule, block_verification, match
from drafter.verifier import Verifier

log = logging.getLogger(__name__)
_told: set[str] = set()


class SpeculativeDecoder:
    """Decode with a verifier and, unless it is None, a drafter.

    Args:
        drafter: None for plain decoding by the same loop.
        rule: a verification rule or its name. `match` drafts by argmax and keeps what the verifier's own choice agrees
            with; at temperature 0 every lossless rule does just that. None: `match` at temperature 0, when sampling
            `block_verification`.
        draft_length: tokens proposed per cycle; None for the drafter's own number; `auto`: as many of those as the
            drafter's confidences and the `costs` say pay best, cycle by cycle.
        tree_nodes: drafts of a tree, verified in one pass and walked by the verifier's own tokens; `auto`: as many as
            pay best, at most as `costs` are known for; None for drafts in a row.
        verifier_weight: for the rule `dynamic_ensemble` alone: a number in [0, 1], or a function of the drafter's and
            the verifier's hidden states of the drafted slots, two [B, G, D] -> [B, G].
        costs: of passes at the batch size that will be used, as `drafter.evaluation.parts.measure_costs` finds them.
    Raises:
        ValueError: the drafter was made for another verifier, or an argument is out of range or missing.
    """

    def __init__(
        self,
        verifier: Verifier,
        drafter: Drafter | None = None,
        rule: Rule | str | None = None,
        draft_length: int | str | None = None,
        tree_nodes: int | str | None = None,
        verifier_weight: Weight | None = None,
        costs: Costs | None = None,
    ):
        if verifier.undecodable:
            raise ValueError(f"verifier: {verifier.undecodable}; it can't be decoded here, only its taps can be read")
        _tell_ignored(verifier)
        longest, usual = (0, 0) if drafter is None else (drafter.longest, drafter.draft_length)
        self.rule = check_decoder(longest, usual, rule, draft_length, tree_nodes, verifier_weight, costs)
        asked = whole(draft_length)
        self.draft_length = usual if asked is None else asked
        self.verifier, self.verifier_weight = verifier, verifier_weight
        self.drafter = drafter if self.draft_length else None
        self.costs = costs if AUTO in (draft_length, tree_nodes) else None
        self.tree_nodes = 0
        self.proposer: Proposer | None = None
        self._kept: Pair | None = None
        if self.drafter is not None:
            self.drafter.check_verifier(verifier)
            self.proposer = make_proposer(verifier, self.drafter, self.draft_length)
            self.rule = self.proposer.check_rule(self.rule)
            self.tree_nodes = self._nodes(tree_nodes)

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
            seed: one for all, or one for each prompt. What a prompt becomes follows from its seed (its index, where
                they share one), whatever else is asked beside it, unless draft lengths or trees are `auto`, which
                choose one number for the batch.
            stop: strings that end an answer, wherever tokens cut them; the text ends before the string, the token ids
                with the token in which it completes.
            on_tokens: called with a prompt's index and its new tokens after each cycle (streaming).
            on_text: called with a prompt's index and its new text: whole characters, and nothing that may turn out to
                begin a stop string.
            on_end: called with a prompt's index and its Generation when it ends.
        Returns:
            one Generation per prompt, in order. A prompt that can't run says so in `stop`; the others go on.
        Raises:
            ValueError: an argument is out of range, text is asked for without a tokenizer, or logits are no numbers.
        """
        check_generation(max_new_tokens, batch_size, temperature, top_p, top_k)
        seeds, law = check_seed(seed, len(prompts)), Law(float(temperature), float(top_p), int(top_k))
        if self.proposer is not None:
            self.proposer.check_law(law)
        strings = stop_strings(stop)
        reads = bool(strings or on_text)
        if reads and self.verifier.tokenizer is None:
            raise ValueError("stop, on_text: the verifier has no tokenizer; use token ids alone")
        verifier, tokenizer = self.verifier, self.verifier.tokenizer
        vocabulary, context = verifier.head.shape[0], verifier.context_length
        if self.drafter is not None and self.drafter.context_length is not None:
            context = min(context, self.drafter.context_length)
        rows = read_prompts(prompts, tokenizer, vocabulary, context, max_new_tokens)
        waiting = to_answer(rows, tokenizer if reads else None, strings, on_end)
        rule = self.rule or (match if temperature == 0 or self.tree_nodes else block_verification)
        decider = Decider(verifier, self.proposer, rule, law, seeds, self.verifier_weight, len(rows), max_new_tokens)
        if waiting:
            size = min(batch_size, len(waiting))
            pair = self._pair(size, max(len(row.prompt) for row in waiting) + max_new_tokens)
            listeners = Listeners(on_tokens, on_text, on_end)
            scheme = self._scheme(pair, decider, max_new_tokens)
            fixed = bool(verifier.replayed)
            Slots(scheme, size, max_new_tokens, verifier.stop_ids, listeners, fixed).run(waiting)
            self._kept = pair if verifier.replayed else None
        return [row.result for row in rows]

    def _nodes(self, wanted: int | str | None) -> int:
        """Nodes of a tree, at most; 0 for drafts in a row."""
        if wanted is None:
            return 0
        if not isinstance(self.proposer, SlotProposer):
            raise ValueError(f"tree_nodes={wanted}: this drafter's slots depend on each other; leave it out")
        most = most_nodes(self.draft_length, self.proposer.choices)
        if self.verifier.recurrent:
            raise ValueError(f"tree_nodes={wanted}: the verifier's recurrent layers read no tree; leave it out")
        nodes = whole(wanted)
        if nodes is not None and nodes > most:
            raise ValueError(f"tree_nodes={wanted}: a tree of that depth and vocabulary has at most {most}")
        if nodes is not None:
            return nodes
        return min(most, len(self.costs.verify) - 1) if self.costs is not None else 0

    def _pair(self, size: int, tokens: int) -> Pair:
        """Both models' memory; that of the last call with its graphs, if it was kept and is large enough."""
        kept, self._kept = self._kept, None
        if kept is not None and kept.size == size and kept.tokens >= tokens:
            return kept
        return Pair(self.verifier, self.proposer, size, tokens, 1 + max(self.draft_length, self.tree_nodes))

    def _scheme(self, pair: Pair, decider: Decider, limit: int) -> Scheme:
        if isinstance(self.proposer, SlotProposer) and self.tree_nodes:
            return Branches(pair, self.proposer, decider, self.tree_nodes, self.costs)
        return Chain(pair, decider, limit, self.costs)


def _tell_ignored(verifier: Verifier) -> None:
    """Say once what the verifier's generation config asks for in vain."""
    ignored = ", ".join(f"{name}={value}" for name, value in ignored_settings(verifier.model.generation_config).items())
    if ignored and ignored not in _told:
        _told.add(ignored)
        log.warning("verifier: its generation config asks for %s: not applied, answers follow the plain law", ignored)
