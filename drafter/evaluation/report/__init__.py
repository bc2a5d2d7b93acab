"""Reports that a browser opens from the disk: one page, one style of picture."""

from drafter.evaluation.report.page import Page
from drafter.evaluation.report.picture import Picture

__all__ = ["Page", "Picture"]
