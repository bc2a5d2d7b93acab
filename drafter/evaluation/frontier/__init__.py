"""The map of what relaxing verification costs: ways of decoding the same tasks, measured alike."""

from drafter.evaluation.frontier.gains import families, gain_over, gains
from drafter.evaluation.frontier.kept import Kept
from drafter.evaluation.frontier.measuring import measure
from drafter.evaluation.frontier.page import add_map, findings, map_page
from drafter.evaluation.frontier.points import COLUMNS, Point, Setting
from drafter.evaluation.frontier.ways import Way, chosen, usual_ways

__all__ = [
    "COLUMNS",
    "Kept",
    "Point",
    "Setting",
    "Way",
    "add_map",
    "chosen",
    "families",
    "findings",
    "gain_over",
    "gains",
    "map_page",
    "measure",
    "usual_ways",
]
