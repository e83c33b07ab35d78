"""Settings of a service that is disturbed: what takes half a minute in real life takes seconds here."""

from collections.abc import Mapping

QUICK: Mapping[str, str] = {
    "THAW_LEASE_SECONDS": "6",
    "THAW_HEARTBEAT_SECONDS": "0.5",
    "THAW_FENCE_SECONDS": "5",
    "THAW_SWEEP_SECONDS": "1",
    "THAW_RING_AGAIN_SECONDS": "2",
    "THAW_MIN_FREE_DISK_BYTES": "0",
    "THAW_STORAGE_RETRY_SECONDS": "2",
}
LEASE_SECONDS = float(QUICK["THAW_LEASE_SECONDS"])
NO_FENCE: Mapping[str, str] = {"THAW_FENCE_SECONDS": "3600"}
"""No worker ends its job by itself when it is late: only the database keeps it from writing."""
