"""A stand-in for NVIDIA's library, which says that FAKE_GPUS are here: a JSON list of [uuid, name, instances].

Without that variable there is no driver. Instances are [uuid, name], or null where an index is not in use.
"""

import json
import os


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_NotFound(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


started = 0


def nvmlInit():
    global started
    if "FAKE_GPUS" not in os.environ:
        raise NVMLError_LibraryNotFound
    if os.environ["FAKE_GPUS"] == "broken":
        raise NVMLError("Driver/library version mismatch")
    started += 1


def nvmlShutdown():
    global started
    started -= 1


def gpus():
    assert started, "NVML was not started"
    return json.loads(os.environ["FAKE_GPUS"])


def nvmlSystemGetDriverVersion():
    return "580.65.06"


def nvmlDeviceGetCount():
    return len(gpus())


def nvmlDeviceGetHandleByIndex(index):
    return gpus()[index]


def nvmlDeviceGetUUID(handle):
    return handle[0]


def nvmlDeviceGetName(handle):
    return handle[1]


def nvmlDeviceGetMaxMigDeviceCount(handle):
    if handle[2] is None:
        raise NVMLError_NotSupported
    return len(handle[2])


def nvmlDeviceGetMigDeviceHandleByIndex(handle, index):
    if handle[2][index] is None:
        raise NVMLError_NotFound
    return handle[2][index]
