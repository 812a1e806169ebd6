"""Progress of the commands that do many things of one kind."""

import sys

from .words import duration


class Counting:
    """A progress bar over things that are done one by one, on a terminal; a line now and then elsewhere.

    Called with those done, those in all, and the seconds so far.

    Args:
        doing, done: What happens to them, such as "tracing" and "traced".
        things: What they are, such as "realisations".
    """

    def __init__(self, doing: str, done: str, things: str):
        self._doing, self._done, self._things = doing, done, things

    def __enter__(self):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._terminal, self._told, self._first = console.is_terminal, 0.0, None
        columns = (TextColumn(f"{self._doing} {self._things}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not self._terminal,
        )
        self._task = self._bar.add_task(self._doing, total=None)
        self._bar.start()
        return self

    def __call__(self, done: int, total: int, seconds: float) -> None:
        # The first one compiles, and those that were there took nothing.
        if self._first is None:
            self._first = (done, seconds)
        self._bar.update(self._task, completed=done, total=total)
        if not self._terminal and (seconds - self._told > 30 or done == total):
            self._told = seconds
            steps, spent = done - self._first[0], seconds - self._first[1]
            left = f", {duration((total - done) * spent / steps)} left" if steps and done < total else ""
            print(f"{self._done:<17}{done} of {total} {self._things} in {seconds:.0f} s{left}", file=sys.stderr)

    def __exit__(self, *_):
        self._bar.stop()
