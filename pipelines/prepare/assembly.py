"""The sample table of a beton while its chunks come in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipelines.beton import JPEG
from pipelines.prepare.journal import Finished
from pipelines.prepare.reading import Source
from pipelines.prepare.writer import ROW


class Assembly:
    """Rows (`writer.ROW`) of the images so far, what was rejected (source, reason), and the end of the payload."""

    def __init__(self, num_files: int, *, start: int, page_size: int):
        self._rows = np.zeros(num_files, ROW)
        self._count = 0
        self._page_size = page_size
        self.end = start
        self.rejected: list[tuple[str, str]] = []

    def add(self, chunk: Finished, sources: Sequence[Source]) -> None:
        """Take the next chunk, which was made of these sources."""
        pointers, self.end = chunk.place(self._page_size)
        refused = dict(chunk.rejected)
        taken = [source for place, source in enumerate(sources) if place not in refused]
        self.rejected += [(sources[place].describe(), reason) for place, reason in chunk.rejected]
        for source, (mode, width, height, size), pointer in zip(taken, chunk.rows, pointers, strict=True):
            self._rows[self._count] = (mode, width, height, source.label, pointer, size)
            self._count += 1

    @property
    def rows(self) -> np.ndarray:
        """The rows, in the order of the images."""
        return self._rows[: self._count]

    @property
    def jpegs(self) -> int:
        """Count the images that are stored as JPEG."""
        return int((self.rows["mode"] == JPEG).sum())

    @property
    def highest_label(self) -> int:
        """Give the highest label, -1 where no image has one."""
        return int(self.rows["label"].max(initial=-1))

    def reasons(self) -> dict[str, int]:
        """Count the rejected by the kind of reason, the commonest first."""
        return dict(Counter(reason.partition(":")[0] for _, reason in self.rejected).most_common())
