"""`./run soak troubles`: what runs of `./run demo assure` come to, from build/demo/assure-rows.jsonl."""

import json
import statistics
import sys

from topologies.demo.assure import ROWS


def main() -> int:
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if not rows:
        print(f"summary: {ROWS} has no rows: no run has come to its table")
        return 1
    print("| what | runs | found and named | median s to detect | median s to repair after that |")
    print("|---|---|---|---|---|")
    for what in sorted({row["what"] for row in rows}):
        own = [row for row in rows if row["what"] == what]
        found = [row for row in own if row["cause"] != "not found"]
        timed = [row for row in found if row["detect_s"].replace(".", "").isdigit()]
        mended = [row for row in timed if row["repair_s"].replace(".", "").isdigit()]
        detect = f"{statistics.median(float(row['detect_s']) for row in timed):.1f}" if timed else ""
        repairs = [float(row["repair_s"]) - float(row["detect_s"]) for row in mended]
        repair = f"{statistics.median(repairs):.1f}" if repairs else ""
        print(f"| {what} | {len(own)} | {len(found)} | {detect} | {repair} |")
    alarms = {alarm for row in rows for alarm in row["false_alarms"]}
    print(f"false alarms: {'; '.join(sorted(alarms)) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
