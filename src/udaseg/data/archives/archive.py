"""A published archive as data: where it lies, and which files in it are used."""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """A .zip or .tar.gz on the network.

    Only the files in it have checksums, not the archive: GitHub, for one, packs it anew for every download.
    """

    address: str
    """URL of the archive."""
    name: str
    """The archive's file name in the download folder, and in a user's mirror folder."""
    folder: str
    """Name of the folder that its verified files are unpacked into; another version of the archive has another one."""
    prefix: str
    """Folder inside the archive that holds everything, with a final slash."""
    listing: Path
    """CSV file `path,bytes,sha256` of the files to unpack; paths are relative to `prefix`."""

    def files(self) -> dict[str, tuple[int, str]]:
        """The listing as path → (bytes, hexadecimal SHA-256)."""
        with self.listing.open(newline="") as file:
            return {row["path"]: (int(row["bytes"]), row["sha256"]) for row in csv.DictReader(file)}
