"""Any data set's archive: downloaded, unpacked, and verified."""

from pathlib import Path

from udaseg.data.archives.archive import Archive
from udaseg.data.archives.download import download
from udaseg.data.archives.unpack import unpack
from udaseg.errors import UserError
from udaseg.runs.folder import locked


def fetch(archive: Archive, mirror: Path | None, downloads: Path) -> Path:
    """The folder below `downloads` with the archive's verified files. An earlier call may have made it.

    Args:
        mirror: folder that may already hold the archive under its name; then no connection is made.

    Raises:
        UserError: the archive cannot be downloaded, is damaged, or does not hold the files of its listing.
    """
    folder = downloads / archive.folder
    with locked(downloads / f".{archive.folder}.lock"):  # two sets that are prepared at once may both need it
        if not folder.is_dir():
            file = download(archive.address, downloads / archive.name, mirror)
            try:
                unpack(file, folder, archive.files(), archive.prefix)
            except UserError as error:
                if file != downloads / archive.name:  # files in the mirror are the user's: not ours to delete
                    raise
                file.unlink()  # the next attempt would otherwise use it again
                raise UserError(f"{error}\nThe download has been deleted; run the same command again.") from None
    return folder
