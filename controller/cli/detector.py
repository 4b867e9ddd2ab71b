"""What `stitch detector` does: files in, files out."""

import math

import numpy as np

from controller.assurance.change_points import change_points
from controller.cli import csv_file


def changepoints(source: str, out: str) -> None:
    columns = csv_file.read(source, ("time_s", "rtt_ms"))
    rtt_ms = np.array(csv_file.numbers(source, "rtt_ms", columns["rtt_ms"], empty=math.nan), dtype=np.float64)
    rows = [(columns["time_s"][change.at], f"{change.score:.4f}", change.kind) for change in change_points(rtt_ms)]
    csv_file.write(out, ("time_s", "score", "kind"), rows)
