"""What the service is told for recordings of hours."""

from benchmarks.service import settings_in_environment

TIMEOUT_S = 7200
"""Of a request."""
SETTINGS = {
    "ASR_MAX_UPLOAD_BYTES": "1000000000",
    "ASR_MAX_DURATION_S": "86400",
    "ASR_REQUEST_TIMEOUT_S": str(TIMEOUT_S),
    **settings_in_environment(),
}
