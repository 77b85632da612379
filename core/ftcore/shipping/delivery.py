"""What happens to the artifacts when all are written: cards that say what they are worth, and where they are sent."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

import attrs

from ftcore.errors import RunError
from ftcore.shipping.card import write_card
from ftcore.shipping.exporting import Shipment
from ftcore.shipping.verification import failed_proof, folder_of, has_changed
from ftcore.values import Artifact, Verdict


def hand_over(
    shipment: Shipment, written: Sequence[Artifact], known: Sequence[Artifact], say: Callable[[str], None]
) -> list[str]:
    """Write the cards and publish; the addresses.

    `written` are the artifacts of this pass, `known` all of the same weights. Raises `RunError` when one of this pass
    is not proved to be what was trained, after its card says so, or when such a one would be published, or one that has
    changed since it was proved.
    """
    with shipment.writing("model cards"):
        _write_cards(shipment, known)
    _require_not_failed(written)
    _require_unchanged(shipment, [artifact for artifact in known if artifact not in written])
    places = []
    for place in _published(shipment, known):
        places.append(place)
        say(f"published: {place}")
    return places


def what_is_there(shipment: Shipment, artifacts: Sequence[Artifact]) -> str:
    """One sentence for when exports have failed: the model that they are made from, and what became of each."""
    found: dict[Verdict, list[str]] = {}
    for artifact in filter(shipment.holds, artifacts):
        found.setdefault(artifact.proof.verdict, []).append(artifact.path.name)
    exports = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in found.items()) or "nothing is exported"
    again = f"to export again, without training: {shipment.again()}"
    return f"the run is trained, and saved in {shipment.saved}; {exports}; {again}"


def _write_cards(shipment: Shipment, artifacts: Sequence[Artifact]) -> None:
    """A card in each artifact's folder about what lies there, and one beside the weights about all of it.

    A checkpoint's weights lie beside a manifest of their own, with the figures of that step.
    """
    run = attrs.evolve(shipment.run, folder=shipment.saved.parent)
    for folder in dict.fromkeys(folder_of(artifact) for artifact in artifacts):
        write_card(folder, run, [artifact for artifact in artifacts if folder_of(artifact) == folder])
    write_card(shipment.saved, run, artifacts)


def _published(shipment: Shipment, artifacts: Sequence[Artifact]) -> Iterator[str]:
    for name in shipment.asked("publish"):
        _require_not_failed(artifacts)
        try:
            yield from shipment.plugins.alone(name).publish(shipment.run, artifacts, shipment.saved)
        except RunError as error:
            raise RunError(f"{error}; to publish again: {shipment.again(name)}") from error


def _require_not_failed(artifacts: Sequence[Artifact]) -> None:
    """Raise `RunError` that names every artifact whose proof has failed."""
    failed = [failed_proof(artifact) for artifact in artifacts if artifact.proof.verdict is Verdict.FAILED]
    if failed:
        raise RunError("\n".join(failed))


def _require_unchanged(shipment: Shipment, artifacts: Sequence[Artifact]) -> None:
    """Raise `RunError` for what would be published under a proof of something else."""
    changed = [artifact for artifact in artifacts if has_changed(artifact)] if shipment.asked("publish") else []
    if changed:
        lines = [
            f"{artifact.path} has changed since it was proved; run: ftcore verify {shlex.quote(str(artifact.path))}"
            f", or write it again: {shipment.again()}"
            for artifact in changed
        ]
        raise RunError("\n".join(lines))
