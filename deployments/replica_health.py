"""How Serve finds out that a replica is no good any more, and how soon."""

import logging
import os
from typing import NoReturn

logger = logging.getLogger("ray.serve.asr")

HEALTH_CHECKS = {"health_check_period_s": 2, "health_check_timeout_s": 5}
"""Options of every deployment. One that has died is noticed within the period; one that hangs has not answered three
checks in a row: Serve's own defaults find that after a minute and a half."""


def end_replica(why: Exception) -> NoReturn:
    """End this process, so that all that waits for it goes to another replica at once.

    A failed health check alone would be asked twice more; meanwhile the replica would be sent what it cannot do.
    """
    logger.critical("this replica ends, to be replaced", exc_info=why)
    logging.shutdown()
    os._exit(1)
