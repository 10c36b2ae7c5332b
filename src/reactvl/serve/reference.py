"""The OpenAPI document as a page that works without the internet: FastAPI's own loads its scripts from elsewhere."""

import base64
import hashlib
import html
import json
from typing import Any

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; overflow-wrap: break-word; }
h2 { margin: 2.2rem 0 .2rem; font: 600 1.05rem/1.4 ui-monospace, monospace; }
h3 { margin: 1rem 0 .2rem; font-size: .95rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .92rem; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; padding: .6rem; background: #8882; }
"""
STYLE_SUM = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CSP = f"default-src 'none'; style-src 'sha256-{STYLE_SUM}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def page_of(document: dict[str, Any]) -> bytes:
    """HTML of an OpenAPI document: every operation with its parameters, and every schema with its fields."""
    info = document["info"]
    parts = [
        f"<h1>{escaped(info['title'])} {escaped(info['version'])}</h1>",
        f"<p>{escaped(info.get('description', ''))}</p>",
        '<p>The same as data: <a href="openapi.json">openapi.json</a>. The page: <a href="./">/</a>.</p>',
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(method.upper(), path, operation))
    parts.append("<h1>Schemas</h1>")
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        parts.append(f'<h2 id="{escaped(name)}">{escaped(name)}</h2>' + _schema(schema))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escaped(info['title'])}: API</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    ).encode()


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2>{method} {escaped(path)}</h2><p>{escaped(operation.get('description', operation['summary']))}</p>"]
    rows = [
        (
            entry["name"],
            _type(entry["schema"]),
            "needed" if entry.get("required") else entry["schema"].get("default"),
            entry["schema"].get("description", ""),
        )
        for entry in operation.get("parameters", ())
    ]
    parts.append(_table(rows))
    for mime, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body: <code>{escaped(mime)}</code> {_type(content.get('schema', {}))}</p>")
    for status, answer in operation.get("responses", {}).items():
        for mime, content in answer.get("content", {}).items():
            shown = _type(content.get("schema", {}))
            parts.append(f"<p>{escaped(status)}: <code>{escaped(mime)}</code> {shown}</p>")
    return "".join(parts)


def _schema(schema: dict[str, Any]) -> str:
    needed = schema.get("required", ())
    rows = [
        (name, _type(field), "needed" if name in needed else field.get("default"), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<p>{escaped(schema.get('description', ''))}</p>" + _table(rows)


def _table(rows: list[tuple]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f"<tr><td><code>{escaped(name)}</code></td><td>{kind}</td><td>{escaped(_value(default))}</td>"
        f"<td>{escaped(text)}</td></tr>"
        for name, kind, default, text in rows
    )
    return f"<table><tr><th>name</th><th>type</th><th>default</th><th></th></tr>{lines}</table>"


def _value(default: object) -> str:
    return default if isinstance(default, str) else "" if default is None else json.dumps(default)


def _type(schema: dict[str, Any]) -> str:
    """A schema in words, as HTML."""
    if "$ref" in schema:
        name = escaped(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(
            f"<code>{escaped(json.dumps(value))}</code>" for value in schema.get("enum", [schema.get("const")])
        )
    if schema.get("type") == "array":
        items = schema.get("items") or {}
        return "list of " + (
            _type(items) if items else ", ".join(_type(item) for item in schema.get("prefixItems", ()))
        )
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = (
        f" ({'' if low is None else low} to {'' if high is None else high})"
        if low is not None or high is not None
        else ""
    )
    return escaped(schema.get("format") or schema.get("type", "any")) + bounds


def escaped(text: object) -> str:
    return html.escape(str(text))
