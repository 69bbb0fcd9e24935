"""The one rule that keeps secrets out of what is stored and said: configs, summaries, error messages and logs.

Owns which parts of an address are secret: the user and password before its host, and the values of its query, as a
presigned URL has them. Credentials themselves come from the boto3 chain, so no config holds any.
"""

from __future__ import annotations

import re

_MARK = "***"
# An address ends where JSON, a message or a list of addresses goes on. A question mark without `=` is a glob.
_USER = re.compile(r"""([a-z][a-z0-9+.-]*://)[^\s/?#"'<>]*@""", re.IGNORECASE)
_QUERY = re.compile(r"""([a-z][a-z0-9+.-]*://[^\s?"'<>]*\?)(?=[^\s"'<>]*=)[^\s"'<>#]*""", re.IGNORECASE)


def redact(text: str) -> str:
    """Replace the secret parts of every address in a text.

    Example:
        >>> redact("https://me:secret@store/a.tar?X-Amz-Signature=0f3c is gone")
        'https://***@store/a.tar?*** is gone'
    """
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\1{_MARK}", _USER.sub(rf"\1{_MARK}@", text))
