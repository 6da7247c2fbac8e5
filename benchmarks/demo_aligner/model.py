"""The demo aligner: the demo checkpoint with a deeper text model and a head that classifies times."""

import torch
from transformers import (
    Qwen2Tokenizer,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
    Qwen3ASRProcessor,
)

from benchmarks.demo_aligner.template import CHAT_TEMPLATE
from deployments.served_model import DEMO_CHECKPOINT

CLASS_S = 0.08
CLASSES = 500  # 40 s; the released model has 5,000
LAYERS = 6  # of the text model; the demo checkpoint's three come first


def build_processor() -> Qwen3ASRProcessor:
    """The demo checkpoint's feature extractor and tokenizer, with the aligner's prompt."""
    return Qwen3ASRProcessor(
        feature_extractor=Qwen3ASRFeatureExtractor.from_pretrained(DEMO_CHECKPOINT),
        tokenizer=Qwen2Tokenizer.from_pretrained(DEMO_CHECKPOINT),
        chat_template=CHAT_TEMPLATE,
    )


def build_model() -> Qwen3ASRForTokenClassification:
    """An aligner whose weights are the demo checkpoint's where it has them.

    The further layers of the text model begin as the identity: what the first ones give is not lost.
    """
    recognizer = Qwen3ASRForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)
    model = Qwen3ASRForTokenClassification(_config(recognizer.config))
    weights = {name: weight for name, weight in recognizer.state_dict().items() if name != "lm_head.weight"}
    loaded = model.load_state_dict(weights, strict=False)
    if loaded.unexpected_keys:
        raise RuntimeError(f"{DEMO_CHECKPOINT} is of another model: {loaded.unexpected_keys}")
    with torch.no_grad():
        for layer in model.model.language_model.layers[recognizer.config.text_config.num_hidden_layers :]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


def _config(recognizer: Qwen3ASRConfig) -> Qwen3ASRConfig:
    text = recognizer.text_config.to_dict()
    text.pop("layer_types")  # one for each layer: made anew
    return Qwen3ASRConfig(
        audio_config=recognizer.audio_config.to_dict(),
        text_config={**text, "num_hidden_layers": LAYERS},
        audio_token_id=recognizer.audio_token_id,
        timestamp_token_id=recognizer.timestamp_token_id,
        pad_token_id=recognizer.pad_token_id,
        eos_token_id=recognizer.eos_token_id,
        num_labels=CLASSES,
        token_classification_bias=False,
    )
