"""What happened to the examples of a run, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """What happened to the examples so far; an example is counted again in every epoch.

    Attributes:
        n_seen: taken from the stream.
        n_scored: whose forward pass was paid for before the decision.
        n_trained: that went through a train step.
        n_steps: optimizer steps.
        n_skipped_backward: scored, then not trained.
        n_skipped_both: neither scored nor trained.
        n_steps_reference, n_trained_reference: of those, made by a model that was given up.
        n_left: chosen, but there was no time left for them.
        first_step_s: when the first optimizer step began.
    """

    n_seen: int = 0
    n_scored: int = 0
    n_trained: int = 0
    n_steps: int = 0
    n_skipped_backward: int = 0
    n_skipped_both: int = 0
    n_steps_reference: int = 0
    n_trained_reference: int = 0
    n_left: int = 0
    first_step_s: float | None = None

    @property
    def n_skipped(self) -> int:
        """Examples that were not trained."""
        return self.n_skipped_backward + self.n_skipped_both

    def totals(self) -> dict[str, int]:
        """Return the counts that every line of a history carries."""
        return {
            "n_seen": self.n_seen,
            "n_scored": self.n_scored,
            "n_trained": self.n_trained,
            "n_skipped_backward": self.n_skipped_backward,
            "n_skipped_both": self.n_skipped_both,
        }
