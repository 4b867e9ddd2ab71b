"""How well trouble is seen. Data of others is in no repository: NETSTITCH_DATA=DIR says where it
is (docs/assurance.md)."""

import os
from pathlib import Path

from bench import assure_flows, assure_rtt
from bench.report import Row


def rows() -> list[Row]:
    found = list(assure_flows.speed())
    directory = os.environ.get("NETSTITCH_DATA")
    if not directory:
        print("assure: without NETSTITCH_DATA=DIR there is no labelled data, and no figures of it (docs/assurance.md)")
        return found
    data = Path(directory)
    captures = sorted(data.glob("iot23-benign-*.csv.gz"))
    if (data / "sdn-ddos.csv.gz").is_file():
        found += assure_flows.attacks(data / "sdn-ddos.csv.gz")
    else:
        print(f"assure: no {data}/sdn-ddos.csv.gz: no figures of attacks")
    if captures:
        found += assure_flows.benign(captures)
    else:
        print(f"assure: no {data}/iot23-benign-*.csv.gz: no figures of false alarms")
    if (data / "rtt").is_dir():
        found += assure_rtt.rows(data)
    else:
        print(f"assure: no {data}/rtt: no figures of change points")
    return found
