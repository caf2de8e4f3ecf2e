"""What all checks ask for."""

import base64

# A picture of one transparent point.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
PICTURE_BYTES = base64.b64decode(PICTURE)
PICTURE_TOLD = f"[image image/png {len(PICTURE_BYTES)} bytes]"
DATA_URL = f"data:image/png;base64,{PICTURE}"

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CITY_MADE = {"city": "x", "days": 1}


def same(got, expected):
    """Fails where the two differ."""
    assert got == expected, f"{got!r} is not {expected!r}"


def raises(error, call):
    """Calls, and gives back the error that has to come of it."""
    try:
        call()
    except error as caught:
        return caught
    raise AssertionError(f"no {error.__name__}")
