"""Recipes of small checkpoints, by model type; types that are alike share a recipe."""

from __future__ import annotations

from typing import Any

from bench.model_matrix.small_checkpoint import FFN, HEADS, LAYERS, PATCH, TILE, WIDTH, Recipe

SQUARE = {"height": TILE, "width": TILE}
PINPOINTS = [[TILE, TILE], [TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
"""Sizes in pixels of an image in tiles."""

AREA_IMAGES: dict[str, Any] = {"patch_size": PATCH, "size": {"shortest_edge": 256, "longest_edge": 64 * 64}}
"""An image processor for images of any size: the areas are in pixels."""

CLIP_IMAGES = {"size": {"shortest_edge": TILE}, "crop_size": SQUARE}

MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
"""Rotary positions with axes for time, height and width: eight frequencies of a head of 16."""

INTERLEAVED_MROPE = {**MROPE, "partial_rotary_factor": 1.0, "mrope_interleaved": True}

VISION_TOKENS = {
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
GLM_TOKENS = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}
ERNIE_TOKENS = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
OMNI_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
GEMMA_TOKENS = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<image>",
    "video_token": "<video>",
}
MINICPM_TOKENS = {
    name: f"<{name}>"
    for part in ("image", "slice", "image_id")
    for name in (f"{part}_start_token", f"{part}_end_token", "image_token", "video_token")
}
TILE_TOKENS = tuple(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))


def qwen(**changes: Any) -> Recipe:
    """Return the recipe of Qwen2-VL's relatives, with changes."""
    values: dict[str, Any] = {
        "image_text": "{vision_start_token}{image_token}{vision_end_token}",
        "tokens": VISION_TOKENS,
        "images": AREA_IMAGES,
        "config": {"text_config.rope_parameters": MROPE},
        "image_class": "Qwen2VLImageProcessorPil",
    }
    return Recipe(**(values | changes))


def glm(**changes: Any) -> Recipe:
    """Return the recipe of GLM-4.1V's relatives, with changes."""
    values: dict[str, Any] = {
        "image_text": "{image_start_token}{image_token}{image_end_token}",
        "tokens": GLM_TOKENS,
        "images": AREA_IMAGES,
        "config": {"text_config.rope_parameters": MROPE},
    }
    return Recipe(**(values | changes))


def llava(**changes: Any) -> Recipe:
    """Return the recipe of LLaVA 1.5, with changes."""
    processor = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return Recipe(**({"images": CLIP_IMAGES, "processor": processor} | changes))


