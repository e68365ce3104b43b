"""What an object store says, in few words; and what to change where it will say so again."""

from __future__ import annotations

import re

from obstore import exceptions

from stream_cached.bodies.protocol import MissingBodyError
from stream_cached.errors import StoreError

_LONGEST = 200

_BUCKET = "create the bucket, or correct its name in the URL of the bodies"
_CREDENTIALS = (
    "correct the credentials: those in the URL of the bodies, or else those in the environment"
)
_NO_CREDENTIALS = (
    "there are no credentials: write them into the URL of the bodies or into the environment"
)
_REGION = "the bucket is in another region: write region= into the URL of the bodies"
_CLOCK = "the clock of this machine is wrong: correct it"
_PERMISSION = (
    "permit these credentials to read, write, delete and list what is under the prefix, and to "
    "abort multipart uploads (on S3: s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket, "
    "s3:AbortMultipartUpload), or correct them"
)

#: What no later attempt can put right, by what the store's answer says. The first match counts.
_FIXES = (
    (r"<Code>(NoSuchBucket|InvalidBucketName|ContainerNotFound)<", _BUCKET),
    (r"<Code>(InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken)<", _CREDENTIALS),
    (r"<Code>(AuthenticationFailed|InvalidSecurity|UserProjectAccessDenied)<", _CREDENTIALS),
    (r"<Code>RequestTimeTooSkewed<", _CLOCK),
    (r"<Code>(AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocation\w*)<", _REGION),
    (r"incorrectly configured region", _REGION),
    (r"://(169\.254\.|metadata)|\[fd00:ec2::254\]|latest/api/token", _NO_CREDENTIALS),
)


def store_error(what: str, exc: Exception) -> StoreError:
    """Return the error for what obstore has raised when it was to do something."""
    text = _text(exc)
    message = f"{what}: {_told(text)}"
    for pattern, fix in _FIXES:
        if re.search(pattern, text):
            return StoreError(message).with_fix(fix)
    if isinstance(exc, FileNotFoundError) and "<Code>NoSuchUpload<" not in text:
        return MissingBodyError(message)
    denied = (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
    if isinstance(exc, denied):
        return StoreError(message).with_fix(_PERMISSION)
    return StoreError(message)


def is_beyond_end(exc: BaseException | None) -> bool:
    """Whether what was asked for begins after the end of the object."""
    return exc is not None and "416 Range Not Satisfiable" in _text(exc)


def _text(exc: BaseException) -> str:
    """What obstore says; it repeats all of it for debugging."""
    return str(exc).partition("\n\nDebug source:")[0] or type(exc).__name__


def _told(text: str) -> str:
    code = re.search(r"<Code>([^<]*)</Code>", text)
    message = re.search(r"<Message>([^<]*)</Message>", text)
    if code is not None:
        # Azure adds lines with the id and the time of the request.
        return ": ".join(found[1].partition("\n")[0] for found in (code, message) if found)
    # Without the address and the time that it took.
    performing = re.search(r"Error performing (\w+) .*? - (.*)", text)
    told = f"{performing[1]}: {performing[2]}" if performing else text.partition("\n")[0]
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}..."
