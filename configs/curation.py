"""The settings about what happens to original pairs before anything is trained on them."""

from typing import Annotated, Literal

from pydantic import Field

from configs.fields import Section


class CurationConfig(Section):
    """What happens to original pairs that are there twice, that contradict each other, or that nearly give away what is held out. The
    stage `data` enters each removal in its ledger, and `loop data` shows it without a run."""

    duplicates: Literal["keep", "remove"] = "keep"
    """The same judgment of the same two completions again: `remove` leaves out all but the first. Judgments by different raters are
    not duplicates."""
    raters: Literal["keep", "majority"] = "keep"
    """Several raters' judgments of the same two completions: `keep` trains on each of them, `majority` on one row with the verdict that
    most raters gave. Without such a verdict, the pair is removed."""
    contradictions: Literal["keep", "remove", "move", "majority"] = "keep"
    """Pairs of which one row prefers one completion, and another row the other one: `remove` leaves out all rows of the pair, `move` uses
    only their prompt, which the policy answers anew, and `majority` leaves out the rows that are outvoted, or all if there is no
    majority."""
    near_heldout: Literal["ignore", "report", "remove"] = "report"
    """Training prompts that are nearly equal to a held-out one: `report` counts them, and `remove` leaves them out with their pairs.
    `ignore` saves the time that it takes to look for them."""
    near_threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """How similar nearly equal texts are: the share of all their sequences of five characters that both have (Jaccard similarity),
    estimated by MinHash."""
