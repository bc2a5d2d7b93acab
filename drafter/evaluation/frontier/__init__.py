"""The map of what relaxing verification costs: ways of decoding the same tasks, measured alike."""

from drafter.evaluation.frontier.heads import families, gains, said
from drafter.evaluation.frontier.picture import is_static, plot
from drafter.evaluation.frontier.points import COLUMNS, Point, Setting, gain_over, measure
from drafter.evaluation.frontier.ways import Way, usual_ways

__all__ = [
    "COLUMNS",
    "Point",
    "Setting",
    "Way",
    "families",
    "gain_over",
    "gains",
    "is_static",
    "measure",
    "plot",
    "said",
    "usual_ways",
]