LLAVA_TILES: dict[str, Any] = {
    "images": {**CLIP_IMAGES, "image_grid_pinpoints": PINPOINTS},
    "config": {"image_grid_pinpoints": PINPOINTS},
}
IDEFICS = Recipe(
    images={"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}},
    processor={"image_seq_len": 4},
    extra_tokens=("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *TILE_TOKENS),
)
INTERNVL = Recipe(tokens=INTERNVL_TOKENS, images={"size": SQUARE, "max_patches": 2}, processor={"image_seq_length": 4})
MINICPM = Recipe(tokens=MINICPM_TOKENS, images={"patch_size": PATCH, "scale_resolution": 64, "max_slice_nums": 2})
OMNI = qwen(
    tokens=OMNI_TOKENS,
    image_text="{vision_bos_token}{image_token}{vision_eos_token}",
    # A published configuration has this token, which transformers' class does not declare.
    config={"text_config.rope_parameters": MROPE, "vision_start_token_id": "<|vision_bos|>"},
    processor_class="Qwen2_5OmniProcessor",
)
SAM = {"global_attn_indexes": [1], "window_size": 2, "num_pos_feats": 16, "mlp_dim": FFN, "output_channels": WIDTH}
GEMMA4_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": WIDTH,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": WIDTH // HEADS,
    "patch_size": PATCH,
    "pooling_kernel_size": 2,
    "position_embedding_size": 64,
}

RECIPES: dict[str, Recipe] = {
    "aria": Recipe(
        processor={"size_conversion": {490: 4, 980: 8}},
        config={
            "vision_config.image_size": 980,
            "vision_config.patch_size": 140,
            "projector_patch_to_query_dict": {49: 8, 9: 4},
            "max_value_projector_patch_to_query_dict": 8,
        },
    ),
    "aya_vision": Recipe(
        images={"size": SQUARE, "crop_to_patches": True, "max_patches": 2},
        processor={"patch_size": PATCH, "img_size": TILE, "downsample_factor": 2},
        config={"image_token_index": "<|IMG_PATCH|>", "vision_config.vision_use_head": False},
        extra_tokens=("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL"),
    ),
    "cohere_compass": qwen(
        tokens={name: text.upper() for name, text in VISION_TOKENS.items()},
        image_class=None,
        config={
            "text_config.rope_parameters": {"full_attention": MROPE, "sliding_attention": MROPE},
            "text_config.layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "cosmos3_edge": qwen(image_class=None, config={}),
    "deepseek_vl": Recipe(images={"size": SQUARE}, processor={"num_image_tokens": 16}),
    "deepseek_vl_hybrid": Recipe(
        images={"size": SQUARE, "high_res_size": {"height": 128, "width": 128}},
        processor={"num_image_tokens": 16},
        config={
            "high_res_vision_config.image_size": 128,
            **{f"high_res_vision_config.{name}": value for name, value in SAM.items()},
        },
    ),
    "emu3": Recipe(
        images={"min_pixels": 256, "max_pixels": 4096},
        tokens={
            "boi_token": "<|image start|>",
            "eoi_token": "<|image end|>",
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        },
        begin="<bos>",
        config={
            "vq_config.base_channels": 32,
            "vq_config.channel_multiplier": [1, 1, 1, 1],
            "vq_config.codebook_size": 8,
            "vocabulary_map": {"<image>": 5, **{f"<|visual token {code:06}|>": 10 + code for code in range(8)}},
        },
    ),
    "ernie4_5_vl_moe": qwen(
        image_text="{image_start_token}{image_token}{image_end_token}",
        tokens=ERNIE_TOKENS,
        image_class=None,
        config={
            "text_config.moe_intermediate_size": [16, 16],
            "text_config.mlp_layer_types": ["dense", "sparse"],
            "text_config.rope_parameters": {**MROPE, "mrope_section": [3, 3, 2]},
        },
    ),
    "exaone4_5": qwen(),
    "gemma3": Recipe(
        image_text="{boi_token}",
        tokens=GEMMA_TOKENS,
        images={"size": SQUARE},
        processor={"image_seq_length": 4},
        config={"mm_tokens_per_image": 4, "vision_config.vision_use_head": False},
    ),
    "gemma4": Recipe(
        tokens={**GEMMA_TOKENS, "audio_token": "<audio>", "boa_token": "<boa>", "eoa_token": "<eoa>"},
        extra_tokens=("<|video|>",),
        images={"patch_size": PATCH, "max_soft_tokens": 70, "pooling_kernel_size": 2},
        config={
            "text_config.per_layer_config": {1: {"head_dim": 32}},
            "text_config.hidden_size_per_layer_input": 8,
            "vision_config": GEMMA4_VISION,
        },
    ),
    "glm46v": glm(),
    "glm4v": glm(),
    "glm4v_moe": glm(
        image_class="Glm4vImageProcessorPil",
        config={
            "text_config.rope_parameters": {**MROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5},
        },
    ),
    "glm5_next": glm(config={}),
    "glm_ocr": glm(image_class="Glm46VImageProcessorPil", processor_class="Glm46VProcessor"),
    "glmga": glm(processor_class="Glm46VProcessor"),
    "got_ocr2": Recipe(
        image_text="<img>{image_token}</img>",
        tokens={"image_token": "<imgpad>"},
        extra_tokens=("<img>", "</img>"),
        images={"size": {"height": 64, "width": 64}},
        attention="eager",
        config={f"vision_config.{name}": value for name, value in SAM.items() if name != "num_pos_feats"},
    ),
    "granite_docling": Recipe(
        images={"size": SQUARE, "max_patches": 4},
        processor={"image_seq_len": 1},
        extra_tokens=IDEFICS.extra_tokens,
    ),
    "hunyuan_vl": Recipe(
        image_text="{image_start_token}{image_token}{image_end_token}",
        tokens={"image_start_token": "<img>", "image_end_token": "</img>"},
        images=AREA_IMAGES,
        config={
            "text_config.rope_parameters": {**MROPE, "mrope_section": [2, 2, 2, 2]},
            "text_config.head_dim": WIDTH // HEADS,
        },
    ),
    "idefics2": Recipe(
        images={"size": {"shortest_edge": 32, "longest_edge": 64}},
        tokens={"image_boundary_token": "<fake_token_around_image>"},
        processor={"image_seq_len": 4},
    ),
    "idefics3": IDEFICS,
    "internvl": INTERNVL,
    "janus": Recipe(
        tokens={"boi_token": "<img>", "eoi_token": "</img>"},
        images={"size": SQUARE},
        processor={"num_image_tokens": 16},
        config={
            "vision_config.num_image_tokens": 16,
            "vq_config.base_channels": 32,
            "vq_config.latent_channels": 8,
            "vq_config.num_embeddings": 16,
            "vq_config.image_token_embed_dim": WIDTH,
            "vq_config.channel_multiplier": [1, 1],
            "vq_config.num_res_blocks": 1,
            "vq_config.num_patches": 4,
        },
    ),
    "lfm3_vl": qwen(config={}),
    "lighton_ocr": Recipe(
        tokens={"image_break_token": "<break>", "image_end_token": "<end>"},
        images={"patch_size": {"height": 2 * PATCH, "width": 2 * PATCH}, "size": {"longest_edge": 2 * TILE}},
        processor={"patch_size": PATCH, "spatial_merge_size": 2},
    ),
    "llava": llava(),
    "llava_next": llava(**LLAVA_TILES),
    "llava_next_video": llava(**LLAVA_TILES),
    "llava_onevision": Recipe(
        images={"size": SQUARE, "image_grid_pinpoints": PINPOINTS},
        processor={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        config={"image_grid_pinpoints": PINPOINTS},
    ),
    "minicpmv4_6": MINICPM,
    "minicpmv4_7": MINICPM,
    "mllama": Recipe(
        tokens={"image_token": "<|image|>"},
        images={"size": SQUARE, "max_image_tiles": 4},
        begin="<bos>",
        config={
            "vision_config.num_global_layers": 1,
            "vision_config.intermediate_layers_indices": [0],
            "vision_config.vision_output_dim": 2 * WIDTH,
            "text_config.cross_attention_layers": [1],
        },
    ),
    "ovis2": Recipe(
        images={"size": SQUARE},
        extra_tokens=("<IMG_START>", "<IMG_ATOM>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"),
        processor={"image_seq_length": 16},
        config={
            "image_token_id": "<IMG_ATOM>",
            "visual_indicator_token_ids": ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"],
        },
    ),
    "paddleocr_vl": qwen(image_class=None),
    "qianfan_ocr": INTERNVL,
    "qwen2_5_omni_thinker": OMNI,
    "qwen2_5_vl": qwen(),
    "qwen2_vl": qwen(config={"text_config.rope_parameters": MROPE, "vision_config.embed_dim": WIDTH}),
    "qwen3_5": qwen(config={"text_config.rope_parameters": INTERLEAVED_MROPE}),
    "qwen3_5_moe": qwen(config={"text_config.rope_parameters": INTERLEAVED_MROPE}),
    "qwen3_omni_moe_thinker": OMNI,
    "qwen3_vl": qwen(),
    "qwen3_vl_moe": qwen(),
    "qwen4_exp": qwen(
        config={
            "text_config.rope_parameters": INTERLEAVED_MROPE,
            "text_config.indexer_n_heads": HEADS,
            "text_config.indexer_kv_heads": 1,
            "text_config.indexer_head_dim": 16,
            "text_config.indexer_budget": 512,
            "text_config.indexer_compress_ratio": 4,
            "text_config.hc_lowrank": 8,
            "text_config.ngram_vocab_size_base": 100,
            "text_config.ple_embed_dim": 16,
        }
    ),
    "smolvlm": IDEFICS,
    "video_llama_3": qwen(image_class=None, image_text="{image_token}", config={}),
    "video_llava": llava(),
    "vipllava": llava(config={"vision_feature_layer": [-1, -2]}),
}

NOTES = {"smolvlm": "the package num2words (`pip install 'mmre-runner[smolvlm]'`)"}
"""What a type needs beyond the project's own packages."""

ENCODER_DECODER = "it is an encoder with a decoder of its own, without a chat form"
CAPTIONS = "it describes or answers about one image, without a chat form"
PIXTRAL = "its processor needs torchvision, which the project does not use"

TIMM = "its vision tower needs timm and torchvision, which the project does not use"

UNTRIED = {
    "blip": CAPTIONS,
    "blip-2": CAPTIONS,
    "cosmos3_omni": "transformers has no processor of this type",
    "diffusion_gemma": "it denoises blocks of text; the trainer's loss is that of the next token",
    "evolla": "it reads proteins, not images",
    "fast_vlm": TIMM,
    "florence2": ENCODER_DECODER,
    "fuyu": CAPTIONS,
    "gemma3n": TIMM,
    "git": CAPTIONS,
    "hyperclovax_vision_v2": "the test has no tokenizer of the class that transformers uses for it",
    "idefics": "its processor has no form in which a prompt marks an image",
    "instructblip": CAPTIONS,
    "instructblipvideo": "it reads videos, not images",
    "kosmos-2": CAPTIONS,
    "kosmos-2.5": "it transcribes pages, without a chat form",
    "mistral3": PIXTRAL,
    "mistral4": "transformers has no processor of this type",
    "mistral_large4": PIXTRAL,
    "paligemma": "its published checkpoints have no chat template, and its prompts attend in both directions",
    "pi0": "it controls robots",
    "pix2struct": ENCODER_DECODER,
    "pp_chart2table": "it transcribes charts, without a chat form",
    "pp_formulanet": "it transcribes formulas, without a chat form",
    "shieldgemma2": "it classifies images",
    "t5gemma2": ENCODER_DECODER,
    "udop": ENCODER_DECODER,
    "vision-encoder-decoder": ENCODER_DECODER,
}
"""Types that have no recipe, and why."""

PAIRS = "in transformers' own vision tower, an image has other features beside a second image than alone"

EXPLANATIONS = {
    "emu3": "its processor begins a prompt with a token that the chat template does not write",
    "got_ocr2": "its processor takes the pages of one document, not several images",
    "granite_docling": "it scales its logits after the output embeddings, so the trainer's loss would differ",
    "hunyuan_vl": "its processor does not process an image apart from its conversation",
    "idefics2": "its processor does not define the text that stands for an image in a prompt",
    "minicpmv4_6": PAIRS,
    "minicpmv4_7": PAIRS,
    "mllama": "its images are not tokens of the prompt, but enter by cross-attention",
}
"""Why a type does not pass, where the failing check does not say it by itself."""
