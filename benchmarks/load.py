"""Clients of the service, each asking its next query when it has the last one's answer; bounded in number and in time.

A process of its own, so that its work is not the server's; plain sockets kept open, so that it costs little of the cores
that both share. On this machine only.
"""

import asyncio
import json
import time
from typing import Any

import measuring

SECONDS = 60.0  # of one call, whatever it was asked for


def work(request: dict[str, Any]) -> dict[str, Any]:
    """`port`, `path`, `bodies` (JSON texts, asked once each, in order), `clients` -> seconds of each query in the order of the
    bodies, seconds from the first to the last, and the answers to `keep` of them."""
    return asyncio.run(asked(**request))


async def asked(port: int, path: str, bodies: list[str], clients: int, keep: int = 0) -> dict[str, Any]:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: "
    messages = [f"{head}{len(body.encode())}\r\n\r\n{body}".encode() for body in bodies]
    waiting = iter(enumerate(messages))
    spans, answers = [0.0] * len(messages), {}

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, message in waiting:
            began = time.perf_counter()
            writer.write(message)
            status, body = await answer(reader)
            spans[number] = time.perf_counter() - began
            if status != 200:
                raise RuntimeError(f"query {number}: {status} {body[:300]!r}")
            if number < keep:
                answers[number] = json.loads(body)
        writer.close()

    began = time.perf_counter()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*(client() for _ in range(clients)))
    return {
        "spans": spans,
        "seconds": time.perf_counter() - began,
        "answers": [answers[number] for number in range(min(keep, len(bodies)))],
    }


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one HTTP/1.1 response that says its length."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return int(lines[0].split()[1]), await reader.readexactly(int(fields["content-length"]))


if __name__ == "__main__":
    measuring.serve(work)
