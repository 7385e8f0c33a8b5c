"""The chart of RESULTS.md: the CPU of each peer as a multiple of haul's, drawn by hand as SVG."""

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

from .measure import Usage
from .report import Medians
from .session import Cell
from .tools import RCLONE_CHECKSUM

# Middling tones, for both a light and a dark page; the background is the page's own.
COLOURS = {
    "juicefs": "#3f8fd2",
    "s5cmd": "#d9822b",
    "rclone": "#9a6fd0",
    RCLONE_CHECKSUM: "#c65b9b",
}
INK = "#808894"
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 200, 64, 58, 34
BAR, BAR_GAP, GROUP_GAP = 11, 2, 14
# Below it, hundredths matter.
FEW = 10
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Group:
    """The bars of one job."""

    title: str
    haul: Usage
    ratios: dict[str, float]

    @property
    def height(self) -> int:
        return max(len(self.ratios) * (BAR + BAR_GAP), 2 * BAR + 6)


@dataclass(frozen=True)
class Scale:
    """From a ratio to where it stands; equal factors are equally wide."""

    low: float
    high: float

    def __call__(self, ratio: float) -> float:
        share = math.log(ratio / self.low) / math.log(self.high / self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def draw(medians: Medians, titles: dict[str, str]) -> str:
    """The whole SVG."""
    groups = _groups(medians, titles)
    ratios = [ratio for group in groups for ratio in group.ratios.values()]
    scale = Scale(min(0.8, *ratios) / 1.1, max(2.0, *ratios) * 1.05)
    height = TOP + sum(group.height + GROUP_GAP for group in groups) + BOTTOM
    shapes = [*_legend(groups), *_axis(scale, height - BOTTOM)]
    top = TOP + GROUP_GAP // 2
    for group in groups:
        shapes += _bars(group, scale, top)
        top += group.height + GROUP_GAP
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" '
        f'font-size="12" fill="{INK}" role="img">'
    )
    title = "<title>CPU seconds of each tool, as a multiple of haul's</title>"
    return "\n".join([opening, title, *shapes, "</svg>", ""])


def _groups(medians: Medians, titles: dict[str, str]) -> list[Group]:
    groups = []
    for job in dict.fromkeys(cell.job for cell in medians):
        haul = medians[Cell(job, "haul")]
        ratios = {
            cell.tool: usage.cpu_seconds / haul.cpu_seconds
            for cell, usage in medians.items()
            if cell.job == job and cell.tool != "haul"
        }
        groups.append(Group(titles.get(job, job), haul, ratios))
    return groups


def _legend(groups: list[Group]) -> list[str]:
    caption = "CPU seconds as a multiple of haul's: to the right of the line, more"
    shapes, left = [_text(LEFT, 18, caption)], LEFT
    for tool in dict.fromkeys(tool for group in groups for tool in group.ratios):
        shapes.append(_rectangle(left, 29, 11, 11, COLOURS[tool]))
        shapes.append(_text(left + 16, 39, tool))
        left += 40 + 7 * len(tool)
    return shapes


def _axis(scale: Scale, bottom: int) -> list[str]:
    shapes = []
    for tick in TICKS:
        if not scale.low <= tick <= scale.high:
            continue
        place, opacity = scale(tick), 1 if tick == 1 else 0.25
        line = f"M{place:.1f} {TOP - 6}V{bottom}"
        shapes.append(f'<path d="{line}" stroke="{INK}" stroke-opacity="{opacity}"/>')
        label = "haul" if tick == 1 else f"{tick:g}×"
        shapes.append(_text(place, bottom + 18, label, "middle"))
    return shapes


def _bars(group: Group, scale: Scale, top: int) -> list[str]:
    middle = top + group.height / 2
    shapes = [
        _text(LEFT - 12, middle - 2, group.title, "end"),
        _text(LEFT - 12, middle + 13, f"haul {group.haul.cpu_seconds:.2f} s", "end", "10"),
    ]
    one = scale(1)
    for tool, ratio in group.ratios.items():
        end = scale(ratio)
        shapes.append(_rectangle(min(one, end), top, abs(end - one), BAR, COLOURS[tool]))
        # Where a bar goes to the left, its number stands right of the line.
        shapes.append(_text(max(one, end) + 5, top + BAR - 1.5, _multiple(ratio), size="10"))
        top += BAR + BAR_GAP
    return shapes


def _multiple(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < FEW else f"{ratio:.1f}×"


def _rectangle(left: float, top: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(width, 1):.1f}" height="{height}" '
        f'rx="1.5" fill="{colour}"/>'
    )


def _text(left: float, bottom: float, text: str, anchor: str = "start", size: str = "12") -> str:
    return (
        f'<text x="{left:.1f}" y="{bottom:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
