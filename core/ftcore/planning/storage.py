"""What a run writes, in bytes: checkpoints, the adapter or model, and exports."""

from __future__ import annotations

import attrs

from ftcore.planning.facts import ModelFacts
from ftcore.planning.memory import state_bytes
from ftcore.planning.setting import FLOAT32, Setting


@attrs.frozen(kw_only=True)
class Storage:
    """Bytes on disk. `checkpoint` is one of them; `checkpoints` all that are there at once."""

    checkpoint: float
    checkpoints: float
    result: float
    exports: float

    @property
    def total(self) -> float:
        """All that lies in the run's folder at its end, at most."""
        return self.checkpoints + self.result + self.exports


def storage(facts: ModelFacts, setting: Setting, *, checkpoints: int, exports: int) -> Storage:
    """What the run's folder comes to; so many checkpoints stay, and `exports` are the bytes that exporters tell of."""
    one = facts.trained * (FLOAT32 + state_bytes(setting.optimizer))
    adapter = facts.trained * FLOAT32
    return Storage(
        checkpoint=one,
        checkpoints=one * (checkpoints + 1),  # the next one is written before the oldest goes
        result=adapter if facts.adapter else (facts.base - facts.trained_base) * setting.weight + adapter,
        exports=float(exports),
    )
