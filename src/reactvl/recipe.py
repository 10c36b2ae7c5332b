"""A recipe: a whole run as one TOML file, its tables typed by the stages' own signatures.

    pool = "pool/{00000..00897}.tar"      # relative paths are looked up beside the recipe
    model = "ViT-B-32:openai"

    [retrieve]
    classes = "classes.txt"
    per_class = 200

    [customize.gated-image]               # one table a model; its name is its folder's
    tune = "gated-image"

    [evaluate]
    data = "data/"

`reactvl run recipe.toml --out run/` runs embed, retrieve, every customize, evaluate, each skipped where its result is up to date.

With `--until retrieve` it stops where the pairs can be looked at. What is marked in the page of `reactvl serve run/` lies in
run/review/ (exclude.txt: pairs that are wrong; positives.tsv: pairs that were picked), and the next run uses it.
"""

import os
import shlex
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from reactvl.customize import customize
from reactvl.embed import embed
from reactvl.evaluate import evaluate
from reactvl.index import index
from reactvl.manifest import ReactvlError, changed_files, read_manifest, write_bytes
from reactvl.options import Opt, table
from reactvl.progress import say
from reactvl.retrieve import retrieve

STAGES = {"embed": embed, "retrieve": retrieve, "customize": customize, "evaluate": evaluate, "index": index}
TABLES = {name: table(stage, name.title()) for name, stage in STAGES.items()}
Until = Literal["embed", "retrieve", "customize", "evaluate"]
MARKS = {"exclude": "exclude.txt", "positives": "positives.tsv"}  # retrieve's options, and their files in RUN/review


