"""Flower's log: silent, but for its last warning, which says why a strategy made no model."""

import logging
import os


class _LastWarning(logging.Handler):
    last = "it gave no reason"

    def emit(self, record: logging.LogRecord) -> None:
        self.last = " ".join(record.getMessage().split())


flower_says = _LastWarning(logging.WARNING)


def quieten() -> None:
    """Keep Flower's log off the terminal, unless FL_BENCH_DEBUG asks for it."""
    logger = logging.getLogger("flwr")
    if not os.environ.get("FL_BENCH_DEBUG"):
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    if flower_says not in logger.handlers:
        logger.addHandler(flower_says)
