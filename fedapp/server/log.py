"""What Flower's log says of an error whose text says all."""

from __future__ import annotations

import logging

from fedapp.core.errors import Explained, one_line


class _OneLine(logging.Filter):
    """Puts such an error's text in the place of its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Explained):
            record.msg, record.args = "%s: %s", (record.getMessage(), one_line(error))
            record.exc_info = None
        return True


_ONE_LINE = _OneLine()


def show_explained_in_one_line() -> None:
    """From now on Flower's logger in this process has no traceback of an ``Explained`` error."""
    logging.getLogger("flwr").addFilter(_ONE_LINE)  # once, however often it is added
