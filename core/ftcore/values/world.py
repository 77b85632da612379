"""The processes that train together, and which of them this one is."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class World:
    """Who trains together: `size` processes (ranks), `local_size` of them on this machine.

    `started_by` names what made them: `ftcore`, `torchrun`, `slurm`, `environment` (deepspeed, accelerate, an
    operator), or nothing for a process of its own. `restart` counts how often ftcore has started them again.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    started_by: str = ""
    restart: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's folder and speaks to the user."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether this process is the first of its machine, which prepares what the others then read."""
        return self.local_rank == 0
