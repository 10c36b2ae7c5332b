"""Classification heads and how they are judged: zero-shot heads, metrics, intervals."""
