"""Page about the routes, made from the OpenAPI schema: plain HTML that loads nothing else."""

from __future__ import annotations

import json
from html import escape
from typing import Any

EXAMPLES = {
    "/v1/embeddings": {"input": ["a photo of a cat"]},
    "/v2/embed": {"texts": ["a photo of a cat"], "embedding_types": ["float"], "input_type": "search_query"},
    "/v1/search": {"query": "a cat", "top": 5},
}
"""Bodies of JSON to try, by path."""
FORMS = {
    "/v1/images/embed": "-H 'Content-Type: image/png' --data-binary @cat.png",
    "/v1/classify": "-F images=@cat.png -F labels='a cat' -F labels='a dog'",
    "/predict": """-F 'entries={"clip":{"textual":{"modelName":"pocket"}}}' -F text='a cat'""",
}
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1rem; font-size: 1.1rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
code, pre { font: 14px/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .7rem; border: 1px solid var(--line); border-radius: 6px; }
"""


def docs_page(schema: dict[str, Any], host: str) -> str:
    """Make the page.

    Args:
        schema: of OpenAPI 3.
        host: name and port of the server, for examples.

    Returns:
        HTML.
    """
    operations = [
        (method.upper(), path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    rows = "".join(
        f'<tr><td><a href="#{_anchor(method, path)}"><code>{method} {escape(path)}</code></a></td>'
        f"<td>{escape(operation.get('summary', ''))}</td></tr>"
        for method, path, operation in operations
    )
    sections = "".join(_section(schema, host, *each) for each in operations)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>OneCLIP API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>OneCLIP {escape(schema['info']['version'])}</h1>"
        f"<p>All routes of this server. The same as data: <a href='/openapi.json'>/openapi.json</a>. With keys, send "
        f"<code>Authorization: Bearer KEY</code>. Errors have the shape "
        f'<code>{{"error": {{"message", "type", "param", "code"}}}}</code>.</p>'
        f"<table><tr><th>route</th><th>what it does</th></tr>{rows}</table>{sections}</html>"
    )


def _anchor(method: str, path: str) -> str:
    return escape((method + path).replace("/", "-").replace("{", "").replace("}", ""), quote=True)


def _section(schema: dict[str, Any], host: str, method: str, path: str, operation: dict[str, Any]) -> str:
    """Make the section of one route: what it takes, and an example."""
    rows = [(each["name"], each["in"], each) for each in operation.get("parameters", ())]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        described = _resolved(schema, content.get("schema", {}))
        required = described.get("required", ())
        for name, field in described.get("properties", {}).items():
            rows.append((name, media_type, {"required": name in required, "schema": field, **field}))
        if not described.get("properties"):
            rows.append(("body", media_type, {"required": True, "schema": described, **described}))
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(where)}</td>"
        f"<td>{escape(_type(schema, field.get('schema', {})))}{'' if field.get('required') else ', optional'}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, where, field in rows
    )
    table = (
        "<table><tr><th>name</th><th>in</th><th>type</th><th>meaning</th></tr>" + cells + "</table>"
        if rows
        else ""
    )
    return (
        f'<h2 id="{_anchor(method, path)}"><code>{method} {escape(path)}</code></h2>'
        f"<p>{escape(operation.get('summary', ''))}</p>"
        f"<p>{escape(operation.get('description', ''))}</p>{table}<pre>{escape(_example(host, method, path))}</pre>"
    )


def _resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference inside the schema."""
    while "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        part = schema["components"]["schemas"][name]
    return part


def _type(schema: dict[str, Any], part: dict[str, Any]) -> str:
    part = _resolved(schema, part)
    for either in ("anyOf", "oneOf"):
        if either in part:
            names = [_type(schema, each) for each in part[either] if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(names))
    if "enum" in part:
        return " | ".join(map(str, part["enum"]))
    if part.get("type") == "array":
        return f"list of {_type(schema, part.get('items', {}))}"
    return str(part.get("type", "any"))


def _example(host: str, method: str, path: str) -> str:
    """Return a command that tries a route."""
    command = f"curl http://{host}{path}"
    if path in FORMS:
        return f"{command} {FORMS[path]}"
    if method == "GET":
        return command
    body = json.dumps(EXAMPLES.get(path, {}))
    return f"{command} -H 'Content-Type: application/json' -d '{body}'"