class Recipe(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A recipe file. A stage without a table has its defaults; evaluate and index run only where they have one."""

    pool: str
    model: str
    embed: TABLES["embed"] = msgspec.field(default_factory=TABLES["embed"])
    retrieve: TABLES["retrieve"]
    customize: dict[str, TABLES["customize"]] = {}
    evaluate: TABLES["evaluate"] | None = None
    index: TABLES["index"] | None = None


def run(
    recipe: Annotated[
        Path | None, Opt("a recipe (TOML); without one, --pool, --classes and --model make it", positional=True)
    ] = None,
    *,
    out: Annotated[
        Path, Opt("folder of the run: recipe.toml, embeddings/, retrieved/, customized/, evaluation/, report.html")
    ],
    pool: Annotated[str | None, Opt("shards of image-text pairs: 'pool/{00000..00897}.tar'")] = None,
    classes: Annotated[str | None, Opt("class names: a file of one a line, or a comma list")] = None,
    model: Annotated[str | None, Opt("model to customize: NAME:TAG or a model folder")] = None,
    tune: Annotated[Literal["gated-image", "locked-text", "full"], Opt("what is trained")] = "gated-image",
    per_class: Annotated[int | None, Opt("most pairs a class")] = None,
    data: Annotated[str | None, Opt("labelled tasks to evaluate on")] = None,
    until: Annotated[Until, Opt("stop after this stage")] = "evaluate",
) -> Path:
    """Run a recipe from pool to report. The same command again resumes it; stages that are up to date are skipped.

    Pairs that were marked in the page of `reactvl serve OUT` (OUT/review/exclude.txt and positives.tsv) are left out and
    put first, beside those of the recipe. Returns `out`. Raises ReactvlError for an unknown key, a wrong type or a missing
    input, before any work.
    """
    asked = {"pool": pool, "classes": classes, "model": model, "per_class": per_class, "data": data}
    if recipe is None and any(value is not None for value in asked.values()):
        made = from_flags(Path(out), pool, classes, model, tune, per_class, data)
    elif recipe is None:
        if not (Path(out) / "recipe.toml").exists():
            raise ReactvlError("run: give a recipe, or --pool, --classes and --model")
        made = read(Path(out) / "recipe.toml")
    else:
        given = [f"--{name.replace('_', '-')}" for name, value in asked.items() if value is not None]
        if given:
            raise ReactvlError(
                f"run: the recipe {recipe} says it already; leave out {', '.join(given)} or edit the recipe"
            )
        made = read(recipe)
    execute(made, Path(out), until)
    return Path(out)


def read(path: Path) -> Recipe:
    """A checked recipe, its relative paths made absolute; ReactvlError names the key and the place of a fault."""
    path = Path(path)
    if not path.is_file():
        raise ReactvlError(f"{path}: no such recipe")
    import tomllib

    try:
        raw = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ReactvlError(f"{path}: not a TOML file ({fault})") from None
    try:
        recipe = msgspec.convert(raw, Recipe)
    except msgspec.ValidationError as fault:
        raise ReactvlError(f"{path}: {fault}{nearest_key(str(fault), raw)}") from None
    for name in recipe.customize:
        if not name or name.startswith(".") or "/" in name or "\\" in name:
            raise ReactvlError(
                f"{path}: customize.{name}: the table's name becomes a folder's; use letters, digits and dashes"
            )
    return located(recipe, path.parent)


def nearest_key(fault: str, raw: dict[str, Any]) -> str:
    """A hint for a mistyped key."""
    import difflib
    import re

    unknown = re.search(r"unknown field `(\w+)`", fault)
    if not unknown:
        return ""
    known = {field for struct in [Recipe, *TABLES.values()] for field in struct.__struct_fields__}
    near = difflib.get_close_matches(unknown[1], known, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def located(recipe: Recipe, home: Path) -> Recipe:
    """Relative paths that lie beside the recipe, from here on absolute. The pool is always a path; other texts are where they exist."""

    def place(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: place(item) for key, item in value.items()}
        if isinstance(value, list):
            return [place(item) for item in value]
        # os.path's answers False for a text that no file system takes as a name; pathlib's raises
        if isinstance(value, str) and value and os.path.exists(home / value):  # noqa: PTH110
            return str((home / value).absolute())
        return value

    raw = place(msgspec.to_builtins(recipe))
    raw["pool"] = "::".join(
        part if Path(part).is_absolute() or "://" in part else str(home.absolute() / part)
        for part in recipe.pool.split("::")
    )
    return msgspec.convert(raw, Recipe)


def from_flags(
    out: Path,
    pool: str | None,
    classes: str | None,
    model: str | None,
    tune: str,
    per_class: int | None,
    data: str | None,
) -> Recipe:
    """The recipe that the flags say, written to `out/recipe.toml` (a differing one there is an error: it may be edited by hand)."""
    lacking = [f"--{name}" for name, value in (("pool", pool), ("classes", classes), ("model", model)) if value is None]
    if lacking:
        raise ReactvlError(f"run: without a recipe it needs {', '.join(lacking)}")
    raw: dict[str, Any] = {
        "pool": pool,
        "model": model,
        "retrieve": {"classes": classes},
        "customize": {tune: {"tune": tune}},
    }
    if per_class is not None:
        raw["retrieve"]["per_class"] = per_class
    if data is not None:
        raw["evaluate"] = {"data": data}
    recipe = located(msgspec.convert(raw, Recipe), Path.cwd())
    path = out / "recipe.toml"
    if path.exists() and read(path) != recipe:
        raise ReactvlError(
            f"{path}: holds another recipe; run it as it is (reactvl run {path} --out {out}) or choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(path, as_toml(recipe))
    return recipe


def execute(recipe: Recipe, out: Path, until: Until) -> None:
    """Run the stages in order, after everything that can be checked without work has been."""
    from reactvl.models import load
    from reactvl.summary import write_summary

    chosen = with_marks(options(recipe.retrieve), out)
    check(recipe, chosen)
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "recipe.toml", as_toml(recipe))  # what was run stands beside its results
    base = load(recipe.model)
    embeddings = embed(recipe.pool, base, out=out / "embeddings", overwrite=True, **options(recipe.embed))
    if recipe.index is not None:
        index(embeddings, out=out / "index", overwrite=True, **options(recipe.index))
    if until == "embed":
        return
    pairs = retrieve(embeddings, out=out / "retrieved", overwrite=True, **chosen)
    if until == "retrieve":
        folder = shlex.quote(str(out))
        say(f"run: stopped after retrieve; look at the pairs and mark them in the page of: reactvl serve {folder}")
        say(f"  go on, without those marked wrong and with those picked: reactvl run --out {folder}")
        return
    tuned = [
        customize(base, pairs, out=out / "customized" / name, overwrite=True, view_cache=out / "views", **options(each))
        for name, each in recipe.customize.items()
    ]
    if until == "customize" or recipe.evaluate is None:
        return
    evaluate([base, *tuned], out=out / "evaluation", overwrite=True, **options(recipe.evaluate))
    write_summary(out)
    say(f"run: {time.monotonic() - began:.0f} s; the report is {out / 'report.html'}")


def with_marks(chosen: dict[str, Any], out: Path) -> dict[str, Any]:
    """Retrieve's options with what was marked in the page of the run; files without a mark change nothing. Says so."""
    from reactvl.retrieve.exclusion import files, lines_of

    joined, said = dict(chosen), []
    for option, name in MARKS.items():
        path = out / "review" / name
        count = sum(1 for _ in lines_of(path, "the list of marked pairs")) if path.exists() else 0
        if count:
            joined[option] = [*files(chosen.get(option)), path]
            said.append(f"{count:,} {'left out' if option == 'exclude' else 'picked by hand'} ({path})")
    if said:
        say(f"run: pairs marked in the review are used: {', '.join(said)}")
    return joined


def check(recipe: Recipe, chosen: dict[str, Any]) -> None:
    """Stop at a bad value before any work: inputs that do not exist, empty classes, unknown tasks and settings.

    chosen: retrieve's options, with the marks of the run.
    """
    from reactvl.pool.patterns import expand
    from reactvl.retrieve.exclusion import read_exclusion
    from reactvl.retrieve.positives import read_positives
    from reactvl.tasks import find
    from reactvl.tasks.benchmarks import benchmark
    from reactvl.tasks.classes import read_class_list
    from reactvl.tasks.templates import read_templates
    from reactvl.train.augmentation import configure

    expand(recipe.pool)
    if ("classes" in chosen) == ("tasks" in chosen):
        what = "has both `classes` and `tasks`" if "tasks" in chosen else "lacks `classes`"
        raise ReactvlError(
            f"recipe: [retrieve] {what}: give a file of one name a line, a list, or a benchmark's name as tasks"
        )
    entries = read_class_list(chosen["classes"]) if "classes" in chosen else []
    for name in chosen.get("tasks", []):
        entries += benchmark(name).classes
    read_exclusion(chosen.get("exclude"))
    read_positives(chosen.get("positives"), entries)
    if "templates" in chosen:
        read_templates(chosen["templates"])
    for each in recipe.customize.values():
        configure(options(each).get("aug_cfg", []))
    if recipe.evaluate is not None:
        given = options(recipe.evaluate)
        if not {"data", "imagenet_val"} & set(given):
            raise ReactvlError("recipe: [evaluate] lacks `data`: the folder of the tasks (or `imagenet_val`)")
        chosen = {name: given[name] for name in ("classes", "templates", "imagenet_val") if name in given}
        find(given.get("tasks"), given.get("data"), **chosen)


def as_toml(recipe: Recipe) -> bytes:
    """The recipe as a file; what is absent stays absent (TOML has no null)."""
    import tomli_w

    return tomli_w.dumps(
        {key: value for key, value in msgspec.to_builtins(recipe).items() if value is not None}
    ).encode()


def options(given: msgspec.Struct) -> dict[str, Any]:
    """What a table says; the rest is the stage's own default."""
    return {key: value for key, value in msgspec.structs.asdict(given).items() if value is not msgspec.UNSET}


def open(folder: Annotated[Path, Opt("a stage's folder, or a run's", positional=True)]) -> Any:  # noqa: A001 - `reactvl.open`
    """The handle of a finished stage folder: Embeddings, Catalog, Pool, Index, Pairs, Model or Scores; of a run, Run."""
    if (Path(folder) / "recipe.toml").is_file() and not (Path(folder) / "manifest.json").exists():
        from reactvl.handles.run import Run

        return Run(folder)
    stage = read_manifest(folder).stage
    if stage in ("embed", "import"):
        from reactvl.handles.embeddings import Embeddings

        return Embeddings(folder)
    if stage == "catalog":
        from reactvl.handles.catalog import Catalog

        return Catalog(folder)
    if stage == "customize" or (Path(folder) / "open_clip_config.json").exists():  # the latter an exported model
        from reactvl.models import load

        return load(f"./{folder}" if "/" not in str(folder) else str(folder))
    if stage in ("pack", "export"):
        from reactvl.handles.pool import Pool

        return Pool(folder)
    if stage == "index":
        from reactvl.handles.index import Index

        return Index(folder)
    if stage == "retrieve":
        from reactvl.handles.pairs import Pairs

        return Pairs(folder)
    if stage == "evaluate":
        from reactvl.handles.scores import Scores

        return Scores(folder)
    raise ReactvlError(f"{folder}: the output of `{stage}` has no handle; it is used by name")


def verify(folder: Annotated[Path, Opt("a stage's folder", positional=True)]) -> None:
    """Compare every file of a stage's folder with the hash in its manifest; ReactvlError names those that differ."""
    changed = changed_files(folder)
    if changed:
        raise ReactvlError(
            f"{folder}: {len(changed)} files differ from the manifest: {', '.join(changed[:5])}; run the stage again"
        )
    say(f"verify: {folder} is whole ({len(read_manifest(folder).files)} files)")
