"""The error in a population line or a control command, as one line."""

from pydantic import ValidationError


def one_line(error: ValidationError, known: tuple[str, ...]) -> str:
    """The first problem in ``error``; ``known`` are the field names, shown when one was misspelt. No value is quoted."""
    item = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in item["loc"])
    match item["type"]:
        case "json_invalid":
            return "is not JSON"
        case "model_type" | "model_attributes_type":
            return "is not a JSON object"
        case "missing":
            return f"{name} is missing"
        case "extra_forbidden":
            return f"{name[:40]!r} is not a known field; known are {', '.join(known)}"
    text = item["msg"].removeprefix("Value error, ")
    return f"{name}: {text}" if name else text
