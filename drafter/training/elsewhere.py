"""Taps of a run that are made elsewhere: opened, and looked at before a step is trained."""

from collections.abc import Sequence

import torch

from drafter.config import AlignmentConfig
from drafter.data.rows import Row
from drafter.taps import StateFiles, StateServer, TapsElsewhere
from drafter.taps.trust import check_states
from drafter.verifier import VerifierHead


def states_of(config: AlignmentConfig, verifier: VerifierHead, tap_layers: Sequence[int]) -> StateFiles | StateServer:
    """Where the hidden states of a run's rows are, as `data.taps` says: in files, or with a server.

    Raises:
        ValueError: a file is none, or the environment lacks a key.
    """
    width = int(verifier.config.hidden_size)
    if config.data.taps == "files":
        return StateFiles(config.data.tap_files, tap_layers, width)
    last = "prenorm" if config.asks_last else "none"
    return StateServer(config.data.tap_engine, config.served_as, tap_layers, last, width)


def taps_elsewhere(
    config: AlignmentConfig,
    states: StateFiles | StateServer,
    verifier: VerifierHead,
    rows: Sequence[Row],
    tap_layers: Sequence[int],
    final: bool,
    dtype: torch.dtype,
) -> TapsElsewhere:
    """Taps of rows, a few of them compared with the verifier, or with what must hold of them.

    Raises:
        ValueError: the states are not there, or not what they should be; one line.
    """
    if isinstance(states, StateFiles):
        states.require(rows)
    taps = TapsElsewhere(states, verifier, rows, tap_layers, final, dtype)
    greedy = config.data.temperature == 0 and config.data.answered_by == "verifier"
    check_states(taps, verifier, rows, greedy)
    return taps
