"""How well trouble is seen. Data of others is in no repository: NETSTITCH_DATA=DIR says where it
is (docs/assurance.md)."""

import os
from pathlib import Path

from bench import assure_rtt
from bench.report import Row


def rows() -> list[Row]:
    directory = os.environ.get("NETSTITCH_DATA")
    if not directory:
        print("assure: without NETSTITCH_DATA=DIR there is no labelled data, and no figures of it (docs/assurance.md)")
        return []
    data = Path(directory)
    found: list[Row] = []
    if (data / "rtt").is_dir():
        found += assure_rtt.rows(data)
    else:
        print(f"assure: no {data}/rtt: no figures of change points")
    return found
