"""The kinds of data set: one file each, and one line here."""

from udaseg.data.datasets.base import DatasetParams
from udaseg.data.datasets.camvid import CamvidData
from udaseg.data.datasets.folder import FolderData
from udaseg.data.datasets.objects import ObjectsData
from udaseg.data.datasets.toytown import ToytownData

DATASETS: dict[str, type[DatasetParams]] = {
    "toytown": ToytownData,
    "objects": ObjectsData,
    "folder": FolderData,
    "camvid": CamvidData,
}
