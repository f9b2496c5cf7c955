"""Which of how many processes this is, as torchrun and `accelerate launch` tell it in the environment."""

from __future__ import annotations

import os


def size() -> int:
    """How many processes train together; 1 unless a launcher started several."""
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, counted from 0; process 0 writes and speaks for all."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def left_alone() -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes: it then starts one, and says nothing."""
    return (
        os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        and "MASTER_ADDR" in os.environ
        and not any(name.endswith(("RANK", "PMI_SIZE", "WORLD_SIZE")) for name in os.environ)
    )
