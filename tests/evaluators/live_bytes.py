"""How much memory tensors take at this moment."""

import gc

import torch


def live_bytes() -> int:
    """Bytes of the storages of all tensors that somebody holds."""
    while gc.collect():  # what goes may leave others that nobody holds
        pass
    storages = {}
    for item in gc.get_objects():
        if issubclass(type(item), torch.Tensor):  # isinstance would wake modules that warn
            storage = item.untyped_storage()
            storages[storage._cdata] = storage.nbytes()  # what compilers leave has no address
    return sum(storages.values())
