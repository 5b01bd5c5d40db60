"""Models that are known by name, with the arguments and prompts that their default run uses.

Importing this module loads neither torch nor diffusers, so that `autotune list models` starts at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autotune.spaces.errors import UsageError

_HERE = Path(__file__).resolve().parent

ZOO: Path = _HERE / "zoo"
"""Folder of the reference models and the feature network."""

PROMPTS: Path = _HERE / "prompts"
"""Folder of the prompt files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A model and its default run.

    `source` is a hub id, or the folder that holds `model_index.json`. `height` and `width` are pixels. `call_kwargs`
    go to every call of the pipeline beside prompt, size, steps, guidance and generator. `guidance_scale` is what the
    pipeline is called with: 1.0 is classifier-free guidance switched off, and for the FLUX pipelines it is an
    embedded value, not a second branch (models without that embedding ignore it). `calibration_prompts` and
    `held_out_prompts` are UTF-8 files with one prompt per line, `n_calibration` how many of the former a study uses by
    default. `batch_size` is images per pipeline call. `dtype` names a torch dtype. `memory_gb` is a rough need for
    weights and activations at that dtype. `quality` is the objective that a study has besides latency by default. Of a
    policy prompts are tasks, and `height` and `width` a chunk's actions and their components.

    Example:
        >>> PRESETS["mini-flux"].n_steps
        20
    """

    name: str
    source: str | Path
    pipeline_class: str
    description: str
    n_steps: int
    guidance_scale: float
    height: int
    width: int
    call_kwargs: Mapping[str, object] = field(default_factory=dict)
    calibration_prompts: Path = PROMPTS / "calibration.txt"
    held_out_prompts: Path = PROMPTS / "held_out.txt"
    n_calibration: int = 100
    batch_size: int = 1
    dtype: str = "bfloat16"
    memory_gb: float = 0.0
    quality: str = "deviation"

    @property
    def is_policy(self) -> bool:
        """Whether it is judged by episodes: a prompt is a task, and may come again with another seed."""
        return self.quality == "success"

    @property
    def is_local(self) -> bool:
        """Whether the weights lie in a folder, so that nothing is downloaded."""
        return isinstance(self.source, Path)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a UTF-8 text file, one per line; blank lines and lines that start with `#` are left out.

    Raises:
        UsageError: The file can't be read, is not UTF-8, or holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"a prompt file must be readable UTF-8 text; {path}: {error}") from error
    prompts = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not prompts:
        raise UsageError(f"a prompt file must hold one prompt per line; got none in {path}")
    return prompts


def _mini(
    name: str, pipeline_class: str, guidance_scale: float, description: str, call_kwargs: Mapping[str, object]
) -> Preset:
    return Preset(
        name=name,
        source=ZOO / name,
        pipeline_class=pipeline_class,
        description=description,
        n_steps=20,
        guidance_scale=guidance_scale,
        height=32,
        width=32,
        call_kwargs=call_kwargs,
        calibration_prompts=PROMPTS / "mini_calibration.txt",
        held_out_prompts=PROMPTS / "mini_held_out.txt",
        n_calibration=16,
        batch_size=16,
        dtype="float32",
        memory_gb=1.0,
    )


_ALL = (
    _mini(
        "mini-flux",
        "FluxPipeline",
        1.0,
        "reference model, FLUX architecture, 4.5 M parameters, CIFAR-10 classes",
        {"max_sequence_length": 16},
    ),
    _mini(
        "mini-pixart",
        "PixArtAlphaPipeline",
        3.0,
        "reference model, PixArt architecture, 3.9 M parameters, CIFAR-10 classes",
        {"max_sequence_length": 16, "use_resolution_binning": False, "clean_caption": False},
    ),
    _mini(
        "mini-sd",
        "StableDiffusionPipeline",
        5.0,
        "reference model, Stable Diffusion UNet, 4.7 M parameters, CIFAR-10 classes",
        {},
    ),
    Preset(
        name="mini-policy",
        source=ZOO / "mini-policy",
        pipeline_class="PolicyPipeline",
        description="robot policy, transformer of 2.3 M parameters, five Meta-World tasks (needs the extra `policy`)",
        n_steps=100,
        guidance_scale=1.0,
        height=10,
        width=4,
        calibration_prompts=PROMPTS / "policy_calibration.txt",
        held_out_prompts=PROMPTS / "policy_held_out.txt",
        n_calibration=40,
        dtype="float32",
        memory_gb=0.5,
        quality="success",
    ),
    Preset(
        name="flux",
        source="black-forest-labs/FLUX.1-dev",
        pipeline_class="FluxPipeline",
        description="FLUX.1-dev, 12 B parameters, guidance-distilled (gated: accept its licence on the hub first)",
        n_steps=28,
        guidance_scale=3.5,
        height=1024,
        width=1024,
        call_kwargs={"max_sequence_length": 512},
        memory_gb=38.0,
    ),
    Preset(
        name="flux-schnell",
        source="black-forest-labs/FLUX.1-schnell",
        pipeline_class="FluxPipeline",
        description="FLUX.1-schnell, 12 B parameters, distilled to 4 steps",
        n_steps=4,
        guidance_scale=0.0,
        height=1024,
        width=1024,
        call_kwargs={"max_sequence_length": 256},
        memory_gb=38.0,
    ),
    Preset(
        name="pixart-alpha",
        source="PixArt-alpha/PixArt-XL-2-1024-MS",
        pipeline_class="PixArtAlphaPipeline",
        description="PixArt-alpha XL/2 1024, 0.6 B parameters",
        n_steps=20,
        guidance_scale=4.5,
        height=1024,
        width=1024,
        call_kwargs={"max_sequence_length": 120, "use_resolution_binning": False, "clean_caption": False},
        dtype="float16",
        memory_gb=14.0,
    ),
    Preset(
        name="pixart-sigma",
        source="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        pipeline_class="PixArtSigmaPipeline",
        description="PixArt-Sigma XL/2 1024, 0.6 B parameters",
        n_steps=20,
        guidance_scale=4.5,
        height=1024,
        width=1024,
        call_kwargs={"max_sequence_length": 300, "use_resolution_binning": False, "clean_caption": False},
        dtype="float16",
        memory_gb=14.0,
    ),
    Preset(
        name="sd15",
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        pipeline_class="StableDiffusionPipeline",
        description="Stable Diffusion 1.5, 0.9 B parameters",
        n_steps=50,
        guidance_scale=7.5,
        height=512,
        width=512,
        dtype="float16",
        memory_gb=4.0,
    ),
    Preset(
        name="sdxl",
        source="stabilityai/stable-diffusion-xl-base-1.0",
        pipeline_class="StableDiffusionXLPipeline",
        description="Stable Diffusion XL base, 2.6 B parameters",
        n_steps=50,
        guidance_scale=5.0,
        height=1024,
        width=1024,
        dtype="float16",
        memory_gb=11.0,
    ),
    Preset(
        name="sd3",
        source="stabilityai/stable-diffusion-3-medium-diffusers",
        pipeline_class="StableDiffusion3Pipeline",
        description="Stable Diffusion 3 medium, 2 B parameters (gated: accept its licence on the hub first)",
        n_steps=28,
        guidance_scale=7.0,
        height=1024,
        width=1024,
        call_kwargs={"max_sequence_length": 256},
        dtype="float16",
        memory_gb=18.0,
    ),
    Preset(
        name="qwen-image",
        source="Qwen/Qwen-Image",
        pipeline_class="QwenImagePipeline",
        description="Qwen-Image, 20 B parameters",
        n_steps=50,
        guidance_scale=4.0,
        height=1328,
        width=1328,
        call_kwargs={"max_sequence_length": 512},
        memory_gb=62.0,
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
"""Presets by name, reference models first."""
