"""A CLIP that is drawn at random, with a byte-level tokenizer, in a folder as the hub has them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

SIDE = 24
N_TOKENS = 20


def make_clip(folder: Path, seed: int = 0) -> Path:
    """Write the folder: `config.json`, `model.safetensors`, the tokenizer."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, "<start>", "<end>"])}
    start, end = vocabulary["<start>"], vocabulary["<end>"]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", start), ("<end>", end)]
    )
    make: Any = PreTrainedTokenizerFast  # has no annotations
    fast = make(tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>", pad_token="<end>")
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(vocabulary), "max_position_embeddings": N_TOKENS, "bos_token_id": start,
            "eos_token_id": end, "pad_token_id": end}  # fmt: skip
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(seed)
    model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    return folder
