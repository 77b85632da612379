"""TensorBoard's event files, written with its own library, which needs neither torch nor TensorFlow for that."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

__all__ = ["Files"]

PNG = b"\x89PNG\r\n\x1a\n"


class Files:
    """One more file in `folder`. What is written is there once `flush` has returned.

    Every method takes the step that it is shown at and the time of it (seconds since 1970).
    """

    def __init__(self, folder: Path) -> None:
        self._writer = EventFileWriter(str(folder))

    def purge(self, step: int, time: float) -> None:
        """Nothing of `step` and after it, which earlier files hold, is shown from here on."""
        self._writer.add_event(Event(step=step, wall_time=time, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, figures: Mapping[str, float], step: int, time: float) -> None:
        """Points of curves."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._add(Summary(value=values), step, time)

    def text(self, name: str, markdown: str, step: int, time: float) -> None:
        """Markdown."""
        self._add(text_pb(name, markdown), step, time)

    def bars(self, name: str, heights: Sequence[float], step: int, time: float) -> None:
        """A histogram of classes: class `i` lies between `i` and `i + 1`."""
        total = sum(heights)
        centres = [(index + 0.5) * height for index, height in enumerate(heights)]
        squares = [(index + 0.5) ** 2 * height for index, height in enumerate(heights)]
        histogram = HistogramProto(min=0, max=len(heights), num=total, sum=sum(centres), sum_squares=sum(squares))
        histogram.bucket_limit.extend([0.0, *(float(index + 1) for index in range(len(heights)))])
        histogram.bucket.extend([0.0, *heights])
        self._add(Summary(value=[Summary.Value(tag=name, histo=histogram)]), step, time)

    def image(self, name: str, file: Path, step: int, time: float) -> None:
        """A PNG file, as it is; others are passed over."""
        data = file.read_bytes()
        if not data.startswith(PNG) or len(data) < len(PNG) + 16:
            return
        width, height = struct.unpack_from(">II", data, len(PNG) + 8)
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        self._add(Summary(value=[Summary.Value(tag=name, image=image)]), step, time)

    def hyper_parameters(self, values: Mapping[str, Any], name: str, time: float) -> None:
        """A row of the table of runs. Its metrics are the last points of the curves."""
        self._add(summary_v2.hparams_pb(dict(values), trial_id=name, start_time_secs=time), 0, time)

    def ended(self, *, well: bool, time: float) -> None:
        """How that row has ended."""
        status = api_pb2.STATUS_SUCCESS if well else api_pb2.STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time)
        about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
        self._add(Summary(value=[value]), 0, time)

    def flush(self) -> None:
        """Hand everything to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, summary: Any, step: int, time: float) -> None:
        self._writer.add_event(Event(step=step, wall_time=time, summary=summary))
