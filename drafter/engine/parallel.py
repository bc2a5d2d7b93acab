"""Many requests at a time, bounded; a run in which nothing succeeds any longer ends."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from drafter.engine.client import Failure

Item = TypeVar("Item")
Result = TypeVar("Result")

LEAST_PATIENCE = 8


def in_parallel(
    work: Callable[[Item], Result], items: Iterable[Item], concurrency: int, abort: Callable[[], None]
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """`work` of every item, so many at a time, as they end; items are taken as there is room for them.

    Any exception but a Failure, in `work` or where the results are read, ends all of it.

    Args:
        abort: ends the work that is under way.
    Returns:
        pairs of an item and what became of it.
    """
    waiting = iter(items)
    running: dict[Future[Result], Item] = {}
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            while True:
                for item in islice(waiting, 2 * concurrency - len(running)):  # no thread waits for its next one
                    running[pool.submit(work, item)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item = running.pop(future)
                    try:
                        result: Result | Failure = future.result()
                    except Failure as failure:
                        result = failure
                    yield item, result
        except BaseException:
            abort()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Patience:
    """How many requests in a row may fail: a server that is down fails all of them, and one that is asked in a way that
    it does not understand has never answered.

    Args:
        where: names the server, for the error.
    """

    def __init__(self, where: str, concurrency: int):
        self.where, self.most = where, max(LEAST_PATIENCE, 2 * concurrency)
        self.in_a_row, self.answered = 0, False

    def succeeded(self) -> None:
        self.in_a_row, self.answered = 0, True

    def failed(self, failure: Failure) -> None:
        """Count a failure.

        Raises:
            ValueError: that is enough.
        """
        self.in_a_row += 1
        if self.in_a_row >= self.most and (failure.transient or not self.answered):
            raise ValueError(
                f"{self.where}: {self.in_a_row} prompts in a row have no answer, the last for {failure}; what is "
                "answered is kept: mend it and run the same command again"
            )
