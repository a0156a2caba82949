"""The token that clients must send."""

from __future__ import annotations

import os
from pathlib import Path

from busmt.errors import RunError

VARIABLE = "BUSMT_SERVE_TOKEN"
SHORTEST = 16


def read_token(file: str | os.PathLike[str] | None) -> str | None:
    """The token from a file or, without one, from the environment; never from the command line, which every user of
    the machine can see.

    Raises:
        RunError: the file cannot be read, or the token is too short to be a secret or no header can carry it.
    """
    if file is None:
        token, source = os.environ.get(VARIABLE), VARIABLE
        if token is None:
            return None
    else:
        source = str(file)
        try:
            token = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{file}: the token cannot be read ({getattr(error, 'strerror', 'not text')})") from error
    token = token.strip()
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise RunError(f"{source}: a token has at least {SHORTEST} printable ASCII characters without spaces")
    return token
