"""`ladm` as on another machine: nothing of its processes can be seen from here, and its clock is some seconds off.

python tests/elsewhere.py CLOCK_OFFSET score INPUT OUTPUT ...
"""

from __future__ import annotations

import sys
import time
import uuid

from ladm_hf.cli.app import app
from ladm_hf.runs import objects, workers


def main() -> None:
    offset, now = float(sys.argv[1]), time.time
    time.time = lambda: now() + offset
    machine = uuid.uuid4().hex
    workers._machine = lambda: machine
    workers.BEAT = objects.RunObjects.report_seconds = 1.0
    workers.LEASE = objects.LEASE = 6.0
    objects.LISTING_SECONDS = 1.0
    app(sys.argv[2:])


if __name__ == "__main__":
    main()
