"""Owns the JSON Schema of every operation.

`python -m configs.schema` writes it to configs/schema.json.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from configs.control import CONTROL_OPS, ControlRequest
from configs.parse import ALIASES, Job

SCHEMA_FILE = Path(__file__).with_name("schema.json")


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every accepted job satisfies."""
    adapter = TypeAdapter[Job](Annotated[Job, Field(discriminator="op")])
    schema = adapter.json_schema()
    for definition in schema["$defs"].values():
        for short, name in ALIASES.items():
            if name in definition.get("properties", {}):
                definition["properties"][short] = definition["properties"][name]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Skyline job"}
    return {**head, **schema}


def message_schema() -> dict[str, Any]:
    """Return the JSON Schema of everything the jobs topic takes: jobs, cancel and retry."""
    schema = job_schema()
    request = TypeAdapter(ControlRequest).json_schema()
    schema["$defs"]["ControlRequest"] = request
    schema["oneOf"] = [*schema["oneOf"], {"$ref": "#/$defs/ControlRequest"}]
    mapping = schema["discriminator"]["mapping"]
    mapping |= dict.fromkeys(CONTROL_OPS, "#/$defs/ControlRequest")
    return {**schema, "title": "Skyline message"}


def schema_text() -> str:
    """Return the schema as the text of configs/schema.json."""
    return json.dumps(job_schema(), indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write configs/schema.json, complete or not at all."""
    temporary = SCHEMA_FILE.with_name(f".tmp-{SCHEMA_FILE.name}-{os.getpid()}")
    try:
        with temporary.open("w") as handle:
            handle.write(schema_text())
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(SCHEMA_FILE)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
