"""Being here puts this folder on the import path, so that the tests of every part find the helpers beside it."""
