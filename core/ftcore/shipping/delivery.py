"""One pass of exports, from the first exporter to the last place that they are published at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from ftcore.card import write_card
from ftcore.shipping.exporting import Shipment, export, proof_line, publish, require_proved
from ftcore.shipping.verification import folder_of
from ftcore.values import Artifact, Loaded, PreparedData

Say = Callable[[str], None]


def ship(
    shipment: Shipment, loaded: Loaded, data: PreparedData, *, note: Callable[[Artifact], None], say: Say
) -> list[Artifact]:
    """Export and prove. Each artifact is given to `note` at once, for the manifest."""
    artifacts = []
    for artifact in export(shipment, loaded, data):
        artifacts.append(artifact)
        note(artifact)
        say(proof_line(artifact))
    return artifacts


def hand_over(shipment: Shipment, written: Sequence[Artifact], known: Sequence[Artifact], say: Say) -> list[str]:
    """Write the cards and publish; the addresses.

    `written` are the artifacts of this pass, `known` all of the same weights. Raises `RunError` when one of this pass
    is not proved to be what was trained, after its card says so, or when one of them would be published.
    """
    write_cards(shipment, known)
    require_proved(written)
    places = []
    for place in publish(shipment, known):
        places.append(place)
        say(f"published: {place}")
    return places


def write_cards(shipment: Shipment, artifacts: Sequence[Artifact]) -> None:
    """A card in each artifact's folder about what lies there, and one beside the weights about all of it.

    A checkpoint's weights lie beside a manifest of their own, with the figures of that step.
    """
    run = attrs.evolve(shipment.run, folder=shipment.saved.parent)
    for folder in dict.fromkeys(folder_of(artifact) for artifact in artifacts):
        write_card(folder, run, [artifact for artifact in artifacts if folder_of(artifact) == folder])
    write_card(shipment.saved, run, artifacts)
