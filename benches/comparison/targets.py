"""What haul is to reach on the server in memory, as ratios to others and as memory."""

from typing import Literal

Measure = Literal["CPU", "wall"]

# haul takes at most so many times what the peer takes.
RATIOS: dict[tuple[str, Measure, str], float] = {
    ("small up", "CPU", "juicefs"): 0.5,
    ("small up", "wall", "juicefs"): 0.7,
    ("small no-op", "CPU", "juicefs"): 0.6,
    ("small no-op", "wall", "juicefs"): 0.7,
    ("small down", "CPU", "juicefs"): 0.5,
    ("small down", "wall", "juicefs"): 0.7,
    ("large up", "CPU", "juicefs"): 1.6,
    ("large up", "wall", "juicefs"): 1.0,
    ("large up", "CPU", "s5cmd"): 0.45,
    ("large down", "CPU", "juicefs"): 1.0,
    ("large down", "wall", "juicefs"): 1.0,
    ("mixed up", "CPU", "juicefs"): 1.0,
    ("mixed up", "wall", "juicefs"): 0.8,
    ("mixed down", "CPU", "juicefs"): 0.8,
    ("mixed down", "wall", "juicefs"): 0.8,
}
PEAK_MIB = {
    "small up": 64,
    "small no-op": 64,
    "small down": 64,
    "large up": 160,
    "large down": 160,
}
