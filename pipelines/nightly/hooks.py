"""Run what the config asks for at the end of a night: a command, a webhook. A hook that fails is said, and no more."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request

from schemas.config.nightly import HooksConfig
from schemas.nights import Night
from schemas.redaction import redact

_TIMEOUT_S = 60
_GOOD = ("published", "nothing", "unfinished")


def run_hooks(hooks: HooksConfig, night: Night) -> None:
    """Run the command for the night's end, then call the webhook; both get the record as JSON."""
    command = hooks.on_success if night.state in _GOOD else hooks.on_failure
    if command is not None:
        try:
            done = subprocess.run(
                command, shell=True, input=night.to_json(), text=True, timeout=_TIMEOUT_S, check=False
            )
            if done.returncode:
                _say(f"the hook ended with exit code {done.returncode}: {command}")
        except subprocess.TimeoutExpired:
            _say(f"the hook took more than {_TIMEOUT_S} s and was ended: {command}")
    if hooks.webhook is not None:
        request = urllib.request.Request(
            hooks.webhook, night.to_json().encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
                pass
        except (urllib.error.URLError, TimeoutError, ValueError) as error:
            _say(f"the webhook {hooks.webhook} could not be called: {error}")


def _say(text: str) -> None:
    print(redact(text), file=sys.stderr)
