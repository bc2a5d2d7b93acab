"""The one-line error of a wrong setting."""


def require(ok: bool, name: str, value: object, remedy: str) -> None:
    """Raise the one-line ValueError of a wrong setting unless `ok`."""
    if not ok:
        raise ValueError(f"{name}={value!r}: {remedy}")
