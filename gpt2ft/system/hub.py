"""The Hugging Face hub: whether it can be reached, found out in seconds."""

from __future__ import annotations

import os
import queue
import threading
import urllib.error
import urllib.request


class HubUnavailableError(ConnectionError):
    """What was named is neither on this machine nor to be had from the hub now."""


def go_offline_if_unreachable(seconds: float = 5.0) -> bool:
    """Ask the hub once; if it does not answer in time, make its libraries use their caches alone.

    Without this they would try again for minutes. Call it before `transformers`, `datasets`
    or `huggingface_hub` are imported: they read the switch then. Returns whether they are offline.
    """
    if "HF_HUB_OFFLINE" not in os.environ and not answers(seconds):
        os.environ["HF_HUB_OFFLINE"] = "1"
    return is_offline()


def is_offline() -> bool:
    """Whether the hub's libraries use their caches alone."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def answers(seconds: float = 5.0) -> bool:
    """Whether the hub answers within that time."""
    answer: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        answer.put(_asked(seconds))

    # In a thread, because looking up a name has no time limit of its own.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return False


def _asked(seconds: float) -> bool:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        return error.code == 429  # which is the hub, only busy; others may be some proxy's
    except (OSError, ValueError):
        return False
    return True
