"""The pool behind the tests of the service: 90 pairs in three colours, each with its URL, some of them unpleasant."""

from pathlib import Path

from tests_support import COLOURS, drawing

SHARDS, EACH = 3, 30
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script> green thing'
TWIN, OF = 40, 34  # pair 40 is pair 34's picture again, under another URL
CAPTIONS = {4: HOSTILE, 10: "green thing " + "very long caption " * 200, 16: "\u202egreen thing\u202c צבע 🟢"}


def write_small_pool(folder: Path) -> Path:
    """Shards of red, green and blue in turn, jpg, png and webp."""
    from reactvl.pool.writer import ShardWriter

    with ShardWriter(folder, max_count=EACH) as writer:
        for number in range(SHARDS * EACH):
            ext = ("jpg", "png", "webp")[number % 3]
            caption = CAPTIONS.get(number, f"{COLOURS[number % 3]} thing {number % 9}")
            record = {"url": f"https://example.org/{number}.{ext}", "status": "success"}
            writer.write(drawing(OF if number == TWIN else number, ext), ext, caption, record)
    return folder
