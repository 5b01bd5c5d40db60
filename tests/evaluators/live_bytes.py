"""How much memory tensors take at this moment."""

import gc

import torch


def live_bytes() -> int:
    """Bytes of the storages of all tensors that somebody holds; those on the meta device, and fakes, have none."""
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        if (
            issubclass(type(item), torch.Tensor) and item.device.type != "meta"
        ):  # isinstance would wake modules that warn
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
