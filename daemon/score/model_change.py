"""What a change of the model means for the places watched: said once, at the start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from daemon.score.judging import ModelIdentity
from daemon.store.records import LookCount


@dataclass(frozen=True, kw_only=True)
class StrangeArea:
    """An area that another model knows and this one does not, or less well."""

    area: str
    looks: int
    """Looks through this model."""
    looks_of_others: int
    """Looks through the other model that has most of them."""

    @property
    def sentence(self) -> str:
        """For the log and the command line."""
        known = f"only {self.looks} of this one's" if self.looks else "none of this one's"
        basis = (
            "until they are more, scenes are compared with those few"
            if self.looks
            else "until there are some, its scenes are judged on their own, on normal tiles of their sensor"
        )
        return (
            f"area {self.area!r} has {self.looks_of_others} looks of another model, which are never compared with, and "
            f"{known}: {basis}. `vigie reembed --area '{self.area}'` reads the history again"
        )


def strange_areas(counts: Sequence[LookCount], model: ModelIdentity, areas: Collection[str]) -> tuple[StrangeArea, ...]:
    """Which of ``areas`` have more looks of another model than of ``model``, in name order."""
    strange = []
    for area in sorted(areas):
        of_area = {each.model_hash: each.looks for each in counts if each.area == area}
        own = of_area.pop(model.model_hash, 0)
        most = max(of_area.values(), default=0)
        if most > own:
            strange.append(StrangeArea(area=area, looks=own, looks_of_others=most))
    return tuple(strange)
