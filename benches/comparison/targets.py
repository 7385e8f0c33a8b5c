"""What haul is to reach on the server in memory, as ratios to others and as memory."""

from dataclasses import dataclass
from typing import Literal

Measure = Literal["CPU", "wall"]


@dataclass(frozen=True)
class RatioTarget:
    """haul takes at most `limit` times what the peer takes."""

    job: str
    measure: Measure
    peer: str
    limit: float


RATIOS = (
    RatioTarget("small up", "CPU", "juicefs", 0.5),
    RatioTarget("small up", "wall", "juicefs", 0.7),
    RatioTarget("small no-op", "CPU", "juicefs", 0.6),
    RatioTarget("small no-op", "wall", "juicefs", 0.7),
    RatioTarget("small down", "CPU", "juicefs", 0.5),
    RatioTarget("small down", "wall", "juicefs", 0.7),
    RatioTarget("large up", "CPU", "juicefs", 1.6),
    RatioTarget("large up", "wall", "juicefs", 1.0),
    RatioTarget("large up", "CPU", "s5cmd", 0.45),
    RatioTarget("large down", "CPU", "juicefs", 1.0),
    RatioTarget("large down", "wall", "juicefs", 1.0),
    RatioTarget("mixed up", "CPU", "juicefs", 1.0),
    RatioTarget("mixed down", "CPU", "juicefs", 0.8),
)
PEAK_MIB = {
    "small up": 64,
    "small no-op": 64,
    "small down": 64,
    "large up": 160,
    "large down": 160,
}


def ratio_limit(job: str, measure: Measure, peer: str) -> float | None:
    """The limit of one ratio, if it has one."""
    limits = {(each.job, each.measure, each.peer): each.limit for each in RATIOS}
    return limits.get((job, measure, peer))
