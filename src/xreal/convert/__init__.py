"""Other people's checkpoints -> a model folder, strictly: every stored tensor is used, or named with the reason."""

from xreal.convert.authors import convert_authors, plan_authors
from xreal.convert.plan import Component, Plan

__all__ = ["Component", "Plan", "convert_authors", "plan_authors"]
