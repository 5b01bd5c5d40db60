"""Rewards with two towers: how well an image fits its prompt, by the embeddings of both."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, constants, snapshot_download
from PIL import Image
from transformers import AutoTokenizer, CLIPModel

from autotune.evaluators.load import PROBE_S, quietly, short_reason
from autotune.evaluators.model_folder import check_component, hash_component, read_json
from autotune.evaluators.resolve import cached_snapshot
from autotune.evaluators.rewards import REWARD_MODELS, MetricChoice
from autotune.spaces.errors import EvaluatorError, ModelNotFoundError

BATCH = 16

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own normalisation, where a model's folder does not give another."""

_TOKENIZER_FILES = ["*.json", "*.txt"]
_MODEL_FILES = [*_TOKENIZER_FILES, "model*.safetensors"]


class ClipReward:
    """A reward in the format of `transformers.CLIPModel`; on the processor, save while it scores.

    So the pipeline's peak memory is its own. `identity` tells its weights: a hub commit, or a hash of a folder.
    """

    def __init__(self, name: str, folder: Path, tokenizer: Path, *, scaled: bool, identity: str) -> None:
        self.name, self.identity = name, identity
        if read_json(folder / "config.json").get("model_type") != "clip":
            raise ModelNotFoundError(
                f"the weights of {name} must be those of a transformers CLIPModel; {folder / 'config.json'} says "
                f"otherwise: give another folder with --metric {name}=FOLDER"
            )
        try:
            with quietly():
                load: Any = CLIPModel.from_pretrained  # its annotation leaves out the loading info
                self._model, found = load(folder, use_safetensors=True, local_files_only=True, output_loading_info=True)
                self._tokenizer = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelNotFoundError(
                f"{folder} must load as a transformers CLIPModel with a tokenizer: {reason}"
            ) from error
        if found["missing_keys"] or found["mismatched_keys"]:
            raise ModelNotFoundError(
                f"the weights in {folder} must be all of the model's; missing: {sorted(found['missing_keys'])[:3]}"
            )
        self._model.float().eval().requires_grad_(False)
        config = self._model.config
        self._side, self._n_tokens = config.vision_config.image_size, config.text_config.max_position_embeddings
        path = folder / "preprocessor_config.json"
        preprocessor = read_json(path) if path.is_file() else {}
        self._mean = torch.tensor(preprocessor.get("image_mean", _MEAN))[:, None, None]
        self._std = torch.tensor(preprocessor.get("image_std", _STD))[:, None, None]
        self._scale = float(self._model.logit_scale.exp()) if scaled else 1.0

    @torch.no_grad()
    def score(self, images: torch.Tensor, prompts: Sequence[str], device: torch.device) -> tuple[float, ...]:
        """One value per image (n, 3, height, width) in [0, 1] and its prompt, of which the first 77 tokens count.

        Raises:
            EvaluatorError: the device's memory is short.
        """
        scores: list[float] = []
        try:
            self._model.to(device)
            for start in range(0, len(prompts), BATCH):
                batch = slice(start, start + BATCH)
                tokens = self._tokenizer(
                    list(prompts[batch]), padding=True, truncation=True, max_length=self._n_tokens, return_tensors="pt"
                ).to(device)
                pixels = torch.stack([self.preprocess(image) for image in images[batch]]).to(device)
                out = self._model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
                )
                scores += (self._scale * (out.image_embeds * out.text_embeds).sum(dim=1)).tolist()
        except torch.OutOfMemoryError as error:
            raise EvaluatorError(
                f"{self.name} does not fit into the memory of {device} beside the model: leave the metric out"
            ) from error
        finally:
            self._model.to("cpu")
        return tuple(scores)

    def preprocess(self, image: torch.Tensor) -> torch.Tensor:
        """What the network reads of an image (3, height, width) in [0, 1]: CLIP's resize, crop and normalisation."""
        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        height, width = pixels.shape[:2]
        side, short = self._side, min(height, width)
        size = (max(side, int(side * width / short)), max(side, int(side * height / short)))
        resized = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        cropped = np.array(resized.crop((left, top, left + side, top + side)), np.float32) / 255
        return (torch.from_numpy(cropped).permute(2, 0, 1) - self._mean) / self._std


def load_reward(choice: MetricChoice) -> ClipReward:
    """The reward of a choice, from its folder, the hub cache, or the hub.

    Raises:
        ModelNotFoundError: the weights can't be had, are no safetensors, or are of another architecture.
    """
    entry = REWARD_MODELS[choice.name]
    source = choice.source or entry.source
    folder, identity = _locate(choice.name, source, _MODEL_FILES, check_component)
    tokenizer = folder
    if choice.source is None and entry.tokenizer is not None:
        tokenizer, commit = _locate(choice.name, entry.tokenizer, _TOKENIZER_FILES, _check_tokenizer)
        identity = f"{identity}/{commit}"
    _check_tokenizer(tokenizer)
    return ClipReward(choice.name, folder, tokenizer, scaled=entry.scaled, identity=identity)


def _locate(name: str, source: str, files: list[str], check: Callable[[Path], None]) -> tuple[Path, str]:
    """Folder and identity of a folder or hub id; what is not in the cache is downloaded."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        check(folder)
        return folder, hash_component(folder)
    cached = cached_snapshot(source)
    if cached is not None:
        try:
            check(cached)
            return cached, cached.name
        except ModelNotFoundError:
            pass  # incomplete: the download below goes on with it
    try:
        HfApi().model_info(source, timeout=PROBE_S)
        folder = Path(snapshot_download(source, allow_patterns=files))
    except Exception as error:  # as in load.fetch_snapshot
        raise ModelNotFoundError(
            f"looked for {source!r}, the weights of {name}, on the disk, in the cache {constants.HF_HUB_CACHE} and on "
            f"the hub: {short_reason(error)}. Give a folder in transformers format: --metric {name}=FOLDER"
        ) from error
    check(folder)
    return folder, folder.name


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise ModelNotFoundError(f"a tokenizer must hold tokenizer.json or vocab.json; {folder} has neither")
