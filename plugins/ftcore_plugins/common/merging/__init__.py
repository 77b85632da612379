"""The tuned model as one folder of plain weights, for whoever ships it or converts it. Imports torch and transformers.

The adapter is merged tensor by tensor, from the files of the base model into new ones, so that memory stays small
whatever the size of the model; what cannot be merged so goes through PEFT.
"""

from __future__ import annotations

from ftcore_plugins.common.merging.folder import Merged, merged_folder, write_merged
from ftcore_plugins.common.merging.weights import Settings

__all__ = ["Merged", "Settings", "merged_folder", "write_merged"]
