"""What a folder's task asks for: classes and templates of its own where they lie in it, else those of the benchmark that the
folder is named for.

    food/classnames.txt                             one class a line; the line's number is the label
    food/zeroshot_classification_templates.txt      one template a line, `{c}` for the class
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from reactvl.tasks.benchmarks import Benchmark, Metric, benchmark, by_folder, known
from reactvl.tasks.classes import ClassEntry, read_class_list
from reactvl.tasks.task import Samples, Task, called
from reactvl.tasks.templates import read_templates

CLASSES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
DEFAULT_TEMPLATES = ("a photo of a {}.",)


def task_of(
    folder: Path,
    classes: Sequence[ClassEntry],
    splits: dict[str, Callable[[], Samples]],
    *,
    templates: Sequence[str] | None = None,
    multilabel: bool = False,
    name: str | None = None,
) -> Task:
    """The task of a folder with these classes, in the order of the labels.

    It is the benchmark of its name if it has as many classes, and one label an image or several as that has: then the
    benchmark's templates are asked where none lie in the folder, and a class of one name gets the benchmark's synonyms. It
    reports the metric of the benchmark of its name as far as its labels allow.
    """
    name = name or called(folder)
    meant = benchmark_called(name)
    many = meant is not None and meant.elevater is not None and meant.elevater.multilabel
    same = meant is not None and len(meant.classes) == len(classes) and many == multilabel
    further = {entry.name: entry.synonyms for entry in meant.classes} if same else {}
    return Task(
        name=name,
        classes=[entry.name for entry in classes],
        templates=list(templates or templates_in(folder) or (meant.templates if same else DEFAULT_TEMPLATES)),
        metric=metric_for(meant, len(classes), multilabel),
        folder=folder,
        splits=splits,
        synonyms=[
            further.get(entry.name, entry.synonyms) if len(entry.synonyms) == 1 else entry.synonyms for entry in classes
        ],
        benchmark=meant.name if same else None,
        test_images=meant.test_images if same else None,
        multilabel=multilabel,
    )


def metric_for(meant: Benchmark | None, classes: int, multilabel: bool) -> Metric:
    """The benchmark's metric, or the one that labels of this kind can be scored by."""
    if multilabel:
        return "11point_mAP"
    metric = meant.metric if meant else "accuracy"
    return "accuracy" if metric == "11point_mAP" or (metric == "roc_auc" and classes != 2) else metric


def classes_in(folder: Path) -> list[ClassEntry] | None:
    """The classes that lie in a folder, else those of the benchmark that it is named for; None where there are neither."""
    if (folder / CLASSES).is_file():
        return read_class_list(folder / CLASSES)
    meant = benchmark_called(called(folder))
    return list(meant.classes) if meant else None


def templates_in(folder: Path) -> list[str]:
    """The templates that lie in a folder, if any."""
    return read_templates(folder / TEMPLATES) if (folder / TEMPLATES).is_file() else []


def benchmark_called(name: str) -> Benchmark | None:
    """The benchmark of a name in any spelling, or of its folder's name under ELEVATER's root."""
    found = known(name)
    return benchmark(found) if found else by_folder(name)
