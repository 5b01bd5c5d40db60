"""Folders in diffusers format: whether one is complete and safe to load, and a hash of what it holds.

Importing this module loads neither torch nor diffusers.
"""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from autotune.spaces.errors import ModelNotFoundError

INDEX = "model_index.json"

# A component of any other library would be an import by a name that stands in a downloaded file.
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
_OWN = ("autotune.evaluators.policy.transformer", "PolicyTransformer")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HASHED = (".json", ".safetensors", ".txt", ".model")


def check_model_folder(folder: Path) -> None:
    """Return if `folder` holds a complete pipeline, in safetensors and without code; nothing is loaded.

    Raises:
        ModelNotFoundError: A file is missing, broken, truncated or pickled, or a component is code. The message
            names the file.
    """
    index = read_json(folder / INDEX)
    if not isinstance(index.get("_class_name"), str):
        raise ModelNotFoundError(
            f"{folder / INDEX} must name its pipeline under '_class_name'; save the pipeline again"
        )
    for name, library in components(index).items():
        if library not in _LIBRARIES and tuple(index[name]) != _OWN:  # type: ignore[arg-type]
            raise ModelNotFoundError(
                f"components of a pipeline must come from diffusers or transformers; {folder / INDEX} takes {name!r} "
                f"from {library!r}: use a pipeline without it"
            )
        check_component(folder / name)


def components(index: dict[str, object]) -> dict[str, str]:
    """Library by component name, for the components of a `model_index.json` that are not null."""
    pairs = {name: value for name, value in index.items() if not name.startswith("_") and isinstance(value, list)}
    return {name: str(value[0]) for name, value in pairs.items() if len(value) == 2 and value[0] is not None}


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file of a model folder.

    Raises:
        ModelNotFoundError: The file is missing, unreadable, or not a JSON object.
    """
    if not path.is_file():
        single = next(iter(path.parent.glob("*.safetensors")), None) if path.name == INDEX else None
        hint = f" ({single.name} alone is no pipeline: convert it with save_pretrained)" if single else ""
        raise ModelNotFoundError(f"a model folder in diffusers format must hold {path.name}; {path} is missing{hint}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{path} must be readable JSON; {error}: save or download the model again") from error
    if not isinstance(data, dict):
        raise ModelNotFoundError(f"{path} must hold a JSON object; got {type(data).__name__}: save the model again")
    return data


def hash_model_folder(folder: Path) -> str:
    """SHA-256 over names and contents of the pipeline's configuration, vocabulary and weight files."""
    names = [INDEX, *(f"{name}/{path.name}" for name in components(read_json(folder / INDEX))
                      for path in (folder / name).iterdir() if path.suffix in _HASHED)]  # fmt: skip
    return _hash_files(folder, names)


def hash_component(folder: Path) -> str:
    """SHA-256 over names and contents of a single model's configuration, vocabulary and weight files."""
    return _hash_files(folder, [path.name for path in folder.iterdir() if path.suffix in _HASHED])


def _hash_files(folder: Path, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def check_component(folder: Path) -> None:
    """Return if `folder` holds one part of a pipeline, its weights if it has some in safetensors, and no code.

    Raises:
        ModelNotFoundError: see `check_model_folder`.
    """
    if not any(folder.glob("*.json")):
        raise ModelNotFoundError(f"each component that {INDEX} names needs a configuration; {folder} has none")
    code = next(folder.glob("*.py"), None)
    if code is not None:
        raise ModelNotFoundError(f"a component must hold no code, which autotune never runs; got {code}: remove it")
    for path in folder.glob("*.json"):
        read_json(path)
    if not (folder / "config.json").is_file():
        return  # a tokenizer, scheduler or image processor: no weights
    weights = list(folder.glob("*.safetensors"))
    for path in folder.glob("*.safetensors.index.json"):
        shards = read_json(path).get("weight_map")
        weights += [folder / str(name) for name in set(shards.values())] if isinstance(shards, dict) else []
    if not weights:
        pickled = next((path for pattern in _PICKLED for path in folder.glob(pattern)), None)
        got = f"{pickled} is a pickle, which autotune never opens" if pickled else f"{folder} has none"
        raise ModelNotFoundError(
            f"weights must be safetensors files; {got}: save them with save_pretrained(..., safe_serialization=True)"
        )
    for path in weights:
        _check_weights(path)


def _check_weights(path: Path) -> None:
    try:
        with safe_open(str(path), framework="numpy"):
            pass
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"a shard of the weights is missing: {path}; download the model again") from error
    except (OSError, SafetensorError) as error:
        raise ModelNotFoundError(
            f"{path} must be a whole safetensors file; {error}: download the model again"
        ) from error
