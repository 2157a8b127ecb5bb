"""Who is in the next step of the diffusion loop; the README says by what rules."""

from .candidates import Candidate, StepCosts
from .costs import ProfiledCosts
from .scheduler import DEFAULT_TIER_WEIGHTS, RowScheduler

__all__ = ["DEFAULT_TIER_WEIGHTS", "Candidate", "ProfiledCosts", "RowScheduler", "StepCosts"]
