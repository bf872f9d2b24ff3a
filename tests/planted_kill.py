"""A training that is killed at a step of the test's choice."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

from torch.optim.optimizer import register_optimizer_step_post_hook


class Killed(Exception):
    pass


class KillsAt:
    """A display that stops the work after so many steps, as a kill would."""

    def __init__(self, at):
        self.at, self.done = at, []

    @contextmanager
    def task(self, description, total):
        def advance(amount):
            self.done.append(amount)
            if sum(self.done) == self.at:
                raise Killed

        yield advance


@contextmanager
def killed_after(steps):
    """Kill the work right after so many steps of its optimisers, in the midst of whatever it does."""
    count = itertools.count(1)

    def stop(*_):
        if next(count) == steps:
            raise Killed

    handle = register_optimizer_step_post_hook(stop)
    try:
        yield lambda: next(count) - 1
    finally:
        handle.remove()
