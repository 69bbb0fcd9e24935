"""The one rule that keeps secrets out of what is stored and said: configs, summaries, error messages, logs and ledgers.

Owns which parts of an address are secret: the user and password before its host, and the values of its query, as a
presigned URL has them. In a ledger an address names a file, so there only a password and a signature are left out.
Credentials themselves come from the boto3 chain, so no config holds any.
"""

from __future__ import annotations

import re

_MARK = "***"
# An address ends where JSON, a message or a list of addresses goes on. A question mark without `=` is a glob.
_USER = re.compile(r"""([a-z][a-z0-9+.-]*://)[^\s/?#"'<>]*@""", re.IGNORECASE)
_QUERY = re.compile(r"""([a-z][a-z0-9+.-]*://[^\s?"'<>]*\?)(?=[^\s"'<>]*=)[^\s"'<>#]*""", re.IGNORECASE)

# In other stores than the web a name before `@` may be a container.
_PASSWORD = re.compile(r"(https?://)[^/?#]*@|([a-z][a-z0-9+.-]*://)[^/?#@:]*:[^/?#]*@", re.IGNORECASE)
_WEB = re.compile(r"(https?://[^?#]*)\?([^#]*)(.*)", re.IGNORECASE | re.DOTALL)
# What presigned URLs add: AWS's two versions and CloudFront, Google's two versions, and Azure's. Beside a signature may
# stand what changes the headers of the answer, and not the file. A bare `token` may choose the file.
_SIGNATURE = re.compile(r"x-(amz|goog)-.*|signature|sig", re.IGNORECASE)
_BESIDE_ONE = frozenset(
    (
        *("x-id", "response-content-type", "response-content-disposition", "response-content-encoding"),
        *("response-content-language", "response-cache-control", "response-expires"),
        *("rscc", "rscd", "rsce", "rscl", "rsct"),
        *("awsaccesskeyid", "expires", "googleaccessid", "key-pair-id", "policy", "hash-algorithm"),
        *("sv", "ss", "srt", "st", "se", "sr", "sp", "sip", "spr", "si", "sdd", "ses", "scid", "saoid", "suoid"),
        *("sks", "skt", "ske", "skoid", "sktid", "skv"),
    )
)


def redact(text: str) -> str:
    """Replace the secret parts of every address in a text.

    Example:
        >>> redact("https://me:secret@store/a.tar?X-Amz-Signature=0f3c is gone")
        'https://***@store/a.tar?*** is gone'
    """
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\1{_MARK}", _USER.sub(rf"\1{_MARK}@", text))


def unsigned(uri: str) -> str:
    """Return an address without its password, and a web address without the signature of a presigned URL.

    Two presigned URLs of one file are then equal. All else of a query stays, since it may choose the file.

    Example:
        >>> unsigned("https://host/get?file=a.tar&Expires=17&Signature=0f3c")
        'https://host/get?file=a.tar'
    """
    if "://" not in uri or uri.startswith("s3://"):  # a key of S3 may hold any of these characters
        return uri
    uri = _PASSWORD.sub(r"\1\2", uri)
    if (parts := _WEB.fullmatch(uri)) is None:
        return uri
    pairs = parts[2].split("&")
    names = [pair.partition("=")[0].lower() for pair in pairs]
    if not any(map(_SIGNATURE.fullmatch, names)):
        return uri
    kept = [p for p, name in zip(pairs, names, strict=True) if not (_SIGNATURE.fullmatch(name) or name in _BESIDE_ONE)]
    return parts[1] + "?" * bool(kept) + "&".join(kept) + parts[3]
