"""Which files to classify: folders, patterns and single files, as text."""

import glob
from pathlib import Path

from reactvl.manifest import ReactvlError
from reactvl.tasks.image_folder import images_under


def image_files(given: str | Path | list[str] | list[Path]) -> list[Path]:
    """The files of folders (searched through, by the usual extensions), patterns (`*`, `?`, `**`) and paths, each once.

    A folder's and a pattern's files are sorted; several entries keep their order. Raises ReactvlError for an entry
    that does not exist or yields no image.
    """
    entries = [given] if isinstance(given, str | Path) else list(given)
    if not entries:
        raise ReactvlError("images: nothing given; name a folder, files, or a pattern such as 'photos/*.jpg'")
    found: dict[Path, None] = {}
    for entry in entries:
        found |= dict.fromkeys(files_of(str(entry)))
    return list(found)


def files_of(entry: str) -> list[Path]:
    path = Path(entry).expanduser()
    if path.is_dir():
        files = images_under(path)
        if not files:
            raise ReactvlError(f"images {entry}: no image in the folder or below")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(entry):
        hits = glob.iglob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no pattern with a root of its own
        files = sorted(Path(hit) for hit in hits if Path(hit).is_file())
        if not files:
            raise ReactvlError(f"images {entry}: the pattern matches no file")
        return files
    raise ReactvlError(f"images {entry}: no such file or folder")
