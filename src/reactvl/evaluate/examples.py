"""Pictures of an evaluation: the classes that changed most between two models, and what is confused. Each task has a share of a
fixed number of pictures, so that twenty tasks of a thousand classes make no larger a page than one."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from reactvl.evaluate.results import Scored
from reactvl.heads.metrics import confusions
from reactvl.report import plots
from reactvl.report.page import fold, gallery
from reactvl.report.thumbnails import thumbnail

PICTURES = 320  # of a section
GAINED, LOST, OF_CLASS = 4, 2, 6  # classes a task, pictures a class
CONFUSED, OF_PAIR = 6, 6  # confusions a task, pictures each


def changed(scored: Sequence[Scored], base: str, label: str) -> Markup:
    """Of every task the classes of which one model finds most more and most fewer pictures than the base, with the pictures of
    which they differ."""
    parts = []
    judged = [one for one in scored if one.labels.ndim == 1 and {base, label} <= one.rankings.keys()]
    for one in judged:
        room = Room(len(judged))
        found = [class_block(one, base, label, index, room) for index in most_changed(one, base, label)]
        if body := Markup("").join(found):
            parts.append(fold(one.task.name, body, is_open=len(parts) < 4))
    return Markup("").join(parts)


def most_changed(one: Scored, base: str, label: str) -> list[int]:
    """The classes whose recall rose most, then those whose recall fell most; by images where recalls are equal."""
    classes = len(one.task.classes)
    counts = np.bincount(one.labels, minlength=classes)
    difference = one.correct(label).astype(np.int64) - one.correct(base)
    change = np.bincount(one.labels, weights=difference, minlength=classes)
    share = change / np.maximum(counts, 1)
    order = np.lexsort((-np.abs(change), -share))  # the most gained first
    return [int(at) for at in order[:GAINED] if change[at] > 0] + [
        int(at) for at in order[::-1][:LOST] if change[at] < 0
    ]


def class_block(one: Scored, base: str, label: str, index: int, room: "Room") -> Markup:
    names = one.task.classes
    mine = one.labels == index
    before, after = one.correct(base), one.correct(label)
    gained = after[mine].sum() > before[mine].sum()
    at = np.flatnonzero(mine & (after & ~before if gained else before & ~after))
    sure = one.rankings[label if gained else base].probabilities[at, 0]
    other, word = (base, "was") if gained else (label, "now")
    items = [
        (picture(one, place), f"{word}: {names[one.rankings[other].predicted[place]]}", "")
        for place in at[np.argsort(-sure, kind="stable")][: room.take(OF_CLASS)]
    ]
    heading = Markup("<h3>{} <small>{} of {} images found, {} before</small></h3>").format(
        names[index], int(after[mine].sum()), int(mine.sum()), int(before[mine].sum())
    )
    return heading + (gallery(items) if items else Markup(""))


def confused(scored: Sequence[Scored], base: str, label: str) -> Markup:
    """Of every task what a model confuses most, with the images that it is surest of; how often the base did beside it."""
    parts = []
    judged = [one for one in scored if one.labels.ndim == 1 and label in one.rankings]
    for one in judged:
        room, rows = Room(len(judged)), []
        ranking, names = one.rankings[label], one.task.classes
        counts = confusions(one.labels, ranking.predicted, len(names))
        np.fill_diagonal(counts, 0)
        for flat in np.argsort(-counts, axis=None, kind="stable")[:CONFUSED]:
            true, taken = divmod(int(flat), len(names))
            if not counts[true, taken]:
                break
            at = np.flatnonzero((one.labels == true) & (ranking.predicted == taken))
            at = at[np.argsort(-ranking.probabilities[at, 0], kind="stable")][: room.take(OF_PAIR)]
            pictures = [(picture(one, place), f"{100 * ranking.probabilities[place, 0]:.0f}% sure") for place in at]
            said = f"{counts[true, taken]:,} image{'s' if counts[true, taken] != 1 else ''}"
            if base != label and base in one.rankings:
                earlier = ((one.labels == true) & (one.rankings[base].predicted == taken)).sum()
                said += f", {earlier:,} by {base}"
            rows.append((names[true], names[taken], said, pictures))
        body = plots.confusion_examples(rows) if rows else Markup("<p>none</p>")
        parts.append(fold(one.task.name, body, is_open=not parts))
    return Markup("").join(parts)


class Room:
    """How many pictures a task still may show."""

    def __init__(self, tasks: int):
        self.left = max(PICTURES // max(tasks, 1), 4)

    def take(self, most: int) -> int:
        taken = min(most, self.left)
        self.left -= taken
        return taken


def picture(one: Scored, place: int) -> str:
    return thumbnail(one.samples.read(int(one.rows[place])))
