"""The map of what relaxing verification costs: ways of decoding the same tasks, measured alike."""

from drafter.evaluation.frontier.heads import families, gains
from drafter.evaluation.frontier.page import add_map, findings, map_page
from drafter.evaluation.frontier.points import COLUMNS, Point, Setting, gain_over, is_static, measure
from drafter.evaluation.frontier.ways import Way, usual_ways

__all__ = [
    "COLUMNS",
    "Point",
    "Setting",
    "Way",
    "add_map",
    "families",
    "findings",
    "gain_over",
    "gains",
    "is_static",
    "map_page",
    "measure",
    "usual_ways",
]
